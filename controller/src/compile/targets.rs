//! Whom to observe.

use std::collections::BTreeMap;

use kthena_gateway_api::InferenceEngine;

use super::facts::EndpointKey;
use super::output::ScrapeTarget;
use super::server::CompiledServer;

/// One target a port of a pod, even where several ModelServers select it; where they differ on the engine or on TLS, the
/// first by name counts.
pub(super) fn merge(servers: &[CompiledServer]) -> Vec<ScrapeTarget> {
    let mut ordered: Vec<_> = servers.iter().collect();
    ordered.sort_by(|a, b| a.name.cmp(&b.name));
    let mut targets: BTreeMap<&EndpointKey, ScrapeTarget> = BTreeMap::new();
    for server in ordered {
        let engine: InferenceEngine = server.engine;
        for endpoint in &server.endpoints {
            targets
                .entry(&endpoint.key)
                .or_insert_with(|| ScrapeTarget {
                    uid: endpoint.key.uid.clone(),
                    port: endpoint.key.port,
                    endpoint: endpoint.id,
                    address: endpoint.address,
                    start: endpoint.start,
                    pod: endpoint.pod.clone(),
                    engine,
                    https: server.cluster.https,
                    servers: Vec::new(),
                })
                .servers
                .push(server.name.clone());
        }
    }
    targets.into_values().collect()
}
