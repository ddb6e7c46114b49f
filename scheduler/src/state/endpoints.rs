//! The endpoints that this process knows, each with its load cell.
//!
//! What must always hold: one identity has one cell for as long as anything refers to it (a set, a snapshot, a lease), so
//! that its load and its counts survive new snapshots, and a request that ends late is taken off where it was counted. It
//! fails by leaving endpoints out when all cells are taken; they get a cell as soon as one is free.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use super::reports::{Own, Reported};
use super::translate::Described;
use crate::load::{Fleet, Slot};
use crate::snapshot::{Endpoint, EndpointId};

/// All endpoints, by the ModelServer that lists them.
#[derive(Debug)]
pub(super) struct Registry {
    fleet: Arc<Fleet>,
    sets: BTreeMap<Box<str>, Set>,
    known: HashMap<EndpointId, Known>,
    /// Also of endpoints that nothing but leases and old snapshots refer to.
    slots: BTreeMap<EndpointId, Weak<Slot>>,
}

#[derive(Debug, Default)]
struct Set {
    /// Sorted by identity.
    placed: Vec<Arc<Endpoint>>,
    unplaced: Vec<Described>,
}

/// An endpoint and a ModelServer that lists it.
#[derive(Debug)]
struct Known {
    endpoint: Arc<Endpoint>,
    server: Box<str>,
}

/// What a change of a set did.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Cells that have another owner now.
    pub(super) claimed: Vec<u32>,
    /// Endpoints for which there is no room, over all sets.
    pub(super) unplaced: usize,
}

impl Registry {
    pub(super) fn new(fleet: Arc<Fleet>) -> Self {
        Self {
            fleet,
            sets: BTreeMap::new(),
            known: HashMap::new(),
            slots: BTreeMap::new(),
        }
    }

    /// The endpoints of a ModelServer, sorted by identity.
    pub(super) fn of(&self, server: &str) -> &[Arc<Endpoint>] {
        self.sets.get(server).map_or(&[], |set| &set.placed)
    }

    /// The endpoint of this identity, when some ModelServer lists it.
    pub(super) fn get(&self, id: EndpointId) -> Option<&Arc<Endpoint>> {
        self.known.get(&id).map(|known| &known.endpoint)
    }

    /// A ModelServer that lists this endpoint.
    pub(super) fn server_of(&self, id: EndpointId) -> Option<&str> {
        self.known.get(&id).map(|known| &*known.server)
    }

    /// Replaces a ModelServer's endpoints. They are placed by [`Registry::settle`].
    pub(super) fn set(&mut self, server: &str, described: Vec<Described>) {
        self.sets.insert(
            server.into(),
            Set {
                placed: Vec::new(),
                unplaced: described,
            },
        );
    }

    /// Forgets a ModelServer's endpoints.
    pub(super) fn remove(&mut self, server: &str) {
        self.sets.remove(server);
    }

    /// Whether endpoints wait for a cell.
    pub(super) fn is_short(&self) -> bool {
        self.sets.values().any(|set| !set.unplaced.is_empty())
    }

    /// Endpoints of one ModelServer for which there was no room, and how many it lists.
    pub(super) fn unplaced(&self, server: &str) -> (usize, usize) {
        let set = self.sets.get(server);
        set.map_or((0, 0), |set| {
            (set.unplaced.len(), set.placed.len() + set.unplaced.len())
        })
    }

    /// Gives cells to the endpoints that have none and lets go of those that nothing lists.
    pub(super) fn settle(&mut self) -> Changed {
        let listed: BTreeSet<EndpointId> = self
            .sets
            .values()
            .flat_map(|set| {
                let placed = set.placed.iter().map(|endpoint| endpoint.id);
                placed.chain(set.unplaced.iter().map(|described| described.id))
            })
            .collect();
        self.known.retain(|id, _| listed.contains(id));
        let mut claimed = Vec::new();
        let mut sets = std::mem::take(&mut self.sets);
        for (server, set) in &mut sets {
            let waiting = std::mem::take(&mut set.unplaced);
            for described in waiting {
                match self.place(&described, server, &mut claimed) {
                    Some(endpoint) => set.placed.push(endpoint),
                    None => set.unplaced.push(described),
                }
            }
            set.placed.sort_by_key(|endpoint| endpoint.id);
        }
        self.sets = sets;
        self.slots.retain(|_, slot| slot.strong_count() > 0);
        Changed {
            claimed,
            unplaced: self.sets.values().map(|set| set.unplaced.len()).sum(),
        }
    }

