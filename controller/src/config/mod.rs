//! The command line and environment: every setting once, checked as a whole before anything is opened.
//!
//! Each flag is also an environment variable, `KTHENA_` and the flag's name. Sizes are in bytes. What must always hold:
//! a combination that cannot work is refused with a sentence that says what to do.

mod duration;
mod flags;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use duration::duration;
pub use flags::LogFormat;
use flags::{Kubernetes, Leader, Peers, Scrape, State};

use crate::envoy;
use crate::leader;
use crate::observe;
use crate::peers;
use crate::publish::{self, Access, AccessError, Address, Bounds, PeerBounds, Timeouts, Tls};
use crate::requests;
use crate::source::folder::FolderConfig;
use crate::source::kubernetes;

/// How long a stream without a subscriber may stay open.
const LONGEST_HELLO: Duration = Duration::from_secs(5);

/// Watches model routes, model servers and their pods, and tells Envoy and its filters where requests may go.
#[derive(Clone, Debug, Parser)]
#[command(name = "kthena-controller", version, about, max_term_width = 120)]
pub struct Config {
    /// Folder of manifests (ModelRoute, ModelServer, Pod, ...; YAML or JSON), watched for changes. Without it, objects come
    /// from a Kubernetes API server.
    #[arg(long, env = "KTHENA_FOLDER", value_name = "DIR", conflicts_with_all = ["kubeconfig", "context", "namespaces"])]
    folder: Option<PathBuf>,

    /// Time between looks at the folder that no change asked for.
    #[arg(long, env = "KTHENA_FOLDER_RESCAN", default_value = "5s", value_parser = duration, value_name = "TIME")]
    folder_rescan: Duration,

    /// Files read of the folder.
    #[arg(long, env = "KTHENA_FOLDER_MAX_FILES", default_value_t = 10_000)]
    folder_max_files: usize,

    /// Bytes read of a file: a larger one is not read.
    #[arg(long, env = "KTHENA_FOLDER_MAX_FILE_BYTES", default_value_t = 16 * 1024 * 1024)]
    folder_max_file_bytes: u64,

    /// Documents read of all files together.
    #[arg(long, env = "KTHENA_FOLDER_MAX_DOCUMENTS", default_value_t = 50_000)]
    folder_max_documents: usize,

    /// Router configuration file with the global scheduling profile, in Kthena's form. Default: the profile of Kthena's
    /// Helm chart.
    #[arg(long, env = "KTHENA_SCHEDULER_CONFIG", value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,

    /// Retries of a ModelServer whose trafficPolicy does not say.
    #[arg(long, env = "KTHENA_DEFAULT_RETRY_ATTEMPTS", default_value_t = 2)]
    pub default_retry_attempts: u32,

    /// Folder for Envoy's cluster and endpoint files (cds.json, eds/). Without it none are written.
    #[arg(long, env = "KTHENA_ENVOY_DIR", value_name = "DIR")]
    pub envoy_dir: Option<PathBuf>,

    /// How long Envoy may take to read its files: decisions name a new endpoint only after it.
    #[arg(long, env = "KTHENA_ENVOY_LAG", default_value = "50ms", value_parser = duration, value_name = "TIME")]
    pub envoy_lag: Duration,

    /// How long filters may take to give up an endpoint before it is removed from Envoy all the same.
    #[arg(long, env = "KTHENA_ENVOY_REMOVAL_TIMEOUT", default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub envoy_removal_timeout: Duration,

    #[command(flatten)]
    kubernetes: Kubernetes,

    #[command(flatten)]
    leader: Leader,

    #[command(flatten)]
    state: State,

    #[command(flatten)]
    peers: Peers,

    #[command(flatten)]
    scrape: Scrape,

    /// Address for /metrics, /healthz and /readyz.
    #[arg(
        long,
        env = "KTHENA_ADMIN_LISTEN",
        default_value = "127.0.0.1:9912",
        value_name = "IP:PORT"
    )]
    pub admin_listen: SocketAddr,

    /// Address for the pages under /debug: loopback only.
    #[arg(
        long,
        env = "KTHENA_DEBUG_LISTEN",
        default_value = "127.0.0.1:9913",
        value_name = "IP:PORT"
    )]
    pub debug_listen: SocketAddr,

    /// Form of the log.
    #[arg(long, env = "KTHENA_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged: a level, or directives such as `info,kthena_controller=debug`.
    #[arg(
        long,
        env = "KTHENA_LOG",
        default_value = "info,kube_runtime=error",
        value_name = "FILTER"
    )]
    pub log: String,

    /// Threads for everything but watching the folder.
    #[arg(long, env = "KTHENA_THREADS", default_value_t = 1)]
    pub threads: usize,

    /// How long the end may take after SIGTERM.
    #[arg(long, env = "KTHENA_STOP_TIMEOUT", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub stop_timeout: Duration,
}

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of manifests.
    Folder(FolderConfig),
    /// A Kubernetes API server.
    Kubernetes(kubernetes::Target, kubernetes::Settings),
}

