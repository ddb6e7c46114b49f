//! What is known of each endpoint's load, and how old it is.
//!
//! Two sources meet here: samples of what the engine said of itself (pushed by the controller), and requests in flight
//! (our own, exact; other deciders', as of the last push). One writer stores samples, every worker reads them without a
//! lock. What must always hold: an endpoint's cell is claimed by one [`Slot`] at a time and is handed on only when
//! nothing refers to it any more, so a late end of a request can never be counted against another endpoint. Values of one
//! sample may be read half old, half new: a decision tolerates that, as the sample itself is already old.
//! It fails by refusing a slot when all are taken: the number of endpoints is bounded by a setting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::time::Time;

/// The cells of all endpoints that a process knows, addressed by dense index.
#[derive(Debug)]
pub struct Fleet {
    cells: Box<[Cell]>,
    /// The part of each cell's own counts that asked for an adapter. Apart from the cells, as decisions do not read it, and locked, as
    /// requests for a base model do not touch it.
    adapters: Box<[Mutex<ByAdapter>]>,
    free: Mutex<Vec<u32>>,
}

/// Requests in flight and their uncached prompt tokens, of each adapter that has any.
type ByAdapter = BTreeMap<Box<str>, (u32, u64)>;

/// The right to one cell of the [`Fleet`]: given back when the last holder (snapshot or lease) drops it.
#[derive(Debug)]
pub struct Slot {
    index: u32,
    fleet: Arc<Fleet>,
}

/// What an engine said of itself at one moment. `None` = it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Requests waiting in the engine's queue.
    pub waiting: Option<u32>,
    /// Requests in the running batch.
    pub running: Option<u32>,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_usage: Option<f32>,
}

/// What an engine said of its latency over one interval that had samples. `None` = it did not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Mean time to first token, seconds.
    pub ttft: Option<f32>,
    /// Mean time per output token, seconds.
    pub tpot: Option<f32>,
}

/// One endpoint's load as a decision reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct View {
    /// Requests in flight over all deciders that we know of.
    pub in_flight: u32,
    /// Uncached prompt tokens of those requests.
    pub in_flight_tokens: u64,
    /// The last sample.
    pub sample: Sample,
    /// Age of the sample in milliseconds; `None` = never sampled.
    pub sample_age: Option<u64>,
    /// The last latency known.
    pub latency: Latency,
    /// Age of the latency in milliseconds.
    pub latency_age: u64,
    /// Observed to be unable to serve.
    pub down: bool,
}

/// Absent counts and fractions; never leaves this file.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Cell {
    own_requests: AtomicU32,
    own_tokens: AtomicU64,
    failures: AtomicU64,
    others_requests: AtomicU32,
    others_tokens: AtomicU64,
    waiting: AtomicU32,
    running: AtomicU32,
    kv_usage: AtomicU32,
    ttft: AtomicU32,
    tpot: AtomicU32,
    /// 0 = never sampled, else the time in ms plus one.
    sampled_at: AtomicU64,
    latency_at: AtomicU64,
    down: AtomicBool,
}

impl Cell {
    fn new() -> Self {
        Self {
            own_requests: AtomicU32::new(0),
            own_tokens: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            others_requests: AtomicU32::new(0),
            others_tokens: AtomicU64::new(0),
            waiting: AtomicU32::new(NONE),
            running: AtomicU32::new(NONE),
            kv_usage: AtomicU32::new(NONE),
            ttft: AtomicU32::new(NONE),
            tpot: AtomicU32::new(NONE),
            sampled_at: AtomicU64::new(0),
            latency_at: AtomicU64::new(0),
            down: AtomicBool::new(false),
        }
    }

    fn reset(&self) {
        self.own_requests.store(0, Relaxed);
        self.own_tokens.store(0, Relaxed);
        self.failures.store(0, Relaxed);
        self.others_requests.store(0, Relaxed);
        self.others_tokens.store(0, Relaxed);
        for value in [&self.waiting, &self.running, &self.kv_usage, &self.ttft, &self.tpot] {
            value.store(NONE, Relaxed);
        }
        self.sampled_at.store(0, Relaxed);
        self.latency_at.store(0, Relaxed);
        self.down.store(false, Relaxed);
    }
}

