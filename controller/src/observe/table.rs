//! What is known of every endpoint, as of its last good scrape.
//!
//! One writer per row (the endpoint's probe), two readers: compile, which cares for what makes an endpoint another one
//! (incarnation, models, capacity), and publish, which cares for its load. Each is told of its own changes only.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kthena_scheduler::load::{Latency, Sample};
use kthena_scheduler::time::Time;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// An endpoint as the source of targets names it: a pod UID and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The pod's UID.
    pub uid: Arc<str>,
    /// The port that it serves on.
    pub port: u32,
}

/// What is known of one endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The last sample.
    pub sample: Sample,
    /// When it was read; `None` = never.
    pub sampled_at: Option<Time>,
    /// The last latency known.
    pub latency: Latency,
    /// When the interval behind the latency ended.
    pub latency_at: Time,
    /// What the engine lists under `/v1/models`, base and adapters, sorted; empty = not known.
    pub models: Arc<[String]>,
    /// Tokens its KV cache holds; `None` = not known.
    pub kv_capacity_tokens: Option<u64>,
    /// Start of the engine's process, milliseconds since the Unix epoch; 0 = not known.
    pub incarnation: u64,
    /// True after several failures in a row.
    pub down: bool,
}

impl Observation {
    /// Whether what makes the endpoint (not its load) is the same in both.
    fn same_facts(&self, other: &Self) -> bool {
        self.models == other.models
            && self.kv_capacity_tokens == other.kv_capacity_tokens
            && self.incarnation == other.incarnation
    }
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
    by_key: HashMap<Key, Option<Observation>>,
    /// Rows whose load changed since publish last asked; true = urgent (it went down or came up).
    changed: HashMap<Key, bool>,
}

// === impl Table ===

impl Table {
    /// An empty table.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Returns when an incarnation, a list of models or a capacity has changed, or a target was observed for the first
    /// time. A change between two calls is not lost.
    pub async fn facts_changed(&self) {
        self.facts_changed.notified().await;
    }

    /// What is known of an endpoint; `None` = no target, or its first scrape has not ended.
    pub fn get(&self, key: &Key) -> Option<Observation> {
        self.rows.lock().by_key.get(key).cloned().flatten()
    }

    /// All rows, sorted by key.
    pub fn all(&self) -> Vec<(Key, Option<Observation>)> {
        let mut all: Vec<_> = self
            .rows
            .lock()
            .by_key
            .iter()
            .map(|(key, row)| (key.clone(), row.clone()))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// How many targets still wait for the end of their first scrape.
    pub fn pending(&self) -> usize {
        self.rows.lock().by_key.values().filter(|row| row.is_none()).count()
    }

    /// How many endpoints are down.
    pub fn down(&self) -> usize {
        let rows = self.rows.lock();
        rows.by_key.values().flatten().filter(|row| row.down).count()
    }

    /// The rows whose load changed since the last call; true = urgent.
    pub fn take_changed(&self) -> HashMap<Key, bool> {
        std::mem::take(&mut self.rows.lock().changed)
    }

    /// Sets which rows there are: new ones are pending, others are kept or dropped.
    pub fn retain(&self, keys: &HashSet<Key>) {
        let mut rows = self.rows.lock();
        rows.by_key.retain(|key, _| keys.contains(key));
        rows.changed.retain(|key, _| keys.contains(key));
        for key in keys {
            rows.by_key.entry(key.clone()).or_default();
        }
    }

    /// Stores what a probe knows now. A row that is no target any more stays away.
    pub fn store(&self, key: &Key, observation: Observation) {
        let mut rows = self.rows.lock();
        let Some(row) = rows.by_key.get_mut(key) else { return };
        let (facts, urgent) = match row {
            Some(old) => (!old.same_facts(&observation), old.down != observation.down),
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

    fn key() -> Key {
        Key {
            uid: "a".into(),
            port: 8000,
        }
    }

    #[tokio::test]
    async fn compile_hears_of_facts_and_publish_of_load() {
        let table = Table::new();
        table.retain(&HashSet::from([key()]));
        assert_eq!(table.pending(), 1);
        table.store(&key(), Observation::default());
        assert_eq!(
            (table.pending(), table.take_changed()[&key()]),
            (0, true),
            "the first is urgent"
        );
        table.facts_changed().await;

        let mut next = Observation {
            sampled_at: Some(Time::from_millis(7)),
            ..Observation::default()
        };
        table.store(&key(), next.clone());
        assert!(!table.take_changed()[&key()], "a sample can wait");
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, table.facts_changed()).await;
        assert!(waiting.is_err(), "a sample is no fact");

        next.incarnation = 5;
        table.store(&key(), next);
        table.facts_changed().await;
    }

    #[test]
    fn a_row_that_is_no_target_stays_away() {
        let table = Table::new();
        table.store(&key(), Observation::default());
        assert!(table.all().is_empty());
    }
}
