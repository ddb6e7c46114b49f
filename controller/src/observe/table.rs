//! What is known of every endpoint, as of its last good scrape.
//!
//! One writer per row (the endpoint's probe), two readers: compile, which cares for what makes an endpoint another one
//! (incarnation, models, capacity), and publish, which cares for its load. Each is told of its own changes only.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kthena_scheduler::load::{Latency, Sample};
use kthena_scheduler::time::Time;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::compile::{EndpointKey, Fact, Facts};

/// What is known of one endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The last sample.
    pub sample: Sample,
    /// When it was read; `None` = never.
    pub sampled_at: Option<Time>,
    /// The last latency known.
    pub latency: Latency,
    /// When the interval behind the latency ended: the later of the two, where they differ.
    pub latency_at: Time,
    /// What makes the endpoint, not its load.
    pub fact: Arc<Fact>,
    /// True after several failures in a row.
    pub down: bool,
}

/// The rows, shared by the probes and their readers.
#[derive(Debug, Default)]
pub struct Table {
    rows: Mutex<Rows>,
    facts_changed: Notify,
}

#[derive(Debug, Default)]
struct Rows {
    /// `None` = a target whose first scrape has not ended.
    by_key: BTreeMap<EndpointKey, Option<Observation>>,
    /// Rows whose load changed since publish last asked; true = urgent (it went down or came up).
    changed: HashMap<EndpointKey, bool>,
}

// === impl Table ===

impl Table {
    /// An empty table.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Returns when a fact has changed, or a target was observed for the first time. A change between two calls is not
    /// lost.
    pub async fn facts_changed(&self) {
        self.facts_changed.notified().await;
    }

    /// The facts, and which targets' first scrape has not ended.
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::default();
        for (key, row) in &self.rows.lock().by_key {
            match row {
                Some(row) => {
                    facts.endpoints.insert(key.clone(), Fact::clone(&row.fact));
                }
                None => {
                    facts.pending.insert(key.clone());
                }
            }
        }
        facts
    }

    /// What is known of an endpoint; `None` = no target, or its first scrape has not ended.
    pub fn get(&self, key: &EndpointKey) -> Option<Observation> {
        self.rows.lock().by_key.get(key).cloned().flatten()
    }

    /// How many endpoints are down.
    pub fn down(&self) -> usize {
        let rows = self.rows.lock();
        rows.by_key.values().flatten().filter(|row| row.down).count()
    }

    /// The rows whose load changed since the last call; true = urgent.
    pub fn take_changed(&self) -> HashMap<EndpointKey, bool> {
        std::mem::take(&mut self.rows.lock().changed)
    }

    /// Sets which rows there are: new ones are pending, others are kept or dropped.
    pub fn retain(&self, keys: &HashSet<EndpointKey>) {
        let mut rows = self.rows.lock();
        rows.by_key.retain(|key, _| keys.contains(key));
        rows.changed.retain(|key, _| keys.contains(key));
        for key in keys {
            rows.by_key.entry(key.clone()).or_default();
        }
    }

    /// Makes a row pending again: another server is behind it now.
    pub(super) fn forget(&self, key: &EndpointKey) {
        if let Some(row) = self.rows.lock().by_key.get_mut(key) {
            *row = None;
        }
    }

    /// Stores what a probe knows now. A row that is no target any more stays away.
    pub fn store(&self, key: &EndpointKey, observation: Observation) {
        let mut rows = self.rows.lock();
        let Some(row) = rows.by_key.get_mut(key) else { return };
        let (facts, urgent) = match row {
            Some(old) => (old.fact != observation.fact, old.down != observation.down),
            None => (true, true),
        };
        let changed = row.as_ref() != Some(&observation);
        *row = Some(observation);
        if changed {
            *rows.changed.entry(key.clone()).or_default() |= urgent;
        }
        drop(rows);
        if facts {
            self.facts_changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> EndpointKey {
        EndpointKey {
            uid: "a".into(),
            port: 8000,
        }
    }

    #[tokio::test]
    async fn compile_hears_of_facts_and_publish_of_load() {
        let table = Table::new();
        table.retain(&HashSet::from([key()]));
        assert!(table.facts().pending.contains(&key()));
        table.store(&key(), Observation::default());
        assert!(table.take_changed()[&key()], "the first is urgent");
        assert_eq!(table.facts().pending.len(), 0);
        table.facts_changed().await;

        let mut next = Observation {
            sampled_at: Some(Time::from_millis(7)),
            ..Observation::default()
        };
        table.store(&key(), next.clone());
        assert!(!table.take_changed()[&key()], "a sample can wait");
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, table.facts_changed()).await;
        assert!(waiting.is_err(), "a sample is no fact");

        let fact = Fact {
            incarnation: 5,
            ..Fact::default()
        };
        next.fact = Arc::new(fact.clone());
        table.store(&key(), next);
        table.facts_changed().await;
        assert_eq!(table.facts().endpoints[&key()], fact);
    }

    #[test]
    fn a_row_that_is_no_target_stays_away() {
        let table = Table::new();
        table.store(&key(), Observation::default());
        assert_eq!(table.get(&key()), None);
    }
}