    /// What this process has in flight at every endpoint that anything still refers to.
    pub(super) fn own(&self) -> impl Iterator<Item = (Reported, Own)> {
        self.slots.iter().flat_map(|(id, slot)| {
            let slot = slot.upgrade();
            slot.map_or_else(Vec::new, |slot| own_at(*id, &slot))
        })
    }

    fn place(&mut self, described: &Described, server: &str, claimed: &mut Vec<u32>) -> Option<Arc<Endpoint>> {
        let known = self.known.get(&described.id);
        if let Some(known) = known.filter(|known| is(&known.endpoint, described)) {
            return Some(Arc::clone(&known.endpoint));
        }
        let slot = match self.slots.get(&described.id).and_then(Weak::upgrade) {
            Some(slot) => slot,
            None => {
                let slot = self.fleet.claim()?;
                claimed.push(slot.index());
                slot
            }
        };
        self.slots.insert(described.id, Arc::downgrade(&slot));
        let endpoint = Arc::new(Endpoint {
            id: described.id,
            slot,
            address: described.address.clone(),
            pod: described.pod.clone(),
            models: described.models.clone(),
            kv_capacity_tokens: described.kv_capacity_tokens,
        });
        let known = Known {
            endpoint: Arc::clone(&endpoint),
            server: server.into(),
        };
        self.known.insert(described.id, known);
        Some(endpoint)
    }
}

fn is(known: &Endpoint, described: &Described) -> bool {
    known.address == described.address
        && known.pod == described.pod
        && known.models == described.models
        && known.kv_capacity_tokens == described.kv_capacity_tokens
}

/// What this process has in flight at an endpoint: the base model's part and each adapter's.
fn own_at(id: EndpointId, slot: &Slot) -> Vec<(Reported, Own)> {
    let (requests, tokens) = slot.own();
    let mut base = Own {
        requests,
        tokens,
        failures: slot.failures(),
    };
    let mut all = Vec::new();
    for (adapter, requests, tokens) in slot.own_by_adapter() {
        // The two are read one after the other, and requests end meanwhile.
        base.requests = base.requests.saturating_sub(requests);
        base.tokens = base.tokens.saturating_sub(tokens);
        let failures = 0;
        let own = Own {
            requests,
            tokens,
            failures,
        };
        all.push(((id, adapter), own));
    }
    all.push(((id, Box::default()), base));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(id: u64, model: &str) -> Described {
        Described {
            id: EndpointId(id),
            address: format!("127.0.0.1:{id}").into(),
            pod: "a/p".into(),
            models: vec![model.into()],
            kv_capacity_tokens: None,
        }
    }

    #[test]
    fn an_endpoint_whose_models_change_keeps_its_cell() {
        let mut registry = Registry::new(Fleet::new(2));
        registry.set("a/s", vec![described(1, "base")]);
        registry.settle();
        let before = Arc::clone(&registry.of("a/s")[0]);
        registry.set("a/s", vec![described(1, "base"), described(2, "base")]);
        registry.settle();
        assert!(Arc::ptr_eq(&before, &registry.of("a/s")[0]), "nothing changed for it");
        registry.set("a/s", vec![described(1, "adapter")]);
        let changed = registry.settle();
        let after = &registry.of("a/s")[0];
        assert!(Arc::ptr_eq(&before.slot, &after.slot) && after.models[0] == "adapter".into());
        assert!(changed.claimed.is_empty() && registry.get(EndpointId(2)).is_none());
    }

    #[test]
    fn an_endpoint_that_comes_back_while_a_request_runs_has_its_old_cell() {
        let mut registry = Registry::new(Fleet::new(2));
        registry.set("a/s", vec![described(1, "m")]);
        registry.settle();
        let lease = Arc::clone(&registry.of("a/s")[0].slot);
        registry.remove("a/s");
        registry.settle();
        assert!(registry.of("a/s").is_empty());
        registry.set("a/s", vec![described(1, "m")]);
        registry.settle();
        assert!(Arc::ptr_eq(&lease, &registry.of("a/s")[0].slot));
    }

    #[test]
    fn what_does_not_fit_waits_for_room() {
        let mut registry = Registry::new(Fleet::new(1));
        registry.set("a/s", vec![described(1, "m"), described(2, "m")]);
        assert_eq!(registry.settle().unplaced, 1);
        assert_eq!(registry.unplaced("a/s"), (1, 2));
        registry.set("a/s", vec![described(2, "m")]);
        drop(registry.settle());
        assert_eq!(registry.settle().unplaced, 0);
        assert_eq!(registry.of("a/s")[0].id, EndpointId(2));
    }
}
