//! What a compilation gives.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use imbl::OrdMap;
use kthena_gateway_api::InferenceEngine;
use kthena_scheduler::state::proto::ResourceType;

use super::cluster::Cluster;
use super::facts::EndpointKey;
use crate::source::ObjectKey;
use crate::status::Status;

/// Everything that follows from the objects and the facts at one moment. Two of them share what is the same in both, so that they are cheap to
/// keep and to compare.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// For the filters.
    pub resources: Resources,
    /// For Envoy, by name.
    pub clusters: OrdMap<Arc<str>, Arc<Cluster>>,
    /// Whom to observe; one entry a port of a pod.
    pub targets: OrdMap<EndpointKey, Arc<ScrapeTarget>>,
    /// What is to be said of each object. Pods have none.
    pub statuses: OrdMap<ObjectKey, Arc<Status>>,
}

/// What a resource of the state protocol is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its type.
    pub kind: ResourceType,
    /// `namespace/name`, or "default" for the global profile.
    pub name: Arc<str>,
}

/// A resource of the state protocol, serialised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// What it is called.
    pub key: Key,
    /// XXH3-64 of the body.
    pub version: u64,
    /// The protobuf message of the type, shared by all subscribers.
    pub body: Bytes,
}

/// Resources by key.
pub type Resources = OrdMap<Key, Resource>;

/// Resources by key; of several with one key the last.
pub fn by_key(resources: impl IntoIterator<Item = Resource>) -> Resources {
    let keyed = |resource: Resource| (resource.key.clone(), resource);
    resources.into_iter().map(keyed).collect()
}

impl Key {
    /// A key from its parts.
    pub fn new(kind: ResourceType, name: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }
}

impl Resource {
    /// Encodes a message as a resource; its version follows from its content.
    pub fn encode(key: Key, message: &impl prost::Message) -> Self {
        let body = Bytes::from(message.encode_to_vec());
        Self {
            key,
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
