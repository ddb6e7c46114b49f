//! What is known of every endpoint, as of its last good scrape.
//!
//! One writer per row at a time (the endpoint's probe here, or the controller that observes it), three readers: compile, which cares for what
//! makes an endpoint another one (incarnation, models, capacity), publish, which cares for its load, and the other controllers, which are told
//! what was observed here. Each is told of its own changes only. What must always hold: the newest look at an endpoint counts, whoever took it,
//! as long as both looked at the same server.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kthena_scheduler::time::Time;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::hearsay::{Hearsay, Told};
use super::observation::Observation;
use crate::compile::{EndpointKey, Facts};

/// The rows, shared by the probes and their readers.
#[derive(Debug, Default)]
pub struct Table {
    rows: Mutex<Rows>,
    facts_changed: Notify,
    /// Grows whenever other controllers should be told at once.
    urgent: watch::Sender<u64>,
}

/// What was observed here, to be told to other controllers.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Of which endpoint.
    pub key: EndpointKey,
    /// What was asked.
    pub target: u64,
    /// When the last scrape ended.
    pub looked_at: Time,
    /// What is known.
    pub observation: Observation,
    /// Whether the fact is another one than the reader was told.
    pub is_new_fact: bool,
}

#[derive(Debug, Default)]
struct Rows {
    by_key: BTreeMap<EndpointKey, Row>,
    /// Rows whose load changed since publish last asked; true = urgent (it went down or came up).
    changed: HashMap<EndpointKey, bool>,
    /// Rows whose facts changed since compile last asked.
    touched: BTreeSet<EndpointKey>,
    hearsay: Hearsay,
    /// Counts looks of our own; each has its number.
    looks: u64,
    /// The last look of our own at each endpoint, by its number.
    own: BTreeMap<u64, EndpointKey>,
    /// Rows whose last look was another controller's.
    of_others: usize,
}

#[derive(Debug)]
struct Row {
    target: u64,
    /// `None` = its first scrape has not ended.
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    observation: Observation,
    looked_at: Time,
    /// Another controller looked.
    is_of_other: bool,
    /// The number of our own last look, and of the one that first had this fact; 0 = none.
    look: u64,
    fact_look: u64,
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

    /// Changes whenever other controllers should be told at once: of a fact, of an endpoint that went down or came up.
    pub fn urgent(&self) -> watch::Receiver<u64> {
        self.urgent.subscribe()
    }

