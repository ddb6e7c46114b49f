//! One controller that follows this one: what it has yet to be told.
//!
//! What must always hold: nothing is queued for it but settlements, which are bounded. Of reports it is remembered which entries changed, their
//! values are looked up when it can take them; so a slow one skips to the newest. It is told what filters connected here said and what was
//! observed here, never what another controller told.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use kthena_scheduler::state::proto::{Report, Settlement};
use prost::Message;
use tokio::sync::Notify;

use super::merge::{Entry, Merge};
use super::progress;
use super::resource::split;
use crate::peers::proto::{Gone, news};

/// Changed entries of one origin that are remembered one by one: beyond them it is told whole.
const MAX_ENTRIES: usize = 4096;

/// What is to be told of an origin.
#[derive(Debug)]
enum Pending {
    /// All that it has in flight.
    Whole,
    /// What it has in flight there.
    Entries(HashSet<Entry>),
    /// It is gone.
    Gone,
}

#[derive(Debug)]
pub(super) struct Follower {
    /// Names the process.
    pub(super) instance: String,
    /// Where it listens, as far as it is known.
    pub(super) address: Option<SocketAddr>,
    pub(super) wake: Arc<Notify>,
    origins: BTreeMap<String, Pending>,
    /// Where it is in the ring of placements.
    pub(super) cursor: u64,
    pub(super) settlements: VecDeque<Settlement>,
    /// How far filters have got.
    pub(super) progress: progress::Told,
}

// === impl Follower ===

impl Follower {
    /// One that was told nothing yet.
    pub(super) fn new(instance: String, address: Option<SocketAddr>, merge: &Merge, progress: progress::Told) -> Self {
        let wake = Arc::new(Notify::new());
        wake.notify_one();
        Self {
            instance,
            address,
            wake,
            origins: merge
                .of_filters()
                .map(|name| (name.to_owned(), Pending::Whole))
                .collect(),
            cursor: 0,
            settlements: VecDeque::new(),
            progress,
        }
    }

    /// A report was merged of a filter connected here.
    pub(super) fn note(&mut self, origin: &str, entries: &[Entry], complete: bool) {
        let pending = self
            .origins
            .entry(origin.to_owned())
            .or_insert_with(|| Pending::Entries(HashSet::new()));
        match pending {
            Pending::Whole => {}
            Pending::Entries(changed) if !complete && changed.len() + entries.len() <= MAX_ENTRIES => {
                changed.extend(entries.iter().cloned());
            }
            Pending::Entries(_) | Pending::Gone => *pending = Pending::Whole,
        }
        self.wake.notify_one();
    }

    /// An origin of a filter connected here does not count any more.
    pub(super) fn note_gone(&mut self, origin: &str) {
        self.origins.insert(origin.to_owned(), Pending::Gone);
        self.wake.notify_one();
    }

    /// What is to be told of reports now.
    pub(super) fn reports(&mut self, merge: &Merge) -> Vec<news::Message> {
        let (mut messages, mut gone) = (Vec::new(), Vec::new());
        for (origin, pending) in std::mem::take(&mut self.origins) {
            let report = match pending {
                Pending::Whole => merge.report_of(&origin, None),
                Pending::Entries(entries) => merge.report_of(&origin, Some(&entries)),
                Pending::Gone => {
                    gone.push(origin);
                    continue;
                }
            };
            // It may have moved to another controller, which tells of it now.
            messages.extend(report.into_iter().flat_map(in_parts).map(news::Message::Report));
        }
        let gone = split(gone, String::len).into_iter();
        messages.extend(gone.map(|origins| news::Message::Gone(Gone { origins })));
        messages
    }
}

/// A report in messages that are not too large, under one number.
fn in_parts(mut report: Report) -> Vec<Report> {
    let parts = split(std::mem::take(&mut report.in_flight), Message::encoded_len);
    if parts.is_empty() {
        return vec![report];
    }
    let part = |(at, in_flight)| Report {
        complete: report.complete && at == 0,
        in_flight,
        ..report.clone()
    };
    parts.into_iter().enumerate().map(part).collect()
}

#[cfg(test)]
mod tests {
    use kthena_scheduler::state::proto::InFlight;

    use super::super::merge::{Bounds, Speaker};
    use super::*;
    use crate::compile::Resources;

    fn merge() -> Merge {
        Merge::new(Bounds {
            max_origins: 4,
            max_peer_origins: 4,
            max_entries: 100_000,
            lost_after_ms: 100,
        })
    }

    fn report(sequence: u64, complete: bool, entries: &[(u64, u32)]) -> Report {
        let in_flight = entries.iter().map(|(endpoint, requests)| InFlight {
            endpoint: *endpoint,
            requests: *requests,
            ..InFlight::default()
        });
        Report {
            origin: "x".into(),
            epoch: 1,
            sequence,
            complete,
            in_flight: in_flight.collect(),
            waiting: Vec::new(),
        }
    }

    fn told(follower: &mut Follower, merge: &Merge) -> Vec<Report> {
        let reports = follower.reports(merge).into_iter();
        reports
            .map(|message| match message {
                news::Message::Report(report) => report,
                other => unreachable!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn what_changed_is_told_once_with_its_newest_value() {
        let mut merge = merge();
        merge.report(Speaker::Filter(1), report(1, true, &[(7, 1), (8, 1)]));
        let progress = progress::Told::new(&Resources::new());
        let mut follower = Follower::new("b".into(), None, &merge, progress);
        let first = told(&mut follower, &merge);
        assert!(first[0].complete && first[0].in_flight.len() == 2);
        assert!(told(&mut follower, &merge).is_empty());
        for sequence in [2, 3] {
            merge.report(Speaker::Filter(1), report(sequence, false, &[(7, sequence as u32)]));
            follower.note("x", &[(7, String::new())], false);
        }
        let next = told(&mut follower, &merge);
        assert_eq!((next.len(), next[0].sequence, next[0].complete), (1, 3, false));
        assert_eq!((next[0].in_flight.len(), next[0].in_flight[0].requests), (1, 3));
        follower.note("x", &[(7, String::new())], false);
        follower.note_gone("x");
        let gone = follower.reports(&merge);
        assert_eq!(
            gone,
            [news::Message::Gone(Gone {
                origins: vec!["x".into()]
            })]
        );
        follower.note_gone("x");
        follower.note("x", &[(7, String::new())], false);
        assert!(told(&mut follower, &merge)[0].complete, "it is back");
    }

    #[test]
    fn a_large_report_goes_in_parts_of_which_the_first_is_complete() {
        let mut merge = merge();
        let entries: Vec<_> = (0..50_000).map(|endpoint| (endpoint, 1)).collect();
        merge.report(Speaker::Filter(1), report(1, true, &entries));
        let progress = progress::Told::new(&Resources::new());
        let mut follower = Follower::new("b".into(), None, &merge, progress);
        let parts = told(&mut follower, &merge);
        assert!(parts.len() > 1 && parts[0].complete && parts[1..].iter().all(|part| !part.complete));
        assert!(parts.iter().all(|part| part.encoded_len() <= super::super::MAX_MESSAGE));
        let mut other = self::merge();
        for part in parts {
            other.report(Speaker::Peer(2), part);
        }
        assert!((0..50_000).all(|endpoint| other.in_flight(endpoint).requests == 1));
    }
}
