//! The Load resource of each ModelServer: when it is made anew, and from what.
//!
//! What must always hold: the echo that travels with a Load names exactly the reports that are in it. Therefore whenever
//! one Load is made, every Load that a report has touched since is made as well, and the echoes are fixed in the same
//! step. A Load that only has newer samples waits a little, so that a hundred scrapes a second are a few messages.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use kthena_scheduler::state::proto::{EndpointLoad, Endpoints, Load, ResourceType};
use kthena_scheduler::time::Time;

use super::merge::Merge;
use super::scope::Scope;
use crate::compile::{EndpointKey, Key, Resource};
use crate::observe::{Observation, Table};

/// All Loads.
#[derive(Debug)]
pub(super) struct Loads {
    /// How long newer samples may wait before they are sent, milliseconds.
    sample_wait_ms: u64,
    servers: BTreeMap<Arc<str>, Server>,
    by_endpoint: HashMap<u64, Vec<Arc<str>>>,
    by_target: HashMap<EndpointKey, Vec<Arc<str>>>,
    /// Endpoints that belong to no ModelServer any more, since they were last asked for.
    gone: HashSet<u64>,
    /// ModelServers whose Load must be made at the next step.
    due: BTreeSet<Arc<str>>,
    /// ModelServers with newer samples, and since when.
    waiting: BTreeMap<Arc<str>, Time>,
    generation: u64,
    /// The Loads that have been made, by the generation they were made in.
    made: BTreeMap<u64, Arc<str>>,
}

#[derive(Debug)]
struct Server {
    endpoints: Vec<(u64, EndpointKey)>,
    /// Grows whenever the Load is made, even when its bytes come out the same: the echo beside it is newer.
    generation: u64,
    load: Option<Resource>,
}

// === impl Loads ===

impl Loads {
    pub(super) fn new(sample_wait_ms: u64) -> Self {
        Self {
            sample_wait_ms,
            servers: BTreeMap::new(),
            by_endpoint: HashMap::new(),
            by_target: HashMap::new(),
            gone: HashSet::new(),
            due: BTreeSet::new(),
            waiting: BTreeMap::new(),
            generation: 0,
            made: BTreeMap::new(),
        }
    }

    /// Takes the endpoints of a ModelServer.
    pub(super) fn set(&mut self, name: &Arc<str>, endpoints: &Endpoints) {
        let endpoints = endpoints
            .endpoints
            .iter()
            .map(|endpoint| {
                let uid = endpoint.uid.clone();
                // A port that is none has no row in the table: its load stays unknown.
                let port = u16::try_from(endpoint.port).unwrap_or_default();
                (endpoint.id, EndpointKey { uid, port })
            })
            .collect();
        let server = Server {
            endpoints,
            generation: 0,
            load: None,
        };
        self.unlink(name);
        for (id, target) in &server.endpoints {
            self.by_endpoint.entry(*id).or_default().push(Arc::clone(name));
            self.by_target.entry(target.clone()).or_default().push(Arc::clone(name));
            self.gone.remove(id);
        }
        self.servers.insert(Arc::clone(name), server);
        self.due.insert(Arc::clone(name));
    }

    /// Forgets a ModelServer.
    pub(super) fn remove(&mut self, name: &str) {
        self.unlink(name);
        self.servers.remove(name);
        self.due.remove(name);
        self.waiting.remove(name);
    }

    /// The endpoints of a ModelServer are its own no more.
    fn unlink(&mut self, name: &str) {
        let Some(server) = self.servers.get(name) else {
            return;
        };
        self.made.remove(&server.generation);
        for (id, target) in &server.endpoints {
            if unlisted(&mut self.by_endpoint, id, name) {
                self.gone.insert(*id);
            }
            unlisted(&mut self.by_target, target, name);
        }
    }

    /// The endpoints that have gone since the last call.
    pub(super) fn take_gone(&mut self) -> HashSet<u64> {
        std::mem::take(&mut self.gone)
    }

