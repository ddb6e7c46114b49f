//! What all deciders together have in flight: the sum over origins of what each last reported.
//!
//! What must always hold: nothing counts twice. Reports carry absolute values, so a report replaces what its origin said
//! before, whatever the order or number of its arrivals: one with a sequence that is not above the last is ignored, and a
//! higher epoch starts the origin anew. An origin whose stream has ended keeps its counts for a while (it may be back in
//! a moment with its requests still running), then they go. It fails by refusing what is beyond its bounds, counted.
//!
//! An origin speaks over a subscription here or over that of another controller, which tells of it (`peer`); it may move from one to the other,
//! and counts once meanwhile: where the newest report came from is where it is.

use std::collections::{BTreeMap, HashMap, HashSet};

use kthena_scheduler::state::proto::{self, Echo, Report};
use kthena_scheduler::time::Time;

/// Names one connection of a subscriber; never used again.
pub(super) type SubscriberId = u64;

/// Longest name of an origin, bytes.
pub(super) const MAX_ORIGIN: usize = 128;

/// Who tells of origins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// A filter that is connected here.
    Filter(SubscriberId),
    /// Another controller, of its filters.
    Peer(SubscriberId),
}

/// An endpoint and an adapter.
pub(super) type Entry = (u64, String);

/// Bounds of what origins may occupy.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Origins one subscriber may speak for.
    pub max_origins: usize,
    /// Origins that another controller may tell of.
    pub max_peer_origins: usize,
    /// (endpoint, adapter) pairs one origin may report.
    pub max_entries: usize,
    /// How long a lost origin's counts are kept, milliseconds.
    pub lost_after_ms: u64,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Merged.
    Merged,
    /// Older than what was merged already: ignored.
    Stale,
    /// Beyond a bound: all of it (too many origins) or the entries in excess were left out.
    Excess,
}

/// Requests in flight at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) requests: u64,
    pub(super) tokens: u64,
}

/// The reports of all origins, and their sums.
#[derive(Debug)]
pub(super) struct Merge {
    bounds: Bounds,
    origins: BTreeMap<String, Origin>,
    /// Absent = nothing in flight.
    sums: HashMap<u64, InFlight>,
    /// Endpoints that a report touched since [`Merge::take_touched`].
    touched: HashSet<u64>,
}

#[derive(Debug)]
struct Origin {
    speaker: Speaker,
    epoch: u64,
    sequence: u64,
    entries: HashMap<Entry, InFlight>,
    waiting: HashMap<String, u32>,
    /// Set when the stream that spoke for it has ended.
    lost_at: Option<Time>,
}

// === impl Speaker ===

impl Speaker {
    /// The connection.
    pub(super) fn id(self) -> SubscriberId {
        match self {
            Self::Filter(id) | Self::Peer(id) => id,
        }
    }

    /// Whether it is a filter that is connected here.
    pub(super) fn is_filter(self) -> bool {
        matches!(self, Self::Filter(_))
    }
}

// === impl Merge ===

