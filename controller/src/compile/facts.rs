//! What was observed of the pods and belongs in configuration: it changes rarely, unlike load.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::index::PodView;

/// A port of a pod, before its incarnation is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    /// The pod's UID; `namespace/name` where it has none.
    pub uid: String,
    /// The port.
    pub port: u16,
}

impl EndpointKey {
    /// The identity of one start of the engine behind the port, as every program of the system computes it.
    pub fn endpoint_id(&self, incarnation: u64) -> u64 {
        let text = format!("{}/{}/{incarnation}", self.uid, self.port);
        twox_hash::XxHash3_64::oneshot(text.as_bytes())
    }
}

/// What the engine behind a port says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fact {
    /// Changes when the engine restarts; 0 = not known.
    pub incarnation: u64,
    /// What it lists under `/v1/models`, base and adapters; empty = not known.
    pub models: Vec<String>,
    /// Tokens that its KV cache holds; `None` = not known.
    pub kv_capacity_tokens: Option<u64>,
}

/// Which start of an engine it is, of what its container and the engine itself say; 0 = neither is known.
pub(super) fn incarnation(start: u64, fact: Option<&Arc<Fact>>) -> u64 {
    match (start, fact.map_or(0, |fact| fact.incarnation)) {
        (0, observed) => observed,
        (start, 0) => start,
        (start, observed) => twox_hash::XxHash3_64::oneshot(format!("{start}/{observed}").as_bytes()),
    }
}

/// Everything observed so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// By port of a pod. An entry without an endpoint is harmless.
    pub endpoints: BTreeMap<EndpointKey, Arc<Fact>>,
    /// Endpoints that are being asked for the first time. They are in Envoy and observed, but kept back from the filters:
    /// their incarnation is known in a moment, and would make other endpoints of them.
    pub pending: BTreeSet<EndpointKey>,
}

/// What has changed since the last compilation, of what is not compared.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// Pods as they were before a change, and as they are after it.
    pub pods: Vec<Arc<PodView>>,
    /// Endpoints of which something else is known now.
    pub endpoints: Vec<EndpointKey>,
}