/// Settings that do not go together.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Where the state service listens, or for whom.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Half a certificate.
    #[error("--state-tls-cert and --state-tls-key go together: give both or neither")]
    HalfTls,
    /// Client authorities without a certificate of our own.
    #[error("--state-client-ca needs --state-tls-cert and --state-tls-key")]
    CaWithoutTls,
    /// Other controllers cannot be told apart from strangers.
    #[error(
        "--peers needs --peer-ca or --state-client-ca beside --state-tls-cert: by what are their certificates known?"
    )]
    PeersWithoutCa,
    /// Authorities or a name for connections without TLS.
    #[error("--peer-ca and --peer-server-name need --state-tls-cert and --state-tls-key")]
    PeersWithoutTls,
    /// Other controllers cannot call.
    #[error("--peers needs --state-listen with ip:port: other controllers cannot reach a Unix socket")]
    PeersOnSocket,
    /// The debug pages can be reached by others.
    #[error("--debug-listen {0} can be reached from other machines: the debug pages may only listen on loopback")]
    Debug(SocketAddr),
    /// A setting that must be above zero.
    #[error("--{0} must be more than 0")]
    Zero(&'static str),
    /// Two could lead at one time, or none for long.
    #[error(
        "--leader-elect-lease-duration must be more than --leader-elect-renew-deadline, and that more than \
         --leader-elect-retry-period"
    )]
    Leader,
    /// A scrape may take too long.
    #[error("--scrape-timeout {timeout:?} is more than ten times --scrape-interval {interval:?}: lower it")]
    ScrapeTimeout {
        /// The timeout.
        timeout: Duration,
        /// The interval.
        interval: Duration,
    },
}

// === impl Config ===

impl Config {
    /// Checks everything that no single flag can tell.
    ///
    /// # Errors
    /// The first combination found that cannot work.
    pub fn check(&self) -> Result<(), Invalid> {
        self.access()?.check(&self.state_address()?)?;
        self.peers()?;
        if !self.debug_listen.ip().to_canonical().is_loopback() {
            return Err(Invalid::Debug(self.debug_listen));
        }
        for (name, zero) in [
            ("threads", self.threads == 0),
            ("folder-rescan", self.folder_rescan.is_zero()),
            ("watch-page", self.kubernetes.watch_page == 0),
            ("watch-retry", self.kubernetes.watch_retry.is_zero()),
            (
                "leader-elect-retry-period",
                self.leader.leader_elect_retry_period.is_zero(),
            ),
            ("state-max-subscribers", self.state.state_max_subscribers == 0),
            ("state-max-origins", self.state.state_max_origins == 0),
            ("state-max-metric-series", self.state.state_max_metric_series == 0),
            ("state-max-counted-origins", self.state.state_max_counted_origins == 0),
            ("state-tick", self.state.state_tick.is_zero()),
            ("state-timeout", self.state.state_timeout.is_zero()),
            ("peer-lookup-interval", self.peers.peer_lookup_interval.is_zero()),
            ("peer-timeout", self.peers.peer_timeout.is_zero()),
            ("max-peers", self.peers.max_peers == 0),
            ("peer-max-origins", self.peers.peer_max_origins == 0),
            ("peer-max-resources", self.peers.peer_max_resources == 0),
            ("scrape-interval", self.scrape.scrape_interval.is_zero()),
            ("scrape-timeout", self.scrape.scrape_timeout.is_zero()),
            ("scrape-models-interval", self.scrape.scrape_models_interval.is_zero()),
            ("scrape-down-after", self.scrape.scrape_down_after == 0),
            ("scrape-max-in-flight", self.scrape.scrape_max_in_flight == 0),
        ] {
            if zero {
                return Err(Invalid::Zero(name));
            }
        }
        let leader = &self.leader;
        let (duration, deadline) = (leader.leader_elect_lease_duration, leader.leader_elect_renew_deadline);
        if duration <= deadline || deadline <= leader.leader_elect_retry_period {
            return Err(Invalid::Leader);
        }
        let (timeout, interval) = (self.scrape.scrape_timeout, self.scrape.scrape_interval);
        if timeout > interval.saturating_mul(10) {
            return Err(Invalid::ScrapeTimeout { timeout, interval });
        }
        Ok(())
    }

