//! How fast the control plane is, and how large it gets, on a real API server.
//!
//! [`reach`]: how long after a change of a pod every filter has followed, with real model servers, real ext_proc servers and a real Envoy.
//! [`scale`]: the controller among many objects: its first sync, its memory, what one change costs it, and what it does when nothing happens.
//!
//! What must always hold: time is counted from before the API server is told until the answer of a filter that has followed, so nothing is
//! left out; a change that no filter follows within its deadline, and a request that is not answered, fail the run.

mod asker;
mod change;
mod fill;
mod filter;
pub mod reach;
pub mod scale;
mod spread;

use serde_json::Value;

use super::report::Verdict;

/// What a part of the measurement found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// For people.
    pub table: String,
    /// For machines: one JSON object a case.
    pub lines: Vec<Value>,
    /// Figures beside their targets.
    pub verdicts: Vec<Verdict>,
    /// Requests that were not answered as expected.
    pub errors: u64,
}
