//! The flags of `kthena-ext-proc`: few, fixed for the life of the process. What changes while it runs comes as state.
//!
//! What must always hold: everything is checked before a port is bound, unknown flags are refused, and each message says
//! what would be right. A flag can be given by an environment variable as well (see `--help`).

mod values;

pub use values::{Listen, Switch};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use kthena_scheduler::exchange::{Settings, WhenNoState, WhenSaturated};

use crate::state::{ConnectError, Controller, Credentials, Sizes};

/// Decides for Envoy where each inference request goes.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "kthena-ext-proc",
    version,
    about,
    max_term_width = 110,
    after_help = "`kthena-ext-proc check-envoy` compares a running Envoy with the settings that this program depends on."
)]
pub struct Config {
    /// Where Envoy connects.
    #[command(flatten)]
    pub serve: Serve,
    /// Where the state comes from.
    #[command(flatten)]
    pub state: Source,
    /// What is done with requests.
    #[command(flatten)]
    pub requests: Requests,
    /// What the process keeps at most.
    #[command(flatten)]
    pub bounds: Bounds,
    /// What it tells about itself.
    #[command(flatten)]
    pub telemetry: Telemetry,
}

/// Compares a running Envoy with the settings that this program depends on; exit code 1 when they differ.
#[derive(Clone, Debug, Parser)]
#[command(name = "kthena-ext-proc check-envoy", version)]
pub struct CheckEnvoy {
    /// Envoy's admin interface.
    #[arg(long, default_value = "http://127.0.0.1:9901", value_name = "URL")]
    pub admin: String,
}

/// Where Envoy and operators connect.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Serving")]
pub struct Serve {
    /// Where gRPC is served: ip:port or unix:/path. May be repeated.
    #[arg(
        long,
        env = "KTHENA_LISTEN",
        value_delimiter = ',',
        default_value = "127.0.0.1:9002",
        value_name = "ADDRESS"
    )]
    pub listen: Vec<Listen>,
    /// Certificate chain (PEM) for TLS on the TCP listeners.
    #[arg(long, env = "KTHENA_TLS_CERT", requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Key (PEM) of the certificate.
    #[arg(long, env = "KTHENA_TLS_KEY", requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(
        long,
        env = "KTHENA_ADMIN_LISTEN",
        default_value = "127.0.0.1:9090",
        value_name = "IP:PORT"
    )]
    pub admin_listen: SocketAddr,
    /// Where the debug pages are served, on loopback only. Not served when left out.
    #[arg(long, env = "KTHENA_DEBUG_LISTEN", value_parser = values::loopback, value_name = "IP:PORT")]
    pub debug_listen: Option<SocketAddr>,
    /// How long a stopping process says so before it takes no more requests: longer than the interval of health checks.
    #[arg(long, env = "KTHENA_DRAIN_DELAY", default_value = "1s", value_parser = values::duration, value_name = "TIME")]
    pub drain_delay: Duration,
    /// How long a stopping process waits for the requests it has.
    #[arg(long, env = "KTHENA_DRAIN_TIMEOUT", default_value = "5m", value_parser = values::duration, value_name = "TIME")]
    pub drain_timeout: Duration,
    /// Threads that serve, each of them the connections that it was given; all cores when left out.
    #[arg(long, env = "KTHENA_WORKERS", value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub workers: Option<u16>,
}

/// Where the state comes from.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "State")]
pub struct Source {
    /// The controller: http://host:port, https://host:port or unix:/path. Several may be named, with commas between: when one is lost, the next is
    /// tried.
    #[arg(long, env = "KTHENA_STATE", value_name = "URL")]
    pub state: String,
    /// Authorities (PEM) that sign the controller's certificate.
    #[arg(long, env = "KTHENA_STATE_CA", value_name = "FILE")]
    pub state_ca: Option<PathBuf>,
    /// Our certificate (PEM), where the controller asks for one.
    #[arg(long, env = "KTHENA_STATE_CERT", requires = "state_key", value_name = "FILE")]
    pub state_cert: Option<PathBuf>,
    /// Key (PEM) of our certificate.
    #[arg(long, env = "KTHENA_STATE_KEY", requires = "state_cert", value_name = "FILE")]
    pub state_key: Option<PathBuf>,
    /// The name in the controller's certificate, where it is not the host of the URL.
    #[arg(long, env = "KTHENA_STATE_SERVER_NAME", value_name = "NAME")]
    pub state_server_name: Option<String>,
    /// File with a bearer token for the controller; read at each connection.
    #[arg(long, env = "KTHENA_STATE_TOKEN_FILE", value_name = "FILE")]
    pub state_token_file: Option<PathBuf>,
    /// Only what is in these namespaces is asked of the controller, with commas between them. Without it, all that it lets us see.
    #[arg(long, env = "KTHENA_NAMESPACES", value_delimiter = ',', value_parser = values::namespace, value_name = "NAMES")]
    pub namespaces: Vec<String>,
    /// File that keeps the last good state, so that a restarted process serves while the controller is away.
    #[arg(long, env = "KTHENA_STATE_CACHE", value_name = "FILE")]
    pub state_cache: Option<PathBuf>,
    /// How often changed counts are reported.
    #[arg(long, env = "KTHENA_REPORT_INTERVAL", default_value = "50ms", value_parser = values::duration, value_name = "TIME")]
    pub report_interval: Duration,
}