// === impl Fleet ===

impl Fleet {
    /// Room for `max_endpoints` endpoints.
    pub fn new(max_endpoints: u32) -> Arc<Self> {
        Arc::new(Self {
            cells: (0..max_endpoints).map(|_| Cell::new()).collect(),
            adapters: (0..max_endpoints).map(|_| Mutex::default()).collect(),
            free: Mutex::new((0..max_endpoints).rev().collect()),
        })
    }

    /// How many endpoints there is room for: every [`Slot::index`] is below it.
    pub fn capacity(&self) -> u32 {
        self.cells.len() as u32
    }

    /// Claims a cell, fresh; `None` when all are taken.
    pub fn claim(self: &Arc<Self>) -> Option<Arc<Slot>> {
        let index = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        self.cells[index as usize].reset();
        Some(Arc::new(Slot {
            index,
            fleet: Arc::clone(self),
        }))
    }

    /// The load of the endpoint at a slot's index. An index beyond the capacity reads as an endpoint never heard of.
    pub fn view(&self, index: u32, now: Time) -> View {
        let Some(cell) = self.cells.get(index as usize) else {
            return View::default();
        };
        View {
            in_flight: cell
                .own_requests
                .load(Relaxed)
                .saturating_add(cell.others_requests.load(Relaxed)),
            in_flight_tokens: cell
                .own_tokens
                .load(Relaxed)
                .saturating_add(cell.others_tokens.load(Relaxed)),
            sample: Sample {
                waiting: count(&cell.waiting),
                running: count(&cell.running),
                kv_usage: fraction(&cell.kv_usage),
            },
            sample_age: match cell.sampled_at.load(Relaxed) {
                0 => None,
                at => Some(now.since(Time::from_millis(at - 1))),
            },
            latency: Latency {
                ttft: fraction(&cell.ttft),
                tpot: fraction(&cell.tpot),
            },
            latency_age: now.since(Time::from_millis(cell.latency_at.load(Relaxed))),
            down: cell.down.load(Relaxed),
        }
    }
}

fn count(value: &AtomicU32) -> Option<u32> {
    Some(value.load(Relaxed)).filter(|v| *v != NONE)
}

fn fraction(value: &AtomicU32) -> Option<f32> {
    Some(value.load(Relaxed)).filter(|v| *v != NONE).map(f32::from_bits)
}

fn bits(value: Option<f32>) -> u32 {
    value.map_or(NONE, f32::to_bits)
}

// === impl Slot ===

impl Slot {
    /// The dense index of the cell.
    pub fn index(&self) -> u32 {
        self.index
    }

    fn cell(&self) -> &Cell {
        &self.fleet.cells[self.index as usize]
    }

    /// The load of this endpoint.
    pub fn view(&self, now: Time) -> View {
        self.fleet.view(self.index, now)
    }

    /// Stores what the engine said at `at`.
    pub fn sampled(&self, sample: Sample, at: Time) {
        let cell = self.cell();
        cell.waiting.store(sample.waiting.unwrap_or(NONE), Relaxed);
        cell.running.store(sample.running.unwrap_or(NONE), Relaxed);
        cell.kv_usage.store(bits(sample.kv_usage), Relaxed);
        cell.sampled_at.store(at.as_millis().saturating_add(1), Relaxed);
    }

    /// Stores the latency of an interval that ended at `at`.
    pub fn measured(&self, latency: Latency, at: Time) {
        let cell = self.cell();
        cell.ttft.store(bits(latency.ttft), Relaxed);
        cell.tpot.store(bits(latency.tpot), Relaxed);
        cell.latency_at.store(at.as_millis(), Relaxed);
    }

    /// Stores whether the endpoint was observed to be unable to serve.
    pub fn set_down(&self, down: bool) {
        self.cell().down.store(down, Relaxed);
    }

    /// Stores what other deciders have in flight here.
    pub fn set_others(&self, requests: u32, tokens: u64) {
        let cell = self.cell();
        cell.others_requests.store(requests, Relaxed);
        cell.others_tokens.store(tokens, Relaxed);
    }

