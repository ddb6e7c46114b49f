//! The faults of one endpoint that the way a request is handled depends on.
//!
//! Faults of reach (refuse, die) are the listener's, and a hang also stops the engine's clock; see `endpoint`.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A fault to switch on, as the control API takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Connections are accepted and nothing is answered, streams under way stand still, until it is cleared.
    Hang,
    /// Steps take `factor` times as long, and answers to `POST` begin `delay_ms` later.
    Slow {
        /// At least 0.01; 1 changes nothing.
        #[serde(default = "one")]
        factor: f64,
        /// Milliseconds.
        #[serde(default)]
        delay_ms: u64,
    },
    /// The listener is closed, so that new connections are refused; those that are open go on.
    Refuse,
    /// All connections are reset, new ones refused; engine and cache are gone. Clearing it is the restart.
    Die,
    /// `POST` is answered by an error.
    Error {
        /// 500 to 599.
        status: u16,
        /// Share of the requests that fail, 0 to 1, spread evenly.
        #[serde(default = "one")]
        share: f64,
    },
    /// `GET /metrics` says what it said when the fault began.
    FrozenMetrics,
}

fn one() -> f64 {
    1.0
}

impl Fault {
    /// Why the fault cannot be switched on, if so.
    pub(crate) fn refusal(&self) -> Option<String> {
        match self {
            Self::Slow { factor, .. } if !(0.01..=1e6).contains(factor) => {
                Some(format!("factor must be 0.01 to 1000000, not {factor}"))
            }
            Self::Slow { delay_ms, .. } if *delay_ms > 3_600_000 => {
                Some(format!("delay_ms must be at most an hour (3600000), not {delay_ms}"))
            }
            Self::Error { status, .. } if !(500..=599).contains(status) => {
                Some(format!("status must be 500 to 599, not {status}"))
            }
            Self::Error { share, .. } if !(0.0..=1.0).contains(share) => {
                Some(format!("share must be 0 to 1, not {share}"))
            }
            _ => None,
        }
    }
}

/// An error to answer with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Failing {
    /// The status.
    pub(crate) status: u16,
    /// Share of the requests.
    pub(crate) share: f64,
    /// What is owed: grows by `share` with every request, and a request fails when it reaches one.
    owed: f64,
}

impl Failing {
    /// None of the requests has failed yet.
    pub(crate) fn new(status: u16, share: f64) -> Self {
        Self {
            status,
            share,
            owed: 0.0,
        }
    }

    /// The status for the next request, if it is to fail.
    pub(crate) fn next(&mut self) -> Option<u16> {
        self.owed += self.share;
        // Shares such as 0.1 are not exact in binary; ten of them still make one.
        if self.owed < 1.0 - 1e-9 {
            return None;
        }
        self.owed -= 1.0;
        Some(self.status)
    }
}

/// What is switched on.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Added before an answer begins.
    pub(crate) delay: Duration,
    /// Errors instead of answers.
    pub(crate) failing: Option<Failing>,
    /// The metrics that stand still.
    pub(crate) frozen_metrics: Option<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_spread_evenly() {
        let mut failing = Failing::new(503, 0.1);
        let failed: Vec<bool> = (0..100).map(|_| failing.next().is_some()).collect();
        assert_eq!(failed.iter().filter(|failed| **failed).count(), 10);
        assert!(
            failed
                .chunks(10)
                .all(|ten| ten.iter().filter(|failed| **failed).count() == 1)
        );
    }

    #[test]
    fn a_fault_says_what_is_wrong_with_it() {
        let refusal = |json: &str| serde_json::from_str::<Fault>(json).unwrap().refusal();
        assert_eq!(refusal(r#"{"kind":"error","status":503}"#), None);
        assert_eq!(
            refusal(r#"{"kind":"error","status":404}"#).unwrap(),
            "status must be 500 to 599, not 404"
        );
        assert!(refusal(r#"{"kind":"slow","factor":0}"#).unwrap().starts_with("factor"));
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"error","status":503,"shar":1}"#).is_err());
    }
}