    /// Whether an endpoint belongs to some ModelServer.
    pub(super) fn knows(&self, endpoint: u64) -> bool {
        self.by_endpoint.contains_key(&endpoint)
    }

    /// Whether an endpoint is in a scope; one that belongs to nobody is in that of everything alone.
    pub(super) fn sees(&self, scope: &Scope, endpoint: u64) -> bool {
        let owners = self.by_endpoint.get(&endpoint).into_iter().flatten();
        scope.is_everything() || owners.into_iter().any(|name| scope.admits_name(name))
    }

    /// Makes what is due; true when any Load was made, so that the echoes must be fixed now.
    pub(super) fn step(&mut self, merge: &mut Merge, table: &Table, now: Time) -> bool {
        for (target, urgent) in table.take_changed() {
            for name in self.by_target.get(&target).into_iter().flatten() {
                if urgent {
                    self.due.insert(Arc::clone(name));
                } else {
                    self.waiting.entry(Arc::clone(name)).or_insert(now);
                }
            }
        }
        for (name, since) in &self.waiting {
            if now.since(*since) >= self.sample_wait_ms {
                self.due.insert(Arc::clone(name));
            }
        }
        let touched = merge.take_touched();
        for endpoint in &touched {
            self.due
                .extend(self.by_endpoint.get(endpoint).into_iter().flatten().cloned());
        }
        let due = std::mem::take(&mut self.due);
        let made = !due.is_empty();
        for name in due {
            self.waiting.remove(&name);
            self.generation += 1;
            let generation = self.generation;
            if let Some(server) = self.servers.get_mut(&name) {
                server.load = Some(server.make(Arc::clone(&name), merge, table, now));
                self.made.remove(&server.generation);
                server.generation = generation;
                self.made.insert(generation, name);
            }
        }
        // A report that touched no endpoint that we know still wants its echo.
        made || !touched.is_empty()
    }

    /// The generation of the newest Load.
    pub(super) fn newest(&self) -> u64 {
        self.generation
    }

    /// The Loads that have been made after this generation.
    pub(super) fn made_after(&self, generation: u64) -> impl Iterator<Item = &Resource> {
        let later = self.made.range(generation + 1..);
        later.filter_map(|(_, name)| self.servers.get(name)?.load.as_ref())
    }
}

/// Takes a name off a list; true when the list is empty and gone.
fn unlisted<K: Eq + std::hash::Hash>(lists: &mut HashMap<K, Vec<Arc<str>>>, key: &K, name: &str) -> bool {
    let Some(list) = lists.get_mut(key) else {
        return false;
    };
    list.retain(|other| **other != *name);
    let empty = list.is_empty();
    if empty {
        lists.remove(key);
    }
    empty
}

/// What is told of an endpoint because it was observed: filters are told so, and other controllers.
pub(super) fn observed(seen: &Observation, now: Time) -> EndpointLoad {
    EndpointLoad {
        sample_age_ms: seen.sampled_at.map(|at| now.since(at)),
        waiting: seen.sample.waiting,
        running: seen.sample.running,
        kv_usage: seen.sample.kv_usage,
        ttft_s: seen.latency.ttft,
        tpot_s: seen.latency.tpot,
        latency_age_ms: now.since(seen.latency_at),
        down: seen.down,
        ..EndpointLoad::default()
    }
}

// === impl Server ===

impl Server {
    fn make(&self, name: Arc<str>, merge: &Merge, table: &Table, now: Time) -> Resource {
        let endpoints = self
            .endpoints
            .iter()
            .map(|(id, target)| {
                let in_flight = merge.in_flight(*id);
                let seen = table.get(target).unwrap_or_default();
                EndpointLoad {
                    endpoint: *id,
                    in_flight_requests: u32::try_from(in_flight.requests).unwrap_or(u32::MAX),
                    in_flight_tokens: in_flight.tokens,
                    ..observed(&seen, now)
                }
            })
            .collect();
        Resource::encode(Key::new(ResourceType::Load, name), &Load { endpoints })
    }
}
