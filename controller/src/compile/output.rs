//! What a compilation gives.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use kthena_gateway_api::InferenceEngine;
use kthena_scheduler::state::proto::ResourceType;

use super::cluster::Cluster;
use crate::source::ObjectKey;
use crate::status::Status;

/// Everything that follows from the objects and the facts at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// For the filters, sorted by type and name.
    pub resources: Vec<CompiledResource>,
    /// For Envoy, sorted by name.
    pub clusters: Vec<Arc<Cluster>>,
    /// Whom to observe, sorted by pod and port; one entry a port of a pod.
    pub targets: Vec<Arc<ScrapeTarget>>,
    /// What is to be said of each object, sorted by key. Pods have none.
    pub statuses: Vec<(ObjectKey, Arc<Status>)>,
}

/// One resource of the state protocol, serialised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledResource {
    /// Its type.
    pub kind: ResourceType,
    /// `namespace/name`, or "default" for the global profile.
    pub name: Arc<str>,
    /// XXH3-64 of the body.
    pub version: u64,
    /// The protobuf message of the type.
    pub body: Bytes,
}

impl CompiledResource {
    pub(super) fn new(kind: ResourceType, name: &str, message: &impl prost::Message) -> Self {
        let body = Bytes::from(message.encode_to_vec());
        Self {
            kind,
            name: Arc::from(name),
            version: twox_hash::XxHash3_64::oneshot(&body),
            body,
        }
    }
}

/// A port of a pod that is to be observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeTarget {
    /// The pod's UID; `namespace/name` where it has none.
    pub uid: String,
    /// The port.
    pub port: u16,
    /// The endpoint's identity in the state protocol: XXH3-64 of "uid/port/incarnation".
    pub endpoint: u64,
    /// Where it listens.
    pub address: SocketAddr,
    /// Names the start of the container that listens there; 0 = not known. Another one is to be asked anew.
    pub start: u64,
    /// `namespace/name` of the pod.
    pub pod: String,
    /// What runs there.
    pub engine: InferenceEngine,
    /// It speaks TLS.
    pub https: bool,
    /// `namespace/name` of every ModelServer that it is an endpoint of, sorted.
    pub servers: Vec<String>,
}