impl Merge {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            origins: BTreeMap::new(),
            sums: HashMap::new(),
            touched: HashSet::new(),
        }
    }

    /// Merges a report that came over `speaker`'s stream.
    pub(super) fn report(&mut self, speaker: Speaker, report: Report) -> Outcome {
        let known = self.origins.contains_key(&report.origin);
        let spoken_for = || self.origins.values().filter(|origin| origin.speaker == speaker);
        let allowed = match speaker {
            Speaker::Filter(_) => self.bounds.max_origins,
            Speaker::Peer(_) => self.bounds.max_peer_origins,
        };
        if !known && spoken_for().count() >= allowed {
            return Outcome::Excess;
        }
        let origin = self.origins.entry(report.origin).or_insert_with(|| Origin {
            speaker,
            epoch: report.epoch,
            sequence: 0,
            entries: HashMap::new(),
            waiting: HashMap::new(),
            lost_at: None,
        });
        let newer = report.epoch > origin.epoch || (report.epoch == origin.epoch && report.sequence > origin.sequence);
        // A controller tells several messages under one number, and all of it again when it is followed anew.
        let again = !speaker.is_filter()
            && (report.epoch, report.sequence) == (origin.epoch, origin.sequence)
            && (origin.speaker == speaker || origin.lost_at.is_some());
        if known && !newer && !again {
            return Outcome::Stale;
        }
        let mut before = HashMap::new();
        if report.complete || report.epoch > origin.epoch {
            before = std::mem::take(&mut origin.entries);
            origin.waiting.clear();
        }
        origin.speaker = speaker;
        origin.lost_at = None;
        origin.epoch = report.epoch;
        origin.sequence = report.sequence;

        let mut outcome = Outcome::Merged;
        for entry in report.in_flight {
            let now = InFlight {
                requests: entry.requests.into(),
                tokens: entry.tokens,
            };
            let key = (entry.endpoint, entry.adapter);
            self.touched.insert(key.0);
            if let Some(old) = before.remove(&key).or_else(|| origin.entries.remove(&key)) {
                subtract(&mut self.sums, key.0, old);
            }
            if now == InFlight::default() {
                continue;
            }
            if origin.entries.len() >= self.bounds.max_entries {
                outcome = Outcome::Excess;
                continue;
            }
            add(&mut self.sums, key.0, now);
            origin.entries.insert(key, now);
        }
        for ((endpoint, _), old) in before {
            self.touched.insert(endpoint);
            subtract(&mut self.sums, endpoint, old);
        }
        for entry in report.waiting {
            if entry.requests == 0 {
                origin.waiting.remove(&entry.server);
            } else if origin.waiting.len() < self.bounds.max_entries || origin.waiting.contains_key(&entry.server) {
                origin.waiting.insert(entry.server, entry.requests);
            } else {
                outcome = Outcome::Excess;
            }
        }
        outcome
    }

    /// A new stream says that it speaks for an origin: until its first report, what the old one said counts, and the
    /// time that a lost origin has left goes on.
    pub(super) fn adopt(&mut self, origin: &str, subscriber: SubscriberId, now: Time) {
        if let Some(origin) = self.origins.get_mut(origin) {
            origin.speaker = Speaker::Filter(subscriber);
            origin.lost_at.get_or_insert(now);
        }
    }

    /// Notes that a subscriber's stream has ended.
    pub(super) fn lose(&mut self, subscriber: SubscriberId, now: Time) {
        for origin in self.origins.values_mut().filter(|o| o.speaker.id() == subscriber) {
            origin.lost_at.get_or_insert(now);
        }
    }

    /// Drops the counts of origins that have been lost for long enough. Returns which they were, and who spoke for them.
    pub(super) fn expire(&mut self, now: Time) -> Vec<(String, Speaker)> {
        let limit = self.bounds.lost_after_ms;
        let late = |origin: &Origin| origin.lost_at.is_some_and(|at| now.since(at) >= limit);
        let gone: Vec<_> = self.origins.extract_if(.., |_, origin| late(origin)).collect();
        let drop_counts = |(name, origin): (String, Origin)| {
            self.forget(&origin);
            (name, origin.speaker)
        };
        gone.into_iter().map(drop_counts).collect()
    }

    /// Drops the counts of an origin whose speaker says that it is gone.
    pub(super) fn end(&mut self, name: &str, speaker: Speaker) {
        if self.speaker(name) == Some(speaker)
            && let Some(origin) = self.origins.remove(name)
        {
            self.forget(&origin);
        }
    }

    fn forget(&mut self, origin: &Origin) {
        for ((endpoint, _), old) in &origin.entries {
            self.touched.insert(*endpoint);
            subtract(&mut self.sums, *endpoint, *old);
        }
    }

    /// The origins that filters connected here speak for, or spoke last.
    pub(super) fn of_filters(&self) -> impl Iterator<Item = &str> {
        let own = self.origins.iter().filter(|(_, origin)| origin.speaker.is_filter());
        own.map(|(name, _)| name.as_str())
    }

    /// What an origin of a filter connected here has in flight, of these entries or of all, as of its last report.
    pub(super) fn report_of(&self, name: &str, entries: Option<&HashSet<Entry>>) -> Option<Report> {
        let origin = self.origins.get(name).filter(|origin| origin.speaker.is_filter())?;
        let entry = |(endpoint, adapter): &Entry, value: InFlight| proto::InFlight {
            endpoint: *endpoint,
            adapter: adapter.clone(),
            requests: u32::try_from(value.requests).unwrap_or(u32::MAX),
            tokens: value.tokens,
            failures: 0,
        };
        let in_flight = match entries {
            None => origin.entries.iter().map(|(key, value)| entry(key, *value)).collect(),
            Some(keys) => {
                let value = |key: &Entry| origin.entries.get(key).copied().unwrap_or_default();
                keys.iter().map(|key| entry(key, value(key))).collect()
            }
        };
        Some(Report {
            origin: name.to_owned(),
            epoch: origin.epoch,
            sequence: origin.sequence,
            complete: entries.is_none(),
            in_flight,
            waiting: Vec::new(),
        })
    }

    /// What is in flight at an endpoint, over all origins.
    pub(super) fn in_flight(&self, endpoint: u64) -> InFlight {
        self.sums.get(&endpoint).copied().unwrap_or_default()
    }

    /// Requests that wait for an endpoint of each ModelServer, over all origins.
    pub(super) fn waiting(&self) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for (server, requests) in self.origins.values().flat_map(|origin| &origin.waiting) {
            *sums.entry(server.as_str()).or_default() += u64::from(*requests);
        }
        sums
    }

    /// The last report merged of each origin that a subscriber speaks for.
    pub(super) fn echoes(&self, subscriber: SubscriberId) -> Vec<Echo> {
        let own = self.origins.iter().filter(|(_, o)| o.speaker.id() == subscriber);
        own.map(|(name, origin)| Echo {
            origin: name.clone(),
            epoch: origin.epoch,
            sequence: origin.sequence,
        })
        .collect()
    }

    /// Who speaks, or spoke last, for an origin.
    pub(super) fn speaker(&self, origin: &str) -> Option<Speaker> {
        self.origins.get(origin).map(|origin| origin.speaker)
    }

    /// Endpoints that reports touched since the last call, even when their sum is as before: their reporters wait for
    /// the echo.
    pub(super) fn take_touched(&mut self) -> HashSet<u64> {
        std::mem::take(&mut self.touched)
    }

    /// How many origins are known.
    pub(super) fn origins(&self) -> usize {
        self.origins.len()
    }
}

fn add(sums: &mut HashMap<u64, InFlight>, endpoint: u64, value: InFlight) {
    let sum = sums.entry(endpoint).or_default();
    sum.requests = sum.requests.saturating_add(value.requests);
    sum.tokens = sum.tokens.saturating_add(value.tokens);
}

fn subtract(sums: &mut HashMap<u64, InFlight>, endpoint: u64, value: InFlight) {
    if let Some(sum) = sums.get_mut(&endpoint) {
        sum.requests = sum.requests.saturating_sub(value.requests);
        sum.tokens = sum.tokens.saturating_sub(value.tokens);
        if *sum == InFlight::default() {
            sums.remove(&endpoint);
        }
    }
}

#[cfg(test)]
mod tests;
