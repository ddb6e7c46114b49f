//! What the demo can be told: flags, each also an environment variable, so that `make demo` can pass them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::json;

use crate::system::Filter;

/// The replay takes at most this long, however much time there is.
const LONGEST_REPLAY: Duration = Duration::from_secs(45);

/// Time kept for the last answers, the decision explained, and the end.
const REST: Duration = Duration::from_secs(8);

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Decider {
    /// Two ext_proc servers, which Envoy asks.
    ExtProc,
    /// The wasm filter in Envoy.
    Wasm,
}

/// Runs the whole system on this machine: model servers, controller, whoever decides, and Envoy; shows what decisions are worth.
#[derive(Clone, Debug, Parser)]
#[command(name = "kthena-demo", version, about, max_term_width = 110)]
pub struct Settings {
    /// End by itself within this many seconds of being ready, 25 or more. Without it the system stays up until Ctrl-C.
    #[arg(long, env = "DEMO_SECONDS", value_parser = clap::value_parser!(u64).range(25..=86_400), value_name = "N")]
    seconds: Option<u64>,
    /// Port of Envoy on 127.0.0.1; 0 takes a free one.
    #[arg(long, env = "DEMO_PORT", default_value_t = 8080, value_name = "PORT")]
    port: u16,
    /// Who decides.
    #[arg(long, env = "FILTER", value_enum, default_value = "ext-proc")]
    filter: Decider,
}

impl Settings {
    /// Who decides.
    #[must_use]
    pub fn decider(&self) -> Decider {
        self.filter
    }

    /// How the system is told.
    #[must_use]
    pub fn filter(&self) -> Filter {
        match self.filter {
            Decider::ExtProc => Filter::ExtProc,
            Decider::Wasm => Filter::Wasm(json!({"explain": true})),
        }
    }

    /// How long the replay takes.
    #[must_use]
    pub fn replay(&self) -> Duration {
        match self.within() {
            Some(within) => within.saturating_sub(REST).min(LONGEST_REPLAY),
            None => LONGEST_REPLAY,
        }
    }

    /// The time from being ready to the end; `None` to stay up.
    #[must_use]
    pub fn within(&self) -> Option<Duration> {
        self.seconds.map(Duration::from_secs)
    }

    /// Where Envoy is to listen; `None` for any free port.
    ///
    /// # Errors
    /// When the port is in use; the error says what to do.
    pub fn listen(&self) -> Result<Option<SocketAddr>> {
        if self.port == 0 {
            return Ok(None);
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        match TcpListener::bind(address) {
            Ok(_) => Ok(Some(address)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
                "port {} is in use: run DEMO_PORT=0 make demo to take a free one, or end what listens there",
                self.port
            ),
            Err(error) => Err(error)
                .with_context(|| format!("cannot listen on {address}; choose another port: DEMO_PORT=0 make demo")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Settings, clap::Error> {
        Settings::try_parse_from(["kthena-demo"].iter().chain(flags))
    }

    #[test]
    fn the_replay_leaves_time_for_the_end() {
        let replay = |flags: &[&str]| parse(flags).unwrap().replay().as_secs();
        assert_eq!(replay(&["--seconds", "30"]), 22);
        assert_eq!(replay(&["--seconds", "3600"]), 45);
        assert_eq!(replay(&[]), 45);
        assert!(parse(&["--seconds", "5"]).is_err());
    }

    #[test]
    fn a_port_in_use_is_told_with_what_to_do() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port().to_string();
        let error = parse(&["--port", &port]).unwrap().listen().unwrap_err().to_string();
        assert!(error.contains(&port) && error.contains("DEMO_PORT"), "{error}");
        assert_eq!(parse(&["--port", "0"]).unwrap().listen().unwrap(), None);
    }
}
