//! InferencePools with their pods: their endpoints, as filters receive them.
//!
//! A pod is an endpoint for each target port of the pool. Nothing is observed of a pool's pods but what their containers tell, unless a
//! ModelServer selects them as well; there is no cluster for them, as a gateway of its own sends requests there.
//! What must always hold: a pool that a change does not touch is not made anew.

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use kthena_gateway_api::InferencePool;
use kthena_scheduler::state::proto::ResourceType;

use super::facts::{EndpointKey, Facts, Touched};
use super::output::{Key, Resource, Resources};
use super::selectors::Selectors;
use super::server::{endpoint, message};
use crate::index::{Eligibility, Entry, Index};
use crate::source::ObjectKey;

/// The endpoints of a pool are named by this and `namespace/name`, and so never like those of a ModelServer.
const PREFIX: &str = "inference-pool/";

/// All pools, as they were compiled last.
#[derive(Debug, Default)]
pub(super) struct Pools {
    seen: OrdMap<ObjectKey, Entry<InferencePool>>,
    selectors: Selectors,
    endpoints: BTreeMap<ObjectKey, Vec<EndpointKey>>,
    by_endpoint: BTreeMap<EndpointKey, BTreeSet<ObjectKey>>,
}

impl Pools {
    /// Brings the resources of all pools up to date.
    pub(super) fn compile(&mut self, index: &Index, facts: &Facts, touched: &Touched, resources: &mut Resources) {
        for key in self.stale(index, touched) {
            for endpoint in self.endpoints.remove(&key).unwrap_or_default() {
                if let Some(pools) = self.by_endpoint.get_mut(&endpoint) {
                    pools.remove(&key);
                    if pools.is_empty() {
                        self.by_endpoint.remove(&endpoint);
                    }
                }
            }
            let Some(entry) = index.pools().get(&key) else {
                resources.remove(&name_of(&key));
                continue;
            };
            let (resource, endpoints) = compile(&key, &entry.object, index, facts);
            for endpoint in &endpoints {
                self.by_endpoint
                    .entry(endpoint.clone())
                    .or_default()
                    .insert(key.clone());
            }
            self.endpoints.insert(key, endpoints);
            resources.insert(resource.key.clone(), resource);
        }
    }

    /// The pools that something has changed for.
    fn stale(&mut self, index: &Index, touched: &Touched) -> BTreeSet<ObjectKey> {
        let mut stale = BTreeSet::new();
        let seen = std::mem::replace(&mut self.seen, index.pools().clone());
        for difference in seen.diff(index.pools()) {
            let (key, pool) = match difference {
                DiffItem::Add(key, entry) | DiffItem::Update { new: (key, entry), .. } => (key, Some(&entry.object)),
                DiffItem::Remove(key, _) => (key, None),
            };
            self.selectors
                .set(key, pool.map(|pool| &pool.spec.selector.match_labels));
            stale.insert(key.clone());
        }
        stale.extend(touched.pods.iter().flat_map(|pod| self.selectors.of(pod)));
        let pools = touched
            .endpoints
            .iter()
            .filter_map(|endpoint| self.by_endpoint.get(endpoint));
        stale.extend(pools.flatten().cloned());
        stale
    }
}

fn name_of(key: &ObjectKey) -> Key {
    Key::new(ResourceType::Endpoints, format!("{PREFIX}{}", key.full_name()))
}

fn compile(key: &ObjectKey, pool: &InferencePool, index: &Index, facts: &Facts) -> (Resource, Vec<EndpointKey>) {
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
    let resource = Resource::encode(name_of(key), &message(&endpoints, facts));
    (resource, endpoints.into_iter().map(|endpoint| endpoint.key).collect())
}