    /// Where objects come from.
    pub fn source(&self) -> Source {
        let Some(path) = &self.folder else {
            return Source::Kubernetes(self.kubernetes.target(), self.kubernetes.settings());
        };
        Source::Folder(FolderConfig {
            path: path.clone(),
            rescan: self.folder_rescan,
            max_files: self.folder_max_files,
            max_file_bytes: self.folder_max_file_bytes,
            max_documents: self.folder_max_documents,
        })
    }

    /// Which Lease is to be held by whoever writes status and events; `None` = whoever runs does. A Lease without a namespace of its own
    /// is in `namespace`.
    pub fn leader(&self, namespace: &str, identity: String) -> Option<leader::Settings> {
        let leader = &self.leader;
        leader.leader_elect.then(|| leader::Settings {
            namespace: leader
                .leader_elect_resource_namespace
                .as_deref()
                .unwrap_or(namespace)
                .to_owned(),
            name: leader.leader_elect_resource_name.clone(),
            identity,
            duration: leader.leader_elect_lease_duration,
            renew_deadline: leader.leader_elect_renew_deadline,
            retry: leader.leader_elect_retry_period,
        })
    }

    /// Where the state service listens.
    ///
    /// # Errors
    /// The text is no address.
    pub fn state_address(&self) -> Result<Address, AccessError> {
        self.state.state_listen.parse()
    }

    /// How filters prove themselves.
    ///
    /// # Errors
    /// Certificate, key and authorities do not go together.
    pub fn access(&self) -> Result<Access, Invalid> {
        let state = &self.state;
        let tls = match (&state.state_tls_cert, &state.state_tls_key) {
            (Some(cert), Some(key)) => Some(Tls {
                cert: cert.clone(),
                key: key.clone(),
                client_ca: state.state_client_ca.clone(),
            }),
            (None, None) if state.state_client_ca.is_some() => return Err(Invalid::CaWithoutTls),
            (None, None) => None,
            _ => return Err(Invalid::HalfTls),
        };
        Ok(Access {
            tls,
            token_file: state.state_token_file.clone(),
            scopes: state.state_scope.clone(),
            peer_names: self.peer_names(),
        })
    }

    /// What the certificate of another controller may be for.
    fn peer_names(&self) -> Vec<String> {
        match &self.peers.peer_server_name {
            Some(name) => vec![name.clone()],
            None => self.peers.peers.iter().map(|place| place.host.clone()).collect(),
        }
    }

    /// How other controllers are found and followed.
    ///
    /// # Errors
    /// They could not prove themselves, or not call.
    pub fn peers(&self) -> Result<peers::Settings, Invalid> {
        let (flags, state) = (&self.peers, &self.state);
        let own_port = match self.state_address()? {
            Address::Tcp(address) => address.port(),
            Address::Unix(_) if flags.peers.is_empty() => 0,
            Address::Unix(_) => return Err(Invalid::PeersOnSocket),
        };
        let tls = match (&state.state_tls_cert, &state.state_tls_key) {
            _ if flags.peers.is_empty() => None,
            (Some(cert), Some(key)) => {
                let ca = flags.peer_ca.as_ref().or(state.state_client_ca.as_ref());
                Some(peers::Credentials {
                    ca: ca.ok_or(Invalid::PeersWithoutCa)?.clone(),
                    cert: cert.clone(),
                    key: key.clone(),
                    server_name: flags.peer_server_name.clone(),
                })
            }
            _ if flags.peer_ca.is_some() || flags.peer_server_name.is_some() => return Err(Invalid::PeersWithoutTls),
            _ => None,
        };
        Ok(peers::Settings {
            places: flags.peers.clone(),
            tls,
            token_file: state.state_token_file.clone(),
            own_port,
            lookup: flags.peer_lookup_interval,
            timeout: flags.peer_timeout,
            max: flags.max_peers,
        })
    }

    /// Settings of the state service.
    pub fn publish(&self) -> publish::Settings {
        let state = &self.state;
        publish::Settings {
            max_subscribers: state.state_max_subscribers,
            reports: Bounds {
                max_origins: state.state_max_origins,
                max_peer_origins: self.peers.peer_max_origins,
                max_entries: state.state_max_report_entries,
                lost_after_ms: millis(state.state_lost_after),
            },
            placements_bytes: state.state_placement_bytes,
            max_settlements: state.state_max_settlements,
            // Four pushes an interval: a sample is at most a quarter of it older than it need be.
            sample_wait_ms: millis(self.scrape.scrape_interval) / 4,
            ack_timeout_ms: millis(state.state_timeout),
            requests: requests::Bounds {
                max_series: state.state_max_metric_series,
                max_origins: state.state_max_counted_origins,
            },
            peers: PeerBounds {
                max_followers: self.peers.max_peers,
                max_endpoints: self.scrape.scrape_max_targets,
                max_resources: self.peers.peer_max_resources,
            },
        }
    }

