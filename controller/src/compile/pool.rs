//! An InferencePool with its pods: its endpoints, as filters receive them.
//!
//! A pod is an endpoint for each target port of the pool. Nothing is observed of a pool's pods but what their containers tell, unless a
//! ModelServer selects them as well; there is no cluster for them, as a gateway of its own sends requests there.

use kthena_gateway_api::InferencePool;
use kthena_scheduler::state::proto::ResourceType;

use super::facts::Facts;
use super::output::CompiledResource;
use super::server::{endpoint, message};
use crate::index::{Eligibility, Index};
use crate::source::ObjectKey;

/// The endpoints of a pool are named by this and `namespace/name`, and so never like those of a ModelServer.
const PREFIX: &str = "inference-pool/";

/// Compiles a pool.
pub(super) fn compile(key: &ObjectKey, pool: &InferencePool, index: &Index, facts: &Facts) -> CompiledResource {
    let mut endpoints = Vec::new();
    for pod in index.pods(&key.namespace, &pool.spec.selector.match_labels) {
        let Eligibility::Ready(ip) = pod.eligibility else {
            continue;
        };
        let ports = pool.spec.target_ports.iter();
        for port in ports.filter_map(|port| u16::try_from(port.number).ok()) {
            endpoints.push(endpoint(pod, ip, port, facts));
        }
    }
    endpoints.sort_by_key(|endpoint| endpoint.id);
    // A port that is listed twice is one endpoint.
    endpoints.dedup_by_key(|endpoint| endpoint.id);
    let name = format!("{PREFIX}{}", key.full_name());
    CompiledResource::new(ResourceType::Endpoints, &name, &message(&endpoints, facts))
}