/// What is done with requests.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Requests")]
pub struct Requests {
    /// A host whose requests are routed; others pass untouched. May be repeated; all hosts when left out.
    #[arg(long, env = "KTHENA_HOST", value_delimiter = ',', value_parser = values::host, value_name = "NAME")]
    pub host: Vec<String>,
    /// The largest body accepted; a larger one is answered 413.
    #[arg(long, env = "KTHENA_MAX_BODY_BYTES", default_value = "16MiB", value_parser = values::bytes, value_name = "SIZE")]
    pub max_body_bytes: u64,
    /// How long a request is held while there is no state yet; then it is answered 503.
    #[arg(long, env = "KTHENA_STATE_WAIT", default_value = "5s", value_parser = values::duration, value_name = "TIME")]
    pub state_wait: Duration,
    /// What happens when the filters leave no endpoint: the least loaded serves, or the client gets 429.
    #[arg(long, env = "KTHENA_WHEN_SATURATED", value_enum, default_value = "serve")]
    pub when_saturated: Saturated,
    /// Whether a client may ask why its request went where it went (x-kthena-explain).
    #[arg(long, env = "KTHENA_EXPLAIN", value_enum, default_value = "off")]
    pub explain: Switch,
    /// Share of decisions whose explanation is logged.
    #[arg(long, env = "KTHENA_EXPLAIN_LOG_SHARE", default_value = "0", value_parser = values::share, value_name = "SHARE")]
    pub explain_log_share: f64,
    /// Whether usage is asked of the engine for streams whose client did not ask. Needs the response body.
    #[arg(long, env = "KTHENA_USAGE_INJECTION", value_enum, default_value = "off")]
    pub usage_injection: Switch,
    /// How long counts outlive the last access-log stream, when no other signal tells of a request's end.
    #[arg(long, env = "KTHENA_ACCESS_LOG_GRACE", default_value = "5s", value_parser = values::duration, value_name = "TIME")]
    pub access_log_grace: Duration,
}

/// What happens when the filters leave no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Saturated {
    /// The least loaded endpoint serves.
    Serve,
    /// The client gets 429.
    Reject,
}

/// What the process keeps at most.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Bounds")]
pub struct Bounds {
    /// Endpoints there is room for; further ones are left out and told.
    #[arg(long, env = "KTHENA_MAX_ENDPOINTS", default_value = "16384", value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub max_endpoints: u32,
    /// Memory of the prefix index.
    #[arg(long, env = "KTHENA_PREFIX_INDEX_BYTES", default_value = "256MiB", value_parser = values::bytes, value_name = "SIZE")]
    pub prefix_index_bytes: u64,
    /// Requests whose end is awaited from the access log; those beyond are counted as ended at once.
    #[arg(long, env = "KTHENA_MAX_IN_FLIGHT", default_value = "100000", value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub max_in_flight: u32,
    /// Requests that are held while there is no state yet; those beyond are answered 503 at once.
    #[arg(long, env = "KTHENA_MAX_HELD", default_value = "1000", value_name = "N")]
    pub max_held: u32,
    /// Placements and settlements that wait to be sent.
    #[arg(long, env = "KTHENA_MAX_OUTBOX", default_value = "10000", value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub max_outbox: u32,
    /// Kinds of requests that metrics tell apart; further ones are counted together.
    #[arg(long, env = "KTHENA_MAX_METRIC_SERIES", default_value = "2000", value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub max_metric_series: u32,
    /// The largest state file read or written.
    #[arg(long, env = "KTHENA_MAX_STATE_CACHE_BYTES", default_value = "64MiB", value_parser = values::bytes, value_name = "SIZE")]
    pub max_state_cache_bytes: u64,
}