    /// Times of the state service.
    pub fn state_timeouts(&self) -> Timeouts {
        Timeouts {
            hello: self.state.state_timeout.min(LONGEST_HELLO),
            send: self.state.state_timeout,
            tick: self.state.state_tick,
        }
    }

    /// Settings of observation.
    pub fn observe(&self) -> observe::Settings {
        let scrape = &self.scrape;
        observe::Settings {
            interval: scrape.scrape_interval,
            timeout: scrape.scrape_timeout,
            models_interval: scrape.scrape_models_interval,
            down_after: scrape.scrape_down_after,
            max_bytes: scrape.scrape_max_bytes,
            max_in_flight: scrape.scrape_max_in_flight,
            max_targets: scrape.scrape_max_targets,
        }
    }

    /// Times of a change. Where Envoy's files are not ours, nobody waits for them.
    pub fn rollout(&self) -> envoy::Settings {
        envoy::Settings {
            lag_ms: if self.envoy_dir.is_some() {
                millis(self.envoy_lag)
            } else {
                0
            },
            answer_ms: millis(self.envoy_removal_timeout),
        }
    }

    /// How long the first state waits for the first answers of the endpoints: those that answer do so within a scrape.
    pub fn first_state_wait(&self) -> Duration {
        self.scrape.scrape_timeout.saturating_mul(2)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, clap::Error> {
        Config::try_parse_from(["kthena-controller", "--folder", "x"].iter().chain(flags))
    }

    #[test]
    fn the_defaults_work_and_what_is_unknown_is_refused() {
        assert!(parse(&[]).unwrap().check().is_ok());
        assert!(parse(&["--scrape-interval", "1"]).is_err());
        assert!(parse(&["--unknown", "1"]).is_err());
        let error = parse(&["--peers", "a:1,b"]).unwrap_err().to_string();
        assert!(error.contains("host:port"), "{error}");
        assert!(
            parse(&["--peer-server-name", "a"]).is_err(),
            "without --peers it does nothing"
        );
        let error = parse(&["--state-scope", "filter"]).unwrap_err().to_string();
        assert!(error.contains("NAME=NAMESPACES"), "{error}");
    }

    #[test]
    fn objects_come_from_a_folder_or_from_an_api_server() {
        let parse = |flags: &[&str]| Config::try_parse_from(["kthena-controller"].iter().chain(flags));
        assert!(matches!(parse(&["--folder", "x"]).unwrap().source(), Source::Folder(_)));
        let Source::Kubernetes(target, settings) =
            parse(&["--namespaces", "a,b", "--kubeconfig", "k"]).unwrap().source()
        else {
            unreachable!("there is no folder")
        };
        assert_eq!(target.kubeconfig, Some("k".into()));
        assert_eq!(settings.namespaces, ["a", "b"]);
        let error = parse(&["--folder", "x", "--kubeconfig", "k"]).unwrap_err().to_string();
        assert!(error.contains("--folder") && error.contains("--kubeconfig"), "{error}");
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_a_sentence() {
        for (flags, says) in [
            (&["--state-listen", "0.0.0.0:1"][..], "--state-token-file"),
            (&["--state-listen", "localhost:1"], "ip:port"),
            (&["--state-tls-cert", "a"], "both"),
            (&["--state-client-ca", "a"], "--state-tls-cert"),
            (&["--state-token-file", "/does/not/exist"], "/does/not/exist"),
            (&["--state-scope", "filter=team"], "--state-client-ca"),
            (&["--debug-listen", "0.0.0.0:1"], "loopback"),
            (&["--scrape-timeout", "11s"], "--scrape-interval"),
            (&["--scrape-interval", "0s"], "more than 0"),
            (&["--watch-page", "0"], "more than 0"),
            (&["--peer-max-origins", "0"], "more than 0"),
            (&["--peer-max-resources", "0"], "more than 0"),
            (&["--peers", "a:1", "--state-listen", "unix:/a"], "--state-listen"),
            (&["--peers", "a:1", "--peer-ca", "a"], "--state-tls-cert"),
            (
                &["--leader-elect-renew-deadline", "9s"],
                "--leader-elect-lease-duration",
            ),
        ] {
            let error = parse(flags).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(says), "{flags:?}: {error}");
        }
    }
}
