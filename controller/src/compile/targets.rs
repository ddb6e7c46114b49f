//! Whom to observe.
//!
//! What must always hold: one target a port of a pod, even where several ModelServers select it; where they differ on the engine or on TLS, the
//! first by name counts. Only what a change touches is made anew, in a time that grows with what it touches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;

use super::facts::EndpointKey;
use super::output::ScrapeTarget;
use super::server::{CompiledServer, EndpointOf};
use crate::source::ObjectKey;

#[derive(Debug, Default)]
pub(super) struct Targets {
    by_endpoint: BTreeMap<EndpointKey, BTreeSet<ObjectKey>>,
    targets: OrdMap<EndpointKey, Arc<ScrapeTarget>>,
}

impl Targets {
    /// The ModelServers that an endpoint belongs to.
    pub(super) fn servers(&self, endpoint: &EndpointKey) -> impl Iterator<Item = &ObjectKey> {
        self.by_endpoint.get(endpoint).into_iter().flatten()
    }

    /// A ModelServer has these endpoints. Returns those that [`Targets::settle`] must look at.
    pub(super) fn insert(&mut self, key: &ObjectKey, server: &CompiledServer) -> Vec<EndpointKey> {
        let endpoints: Vec<_> = server.endpoints.iter().map(|endpoint| endpoint.key.clone()).collect();
        for endpoint in &endpoints {
            self.by_endpoint
                .entry(endpoint.clone())
                .or_default()
                .insert(key.clone());
        }
        endpoints
    }

    /// A ModelServer has these endpoints no more. Returns those that [`Targets::settle`] must look at.
    pub(super) fn remove(&mut self, key: &ObjectKey, server: &CompiledServer) -> Vec<EndpointKey> {
        let endpoints: Vec<_> = server.endpoints.iter().map(|endpoint| endpoint.key.clone()).collect();
        for endpoint in &endpoints {
            if let Some(servers) = self.by_endpoint.get_mut(endpoint) {
                servers.remove(key);
                if servers.is_empty() {
                    self.by_endpoint.remove(endpoint);
                }
            }
        }
        endpoints
    }

    /// Makes the targets of these endpoints anew.
    pub(super) fn settle(&mut self, endpoints: &BTreeSet<EndpointKey>, compiled: &BTreeMap<ObjectKey, CompiledServer>) {
        let mut members: HashMap<&ObjectKey, Members<'_>> = HashMap::new();
        for endpoint in endpoints {
            let servers = self.by_endpoint.get(endpoint);
            let first = servers.and_then(|servers| compiled.get_key_value(servers.first()?));
            let target = first.zip(servers).and_then(|((key, first), servers)| {
                let members = members.entry(key).or_insert_with(|| members_of(first));
                Some(target(endpoint, servers, first, members.get(endpoint)?))
            });
            match target {
                None => {
                    self.targets.remove(endpoint);
                }
                Some(target) => {
                    if self.targets.get(endpoint).is_none_or(|old| **old != target) {
                        self.targets.insert(endpoint.clone(), Arc::new(target));
                    }
                }
            }
        }
    }

    /// All, by endpoint.
    pub(super) fn all(&self) -> OrdMap<EndpointKey, Arc<ScrapeTarget>> {
        self.targets.clone()
    }
}

/// The endpoints of a ModelServer, to look up.
type Members<'a> = HashMap<&'a EndpointKey, &'a EndpointOf>;

fn members_of(server: &CompiledServer) -> Members<'_> {
    let endpoints = server.endpoints.iter();
    endpoints.map(|endpoint| (&endpoint.key, endpoint)).collect()
}

fn target(
    endpoint: &EndpointKey,
    servers: &BTreeSet<ObjectKey>,
    first: &CompiledServer,
    found: &EndpointOf,
) -> ScrapeTarget {
    ScrapeTarget {
        uid: endpoint.uid.clone(),
        port: endpoint.port,
        endpoint: found.id,
        address: found.address,
        start: found.start,
        pod: found.pod.clone(),
        engine: first.engine,
        https: first.cluster.https,
        servers: servers.iter().map(ObjectKey::full_name).collect(),
    }
}