    fn adapters(&self) -> MutexGuard<'_, ByAdapter> {
        let adapters = &self.fleet.adapters[self.index as usize];
        adapters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of [`Slot::own`] that asked for an adapter: name, requests and uncached prompt tokens of each that has any.
    pub fn own_by_adapter(&self) -> Vec<(Box<str>, u32, u64)> {
        let adapters = self.adapters();
        let entries = adapters.iter();
        entries
            .map(|(name, (requests, tokens))| (name.clone(), *requests, *tokens))
            .collect()
    }

    /// What this process has in flight here, adapters included: requests and uncached prompt tokens.
    pub fn own(&self) -> (u32, u64) {
        let cell = self.cell();
        (cell.own_requests.load(Relaxed), cell.own_tokens.load(Relaxed))
    }

    /// Requests of this process that this endpoint failed, since the slot was claimed.
    pub fn failures(&self) -> u64 {
        self.cell().failures.load(Relaxed)
    }

    /// Counts a request that this endpoint failed.
    pub fn failed(&self) {
        self.cell().failures.fetch_add(1, Relaxed);
    }

    pub(crate) fn begin(&self, adapter: Option<&str>, tokens: u64) {
        let cell = self.cell();
        cell.own_requests.fetch_add(1, Relaxed);
        cell.own_tokens.fetch_add(tokens, Relaxed);
        if let Some(name) = adapter {
            let mut adapters = self.adapters();
            let count = adapters.entry(name.into()).or_default();
            *count = (count.0 + 1, count.1.saturating_add(tokens));
        }
    }

    pub(crate) fn end(&self, adapter: Option<&str>, tokens: u64) {
        let cell = self.cell();
        cell.own_requests.fetch_sub(1, Relaxed);
        cell.own_tokens.fetch_sub(tokens, Relaxed);
        if let Some(name) = adapter {
            let mut adapters = self.adapters();
            if let Some(count) = adapters.get_mut(name) {
                *count = (count.0.saturating_sub(1), count.1.saturating_sub(tokens));
                if count.0 == 0 {
                    adapters.remove(name);
                }
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.fleet
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_back_fresh_once_nothing_holds_it() {
        let fleet = Fleet::new(1);
        let slot = fleet.claim().unwrap();
        let held = Arc::clone(&slot);
        slot.sampled(
            Sample {
                waiting: Some(3),
                ..Sample::default()
            },
            Time::from_millis(5),
        );
        slot.begin(None, 10);
        drop(slot);
        assert!(fleet.claim().is_none(), "a lease still refers to the cell");
        held.end(None, 10);
        drop(held);
        let fresh = fleet.claim().unwrap();
        assert_eq!(
            fresh.view(Time::from_millis(9)),
            View {
                latency_age: 9,
                ..View::default()
            }
        );
    }

    #[test]
    fn adapters_are_counted_within_their_endpoint_and_leave_nothing_behind() {
        let fleet = Fleet::new(1);
        let slot = fleet.claim().unwrap();
        slot.begin(None, 5);
        slot.begin(Some("sql"), 7);
        slot.begin(Some("sql"), 1);
        assert_eq!(slot.own(), (3, 13));
        assert_eq!(slot.own_by_adapter(), [("sql".into(), 2, 8)]);
        slot.end(Some("sql"), 7);
        slot.end(Some("sql"), 1);
        assert_eq!((slot.own(), slot.own_by_adapter()), ((1, 5), Vec::new()));
    }

    #[test]
    fn a_view_adds_own_and_others_and_tells_ages() {
        let fleet = Fleet::new(2);
        let slot = fleet.claim().unwrap();
        slot.begin(None, 7);
        slot.set_others(2, 30);
        slot.sampled(
            Sample {
                running: Some(4),
                kv_usage: Some(0.5),
                ..Sample::default()
            },
            Time::from_millis(100),
        );
        let view = slot.view(Time::from_millis(350));
        assert_eq!((view.in_flight, view.in_flight_tokens), (3, 37));
        assert_eq!(view.sample_age, Some(250));
        assert_eq!(view.sample.waiting, None);
        assert_eq!(view.sample.kv_usage, Some(0.5));
    }
}