    /// Brings `facts` (what is known, and which targets' first scrape has not ended) from where the last call left them to now. Returns
    /// of which endpoints something else is known. One reader may do so.
    pub fn follow(&self, facts: &mut Facts) -> Vec<EndpointKey> {
        let mut rows = self.rows.lock();
        let touched = std::mem::take(&mut rows.touched);
        for key in &touched {
            facts.pending.remove(key);
            match rows.by_key.get(key).map(|row| &row.seen) {
                Some(Some(seen)) => {
                    facts.endpoints.insert(key.clone(), Arc::clone(&seen.observation.fact));
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
        let rows = self.rows.lock();
        Some(rows.by_key.get(key)?.seen.as_ref()?.observation.clone())
    }

    /// How many endpoints are down.
    pub fn down(&self) -> usize {
        let rows = self.rows.lock();
        let seen = rows.by_key.values().filter_map(|row| row.seen.as_ref());
        seen.filter(|seen| seen.observation.down).count()
    }

    /// How many endpoints another controller looked at last.
    pub fn of_others(&self) -> usize {
        self.rows.lock().of_others
    }

    /// The rows whose load changed since the last call; true = urgent.
    pub fn take_changed(&self) -> HashMap<EndpointKey, bool> {
        std::mem::take(&mut self.rows.lock().changed)
    }

    /// A row is pending from now on: it is new, or another server is behind it now. `target` names what is asked. It is not pending where
    /// another controller has told of this very server since `since`.
    pub fn expect(&self, key: &EndpointKey, target: u64, since: Time) {
        let mut rows = self.rows.lock();
        rows.remove(key);
        rows.by_key.insert(key.clone(), Row { target, seen: None });
        rows.touched.insert(key.clone());
        if let Some((looked_at, observation)) = rows.hearsay.newest(key, target, since) {
            rows.take(key, observation, looked_at, true);
        }
    }

    /// A row is no target any more.
    pub fn drop_row(&self, key: &EndpointKey) {
        let mut rows = self.rows.lock();
        rows.remove(key);
        rows.changed.remove(key);
        rows.hearsay.forget(key);
        rows.touched.insert(key.clone());
    }

    /// Stores what a probe knows now. A row that is no target any more stays away.
    pub fn store(&self, key: &EndpointKey, observation: Observation, now: Time) {
        let news = self.rows.lock().take(key, observation, now, false);
        self.tell(news);
    }

    /// Another controller tells what it observed, and may remember this many endpoints here. Returns for how many there was no room.
    pub fn hear(&self, from: u64, told: Vec<Told>, max: usize) -> u64 {
        let mut rows = self.rows.lock();
        let (mut news, mut refused) = (News::default(), 0);
        for told in told {
            let (key, target, looked_at) = (told.key.clone(), told.target, told.looked_at);
            let Some(observation) = rows.hearsay.hear(from, told, max) else {
                refused += 1;
                continue;
            };
            if rows.by_key.get(&key).is_some_and(|row| row.target == target) {
                news.add(rows.take(&key, observation, looked_at, true));
            }
        }
        drop(rows);
        self.tell(news);
        refused
    }

    /// Another controller tells nothing any more. What it told is known as it was.
    pub fn forget_teller(&self, from: u64) {
        self.rows.lock().hearsay.end(from);
    }

    /// Whether another controller has told of a look at this endpoint since `since`.
    pub fn is_seen_by_other(&self, key: &EndpointKey, since: Time) -> bool {
        let rows = self.rows.lock();
        let target = rows.by_key.get(key).map(|row| row.target);
        target.is_some_and(|target| rows.hearsay.newest(key, target, since).is_some())
    }

    /// Looks of our own since `cursor` was last moved on by this; 0 = all.
    pub fn looks(&self, cursor: &mut u64) -> Vec<Look> {
        let rows = self.rows.lock();
        let since = std::mem::replace(cursor, rows.looks);
        let look = |(_, key): (&u64, &EndpointKey)| {
            let row = rows.by_key.get(key)?;
            let seen = row.seen.as_ref()?;
            Some(Look {
                key: key.clone(),
                target: row.target,
                looked_at: seen.looked_at,
                observation: seen.observation.clone(),
                is_new_fact: seen.fact_look > since,
            })
        };
        rows.own.range(since + 1..).filter_map(look).collect()
    }

    fn tell(&self, news: News) {
        if news.facts {
            self.facts_changed.notify_one();
        }
        if news.urgent {
            self.urgent.send_modify(|count| *count += 1);
        }
    }
}

/// Who must hear of a change at once.
#[derive(Clone, Copy, Debug, Default)]
struct News {
    /// Compile: a fact changed.
    facts: bool,
    /// Other controllers.
    urgent: bool,
}

impl News {
    fn add(&mut self, other: Self) {
        self.facts |= other.facts;
        self.urgent |= other.urgent;
    }
}

// === impl Rows ===

impl Rows {
    /// Takes a look at an endpoint, unless there is a newer one.
    fn take(&mut self, key: &EndpointKey, observation: Observation, looked_at: Time, is_of_other: bool) -> News {
        let Some(row) = self.by_key.get_mut(key) else {
            return News::default();
        };
        let old = row.seen.as_ref();
        if is_of_other && old.is_some_and(|old| old.looked_at >= looked_at) {
            return News::default();
        }
        let facts = old.is_none_or(|old| old.observation.fact != observation.fact);
        let urgent = old.is_none_or(|old| old.observation.down != observation.down);
        let changed = old.is_none_or(|old| old.observation != observation);
        let (mut look, mut fact_look) = old.map_or((0, 0), |old| (old.look, old.fact_look));
        self.of_others -= usize::from(old.is_some_and(|old| old.is_of_other));
        self.of_others += usize::from(is_of_other);
        self.own.remove(&look);
        if is_of_other {
            // What we saw before is nobody's concern any more.
            (look, fact_look) = (0, 0);
        } else {
            self.looks += 1;
            look = self.looks;
            self.own.insert(look, key.clone());
            if facts || fact_look == 0 {
                fact_look = look;
            }
        }
        row.seen = Some(Seen {
            observation,
            looked_at,
            is_of_other,
            look,
            fact_look,
        });
        if changed {
            *self.changed.entry(key.clone()).or_default() |= urgent;
        }
        if facts {
            self.touched.insert(key.clone());
        }
        News {
            facts,
            urgent: !is_of_other && (facts || urgent),
        }
    }

    fn remove(&mut self, key: &EndpointKey) {
        if let Some(seen) = self.by_key.remove(key).and_then(|row| row.seen) {
            self.own.remove(&seen.look);
            self.of_others -= usize::from(seen.is_of_other);
        }
    }
}

#[cfg(test)]
mod tests;
