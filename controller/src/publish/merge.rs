//! What all deciders together have in flight: the sum over origins of what each last reported.
//!
//! What must always hold: nothing counts twice. Reports carry absolute values, so a report replaces what its origin said
//! before, whatever the order or number of its arrivals: one with a sequence that is not above the last is ignored, and a
//! higher epoch starts the origin anew. An origin whose stream has ended keeps its counts for a while (it may be back in
//! a moment with its requests still running), then they go. It fails by refusing what is beyond its bounds, counted.

use std::collections::{BTreeMap, HashMap, HashSet};

use kthena_scheduler::state::proto::{Echo, Report};
use kthena_scheduler::time::Time;

/// Names one connection of a subscriber; never used again.
pub(super) type SubscriberId = u64;

/// Bounds of what origins may occupy.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Origins one subscriber may speak for.
    pub max_origins: usize,
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
    subscriber: SubscriberId,
    epoch: u64,
    sequence: u64,
    entries: HashMap<(u64, String), InFlight>,
    waiting: HashMap<String, u32>,
    /// Set when the stream that spoke for it has ended.
    lost_at: Option<Time>,
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

    /// Merges a report that came over `subscriber`'s stream.
    pub(super) fn report(&mut self, subscriber: SubscriberId, report: Report) -> Outcome {
        let known = self.origins.contains_key(&report.origin);
        let spoken_for = || self.origins.values().filter(|origin| origin.subscriber == subscriber);
        if !known && spoken_for().count() >= self.bounds.max_origins {
            return Outcome::Excess;
        }
        let origin = self.origins.entry(report.origin).or_insert_with(|| Origin {
            subscriber,
            epoch: report.epoch,
            sequence: 0,
            entries: HashMap::new(),
            waiting: HashMap::new(),
            lost_at: None,
        });
        let newer = report.epoch > origin.epoch || (report.epoch == origin.epoch && report.sequence > origin.sequence);
        if known && !newer {
            return Outcome::Stale;
        }
        let mut before = HashMap::new();
        if report.complete || report.epoch > origin.epoch {
            before = std::mem::take(&mut origin.entries);
            origin.waiting.clear();
        }
        origin.subscriber = subscriber;
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
            origin.subscriber = subscriber;
            origin.lost_at.get_or_insert(now);
        }
    }

    /// Notes that a subscriber's stream has ended.
    pub(super) fn lose(&mut self, subscriber: SubscriberId, now: Time) {
        for origin in self.origins.values_mut().filter(|o| o.subscriber == subscriber) {
            origin.lost_at.get_or_insert(now);
        }
    }

    /// Drops the counts of origins that have been lost for long enough; true when there were any.
    pub(super) fn expire(&mut self, now: Time) -> bool {
        let limit = self.bounds.lost_after_ms;
        let gone: Vec<_> = self
            .origins
            .extract_if(.., |_, origin| origin.lost_at.is_some_and(|at| now.since(at) >= limit))
            .collect();
        for (_, origin) in &gone {
            for ((endpoint, _), old) in &origin.entries {
                self.touched.insert(*endpoint);
                subtract(&mut self.sums, *endpoint, *old);
            }
        }
        !gone.is_empty()
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
        let own = self.origins.iter().filter(|(_, o)| o.subscriber == subscriber);
        own.map(|(name, origin)| Echo {
            origin: name.clone(),
            epoch: origin.epoch,
            sequence: origin.sequence,
        })
        .collect()
    }

    /// The subscriber that speaks, or spoke last, for an origin.
    pub(super) fn speaker(&self, origin: &str) -> Option<SubscriberId> {
        self.origins.get(origin).map(|origin| origin.subscriber)
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
mod tests {
    use kthena_scheduler::state::proto;
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        max_origins: 4,
        max_entries: 8,
        lost_after_ms: 5000,
    };

    fn report(origin: &str, epoch: u64, sequence: u64, complete: bool, entries: &[(u64, u32)]) -> Report {
        Report {
            origin: origin.into(),
            epoch,
            sequence,
            complete,
            in_flight: entries
                .iter()
                .map(|(endpoint, requests)| proto::InFlight {
                    endpoint: *endpoint,
                    requests: *requests,
                    tokens: u64::from(*requests) * 10,
                    ..Default::default()
                })
                .collect(),
            waiting: Vec::new(),
        }
    }

    #[test]
    fn a_sum_over_origins_that_each_replace_what_they_said() {
        let mut merge = Merge::new(BOUNDS);
        merge.report(1, report("a", 1, 1, true, &[(7, 3)]));
        merge.report(2, report("b", 1, 1, true, &[(7, 2), (8, 1)]));
        merge.report(1, report("a", 1, 2, false, &[(7, 4)]));
        assert_eq!(
            merge.in_flight(7),
            InFlight {
                requests: 6,
                tokens: 60
            }
        );
        assert_eq!(merge.report(1, report("a", 1, 2, false, &[(7, 9)])), Outcome::Stale);
        assert_eq!(merge.in_flight(7).requests, 6);
        merge.report(2, report("b", 1, 5, true, &[(8, 1)]));
        assert_eq!(
            merge.in_flight(7).requests,
            4,
            "a complete report zeroes what is absent"
        );
        merge.report(1, report("a", 2, 1, false, &[(8, 1)]));
        assert_eq!(merge.in_flight(7).requests, 0, "a new epoch starts anew");
        assert_eq!(merge.in_flight(8).requests, 2);
        let echo = Echo {
            origin: "a".into(),
            epoch: 2,
            sequence: 1,
        };
        assert_eq!(merge.echoes(1), vec![echo]);
    }

    #[test]
    fn a_lost_origin_keeps_its_counts_for_a_while_unless_it_comes_back() {
        let mut merge = Merge::new(BOUNDS);
        merge.report(1, report("a", 1, 1, true, &[(7, 3)]));
        merge.report(1, report("b", 1, 1, true, &[(7, 1)]));
        merge.lose(1, Time::from_millis(100));
        merge.report(2, report("b", 1, 2, true, &[(7, 1)]));
        assert!(!merge.expire(Time::from_millis(5099)));
        assert_eq!(merge.in_flight(7).requests, 4);
        assert!(merge.expire(Time::from_millis(5100)));
        assert_eq!(merge.in_flight(7).requests, 1);
        merge.lose(1, Time::from_millis(5200));
        assert!(
            !merge.expire(Time::from_millis(99_999)),
            "b speaks over another stream now"
        );
    }

    #[test]
    fn bounds_hold() {
        let mut merge = Merge::new(BOUNDS);
        let many: Vec<_> = (0..20).map(|endpoint| (endpoint, 1)).collect();
        assert_eq!(merge.report(1, report("a", 1, 1, true, &many)), Outcome::Excess);
        assert_eq!(merge.sums.len(), 8);
        for origin in ["b", "c", "d"] {
            merge.report(1, report(origin, 1, 1, true, &[]));
        }
        assert_eq!(merge.report(1, report("e", 1, 1, true, &[(7, 1)])), Outcome::Excess);
        assert_eq!(merge.origins(), 4);
    }

    proptest! {
        /// Reports of three origins, each doubled and shuffled against the others': the sum is that of the last of each.
        #[test]
        fn any_order_and_number_of_arrivals_counts_once(
            script in proptest::collection::vec((0usize..3, any::<bool>(), proptest::collection::vec((0u64..5, 0u32..4), 0..5), 0usize..6), 1..40),
        ) {
            let bounds = Bounds { max_entries: 64, ..BOUNDS };
            let mut merge = Merge::new(bounds);
            let mut sent: Vec<Report> = Vec::new();
            let mut sequences = [0u64; 3];
            let mut truth = vec![HashMap::<u64, u32>::new(); 3];
            for (origin, complete, entries, again) in script {
                sequences[origin] += 1;
                let mut unique: Vec<(u64, u32)> = Vec::new();
                for (endpoint, requests) in entries {
                    if unique.iter().all(|(e, _)| *e != endpoint) {
                        unique.push((endpoint, requests));
                    }
                }
                if complete {
                    truth[origin].clear();
                }
                truth[origin].extend(unique.iter().copied());
                let name = ["a", "b", "c"][origin];
                let next = report(name, 1, sequences[origin], complete, &unique);
                merge.report(origin as u64, next.clone());
                sent.push(next);
                if let Some(old) = sent.get(again) {
                    let outcome = merge.report(9, old.clone());
                    prop_assert_eq!(outcome, Outcome::Stale);
                }
                for endpoint in 0..5 {
                    let expected: u32 = truth.iter().filter_map(|counts| counts.get(&endpoint)).sum();
                    prop_assert_eq!(merge.in_flight(endpoint).requests, u64::from(expected));
                    prop_assert_eq!(merge.in_flight(endpoint).tokens, u64::from(expected) * 10);
                }
            }
            for origin in 0..3 {
                merge.lose(origin, Time::from_millis(0));
            }
            merge.expire(Time::from_millis(5000));
            prop_assert_eq!(merge.sums.len(), 0);
        }
    }
}