/// What the process tells about itself.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Telemetry")]
pub struct Telemetry {
    /// What is logged: a level, or directives as `info,kthena_ext_proc=debug`.
    #[arg(long, env = "KTHENA_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
    /// The form of a line of the log.
    #[arg(long, env = "KTHENA_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Where spans are sent (OTLP over gRPC): http://host:port. Nothing is traced when left out.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Share of requests traced, of those whose client did not decide.
    #[arg(long, env = "KTHENA_TRACE_SHARE", default_value = "0.01", value_parser = values::share, value_name = "SHARE")]
    pub trace_share: f64,
    /// What happens to `traceparent` on its way to the model server: set to our span, or kept because Envoy traces.
    #[arg(long, env = "KTHENA_TRACE_HEADER", value_enum, default_value = "set")]
    pub trace_header: TraceHeader,
}

/// The form of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// What happens to `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceHeader {
    /// It names our span.
    Set,
    /// It stays as it came.
    Keep,
}

// === impl Config ===

impl Config {
    /// The sizes of the state that requests read.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            max_endpoints: self.bounds.max_endpoints,
            prefix_index_bytes: self.bounds.prefix_index_bytes,
            outbox: self.bounds.max_outbox as usize,
        }
    }
}

impl Source {
    /// The controller and what we show it.
    ///
    /// # Errors
    /// When URL and credentials do not fit together.
    pub fn controller(&self) -> Result<Controller, ConnectError> {
        let credentials = Credentials {
            ca: self.state_ca.clone(),
            identity: self.state_cert.clone().zip(self.state_key.clone()),
            token: self.state_token_file.clone(),
            server_name: self.state_server_name.clone(),
        };
        Controller::new(&self.state, credentials)
    }
}

impl Requests {
    /// The settings of every exchange.
    pub fn settings(&self) -> Settings {
        Settings {
            hosts: self.host.clone(),
            max_body_bytes: self.max_body_bytes,
            state_wait_ms: u64::try_from(self.state_wait.as_millis()).unwrap_or(u64::MAX),
            when_no_state: WhenNoState::Reject,
            when_saturated: match self.when_saturated {
                Saturated::Serve => WhenSaturated::Serve,
                Saturated::Reject => WhenSaturated::Reject,
            },
            explain: self.explain.is_on(),
            explain_below: (self.explain_log_share * u64::MAX as f64) as u64,
            // ext_proc can hold the head of every request.
            by_head: false,
            usage_injection: self.usage_injection.is_on(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, String> {
        let all = ["kthena-ext-proc", "--state", "http://127.0.0.1:9100"];
        Config::try_parse_from(all.iter().chain(flags)).map_err(|error| error.to_string())
    }

    #[test]
    fn little_needs_to_be_said() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.serve.listen, ["127.0.0.1:9002".parse().unwrap()]);
        assert_eq!(config.requests.settings().max_body_bytes, 16 << 20);
        assert!(config.serve.debug_listen.is_none() && config.state.controller().is_ok());
    }

    #[test]
    fn every_mistake_names_the_flag() {
        for (flags, told) in [
            (&["--lisen", "x"][..], "--lisen"),
            (&["--listen", "here"], "--listen"),
            (&["--debug-listen", "0.0.0.0:1"], "loopback"),
            (&["--tls-cert", "a"], "--tls-key"),
            (&["--namespaces", "team a"], "namespace"),
            (&["--trace-share", "2"], "0 to 1"),
            (&["--state-wait", "5"], "5s"),
            (&["--explain", "yes"], "on, off"),
        ] {
            let error = parse(flags).unwrap_err();
            assert!(error.contains(told), "{flags:?}: {error}");
        }
        assert!(
            Config::try_parse_from(["kthena-ext-proc"]).is_err(),
            "the controller must be named"
        );
    }

    #[test]
    fn lists_can_be_repeated_or_joined() {
        let config = parse(&[
            "--listen",
            "127.0.0.1:1,unix:/a",
            "--listen",
            "127.0.0.1:2",
            "--host",
            "A,b",
        ])
        .unwrap();
        assert_eq!(config.serve.listen.len(), 3);
        assert_eq!(config.requests.settings().hosts, ["a", "b"]);
    }
}
