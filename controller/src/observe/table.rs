//! What is known of every endpoint, as of its last good scrape.
//!
//! One writer per row (the endpoint's probe), two readers: compile, which cares for what makes an endpoint another one
//! (incarnation, models, capacity), and publish, which cares for its load. Each is told of its own changes only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    /// Rows whose facts changed since compile last asked.
    touched: BTreeSet<EndpointKey>,
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

    /// Brings `facts` (what is known, and which targets' first scrape has not ended) from where the last call left them to now. Returns
    /// of which endpoints something else is known. One reader may do so.
    pub fn follow(&self, facts: &mut Facts) -> Vec<EndpointKey> {
        let mut rows = self.rows.lock();
        let touched = std::mem::take(&mut rows.touched);
        for key in &touched {
            facts.pending.remove(key);
            match rows.by_key.get(key) {
                Some(Some(row)) => {
                    facts.endpoints.insert(key.clone(), Arc::clone(&row.fact));
                }
                Some(None) => {
                    facts.endpoints.remove(key);
                    facts.pending.insert(key.clone());
                }
                None => {
                    facts.endpoints.remove(key);
                }
            }
        }
        touched.into_iter().collect()
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

    /// A row is pending from now on: it is new, or another server is behind it now.
    pub fn expect(&self, key: &EndpointKey) {
        let mut rows = self.rows.lock();
        rows.by_key.insert(key.clone(), None);
        rows.touched.insert(key.clone());
    }

    /// A row is no target any more.
    pub fn drop_row(&self, key: &EndpointKey) {
        let mut rows = self.rows.lock();
        rows.by_key.remove(key);
        rows.changed.remove(key);
        rows.touched.insert(key.clone());
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
        if facts {
            rows.touched.insert(key.clone());
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
        let mut facts = Facts::default();
        table.expect(&key());
        assert_eq!(table.follow(&mut facts), [key()]);
        assert!(facts.pending.contains(&key()));
        table.store(&key(), Observation::default());
        assert!(table.take_changed()[&key()], "the first is urgent");
        assert_eq!(table.follow(&mut facts), [key()]);
        assert_eq!(facts.pending.len(), 0);
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
        assert_eq!(table.follow(&mut facts), [key()]);
        assert_eq!(*facts.endpoints[&key()], fact);
        assert!(table.follow(&mut facts).is_empty(), "told once");
        table.drop_row(&key());
        assert_eq!(table.follow(&mut facts), [key()]);
        assert_eq!(facts, Facts::default());
    }

    #[test]
    fn a_row_that_is_no_target_stays_away() {
        let table = Table::new();
        table.store(&key(), Observation::default());
        assert_eq!(table.get(&key()), None);
    }
}
