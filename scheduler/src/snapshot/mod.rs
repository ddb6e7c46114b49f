//! The immutable, compiled configuration that a decision reads.
//!
//! Built by `state` from accepted resources; a shell publishes it behind one atomic pointer. What must always hold: every
//! name in it is resolved (a rule's target is a ModelServer here, or known to be absent), regexes are compiled, profiles
//! are checked. One decision uses one snapshot; after it, only the chosen parts stay referenced.

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::load::Slot;
use crate::profile::Profile;
use crate::routing::RouteTable;

/// Identity of an endpoint on the wire and in every hash that replicas must agree on: a pod UID, a port and an
/// incarnation, as XXH3-64 of `uid/port/incarnation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u64);

/// One port of one start of one pod.
#[derive(Debug)]
pub struct Endpoint {
    /// Its identity.
    pub id: EndpointId,
    /// Where its load is kept: shared with the earlier and later forms of the same endpoint (its models may change).
    pub slot: Arc<Slot>,
    /// `ip:port`, IPv6 in brackets.
    pub address: Box<str>,
    /// `namespace/name` of the pod.
    pub pod: Box<str>,
    /// What the engine lists under `/v1/models`, base and adapters; empty = not known.
    pub models: Vec<Box<str>>,
    /// Tokens that its KV cache holds; `None` = not known.
    pub kv_capacity_tokens: Option<u64>,
}

/// The engine a ModelServer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
}

/// Envoy's retries for a ModelServer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Tries after the first.
    pub attempts: u32,
    /// Base of the back-off between tries, milliseconds.
    pub interval_ms: u64,
}

/// A ModelServer with the endpoints that serve it now.
#[derive(Debug)]
pub struct ModelServer {
    /// `namespace/name`.
    pub name: Box<str>,
    /// The served name that replaces the request's `model`; `None` leaves it alone.
    pub model: Option<Box<str>>,
    /// What runs in its pods.
    pub engine: Engine,
    /// The Envoy cluster that holds its endpoints.
    pub cluster: Box<str>,
    /// Per try, until the answer's headers, milliseconds; `None` = unbounded.
    pub timeout_ms: Option<u64>,
    /// Envoy's retries.
    pub retry: Retry,
    /// What decides among its endpoints.
    pub profile: Arc<Profile>,
    /// Sorted by identity, so that no decision depends on the order of arrival.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The slot index of each endpoint, side by side for the scoring loops.
    pub slots: Vec<u32>,
}

impl ModelServer {
    /// Hash of the name: part of every prefix key, so that two ModelServers never share residency.
    pub fn identity(&self) -> u64 {
        twox_hash::XxHash3_64::oneshot(self.name.as_bytes())
    }
}

/// The whole configuration at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Which ModelRoute serves which model name.
    pub routes: RouteTable,
    /// All ModelServers, sorted by name.
    pub servers: Vec<Arc<ModelServer>>,
    /// The size of a prompt block in bytes, as the default profile's prefix-cache says: one for the whole process,
    /// since prompts are hashed before their route is known.
    pub block_bytes: NonZeroU32,
}

impl Snapshot {
    /// The ModelServer of this `namespace/name`.
    pub fn server(&self, name: &str) -> Option<&Arc<ModelServer>> {
        self.servers
            .binary_search_by(|server| (*server.name).cmp(name))
            .ok()
            .map(|at| &self.servers[at])
    }
}
