//! What this process has in flight, told upward, and remembered until the controller has merged it.
//!
//! The controller sends back sums over all deciders. To know what the *others* have, the receiver takes off its own part
//! as the controller knew it, which is the report that it echoes: so the last reports are kept by sequence until a later
//! one is echoed. What must always hold: values are absolute, so a lost or doubled report does no harm; the history of
//! an endpoint is bounded, and beyond the bound the oldest value kept stands for all older ones.

use std::collections::{BTreeMap, VecDeque};

use super::proto;
use crate::snapshot::EndpointId;

/// Entries in one report, so that it stays below the protocol's 256 KiB; what is left over goes with the next.
const MAX_ENTRIES: usize = 4096;

/// The start of this process never loses its counts: they live as long as it does.
const EPOCH: u64 = 1;

/// What counts are told apart by: the endpoint, and the adapter asked for (empty = the base model).
pub(super) type Reported = (EndpointId, Box<str>);

/// What one endpoint has of this process' requests, for the base model or for one adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    /// Requests in flight.
    pub(super) requests: u32,
    /// Their uncached prompt tokens.
    pub(super) tokens: u64,
    /// Requests that failed since the process started.
    pub(super) failures: u64,
}

/// Makes reports and remembers them.
#[derive(Debug)]
pub(super) struct Reports {
    origin: String,
    sequence: u64,
    complete: bool,
    max_history: usize,
    sent: BTreeMap<Reported, VecDeque<(u64, Own)>>,
    /// Values forgotten before they were echoed.
    pub(super) forgotten: u64,
}

impl Reports {
    pub(super) fn new(origin: String, max_history: usize) -> Self {
        Self {
            origin,
            sequence: 0,
            complete: true,
            max_history: max_history.max(1),
            sent: BTreeMap::new(),
            forgotten: 0,
        }
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// A new stream: the next report is complete.
    pub(super) fn reconnected(&mut self) {
        self.complete = true;
    }

    /// What changed since the last report, if anything did. `now` is every endpoint with a cell, in any order.
    pub(super) fn next(&mut self, now: impl Iterator<Item = (Reported, Own)>) -> Option<proto::Report> {
        let mut current: BTreeMap<Reported, Own> = now.collect();
        for of in self.sent.keys() {
            if !current.contains_key(of) {
                current.insert(of.clone(), Own::default());
            }
        }
        let complete = self.complete;
        let changed: Vec<(Reported, Own)> = current
            .into_iter()
            .filter(|(of, own)| {
                let told = self.told(of);
                told != *own || complete && *own != Own::default()
            })
            .take(MAX_ENTRIES)
            .collect();
        if changed.is_empty() && !complete {
            return None;
        }
        self.complete = false;
        self.sequence += 1;
        for (of, own) in &changed {
            self.remember(of, *own);
        }
        Some(proto::Report {
            origin: self.origin.clone(),
            epoch: EPOCH,
            sequence: self.sequence,
            complete,
            in_flight: changed.into_iter().map(entry).collect(),
            // Nothing is held for want of an endpoint: such a request is answered 503.
            waiting: Vec::new(),
        })
    }

    /// The last report that the controller merged, from the echoes of one message; `None` = it knows none of ours.
    pub(super) fn echo(&mut self, echoes: &[proto::Echo]) -> Option<u64> {
        let echo = echoes
            .iter()
            .find(|echo| echo.origin == self.origin && echo.epoch == EPOCH && echo.sequence <= self.sequence)?;
        let merged = echo.sequence;
        self.sent.retain(|_, history| {
            // Echoes only grow: what lies before the one in force is never asked for again.
            while history.get(1).is_some_and(|(next, _)| *next <= merged) {
                history.pop_front();
            }
            history.len() > 1 || history[0].0 > merged || history[0].1 != Own::default()
        });
        Some(merged)
    }

    /// What the report of this sequence, and those before it, said of an endpoint, all adapters together.
    pub(super) fn at(&self, id: EndpointId, sequence: u64) -> Own {
        let mut sum = Own::default();
        let from = (id, Box::default());
        for (_, history) in self.sent.range(from..).take_while(|((of, _), _)| *of == id) {
            let mut newest_first = history.iter().rev();
            if let Some((_, own)) = newest_first.find(|(sent, _)| *sent <= sequence) {
                sum.requests = sum.requests.saturating_add(own.requests);
                sum.tokens = sum.tokens.saturating_add(own.tokens);
                sum.failures = sum.failures.saturating_add(own.failures);
            }
        }
        sum
    }

    fn told(&self, of: &Reported) -> Own {
        let last = self.sent.get(of).and_then(VecDeque::back);
        last.map_or_else(Own::default, |(_, own)| *own)
    }

    fn remember(&mut self, of: &Reported, own: Own) {
        let history = self.sent.entry(of.clone()).or_default();
        history.push_back((self.sequence, own));
        if history.len() > self.max_history {
            history.pop_front();
            self.forgotten += 1;
        }
    }
}

fn entry(((id, adapter), own): (Reported, Own)) -> proto::InFlight {
    proto::InFlight {
        endpoint: id.0,
        adapter: adapter.into_string(),
        requests: own.requests,
        tokens: own.tokens,
        failures: own.failures,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: EndpointId = EndpointId(1);
    const B: EndpointId = EndpointId(2);

    fn own(requests: u32) -> Own {
        Own {
            requests,
            tokens: u64::from(requests) * 10,
            failures: 0,
        }
    }

    /// Counts of the base model.
    fn base(entries: &[(EndpointId, Own)]) -> impl Iterator<Item = (Reported, Own)> {
        entries.iter().map(|(id, own)| ((*id, "".into()), *own))
    }

    fn echo(sequence: u64) -> [proto::Echo; 1] {
        [proto::Echo {
            origin: "me".into(),
            epoch: EPOCH,
            sequence,
        }]
    }

    #[test]
    fn the_first_report_is_complete_and_the_next_say_what_changed() {
        let mut reports = Reports::new("me".into(), 8);
        let first = reports.next(base(&[(A, own(2)), (B, own(0))])).unwrap();
        assert!(first.complete && first.sequence == 1);
        assert_eq!(first.in_flight.len(), 1, "what is not in a complete report is zero");
        assert_eq!(reports.next(base(&[(A, own(2)), (B, own(0))])), None);
        let second = reports.next(base(&[(A, own(2)), (B, own(3))])).unwrap();
        assert_eq!((second.sequence, second.in_flight[0].endpoint), (2, B.0));
        reports.reconnected();
        let third = reports.next(base(&[(A, own(2)), (B, own(3))])).unwrap();
        assert!(third.complete && third.in_flight.len() == 2);
    }

    #[test]
    fn adapters_are_told_apart_and_taken_off_together() {
        let mut reports = Reports::new("me".into(), 8);
        let of = |adapter: &str, requests| ((A, adapter.into()), own(requests));
        let first = reports.next([of("", 1), of("sql", 2)].into_iter()).unwrap();
        let told: Vec<_> = first
            .in_flight
            .iter()
            .map(|one| (&*one.adapter, one.requests))
            .collect();
        assert_eq!(told, [("", 1), ("sql", 2)]);
        let second = reports.next([of("", 1)].into_iter()).unwrap();
        let told: Vec<_> = second
            .in_flight
            .iter()
            .map(|one| (&*one.adapter, one.requests))
            .collect();
        assert_eq!(told, [("sql", 0)], "only what changed, and what went");
        assert_eq!((reports.at(A, 1), reports.at(A, 2)), (own(3), own(1)));
        reports.echo(&echo(2));
        assert_eq!(
            reports.sent.len(),
            1,
            "an adapter without requests leaves nothing behind"
        );
    }

    #[test]
    fn an_endpoint_that_went_is_told_to_be_empty_once() {
        let mut reports = Reports::new("me".into(), 8);
        reports.next(base(&[(A, own(1))])).unwrap();
        let gone = reports.next(base(&[])).unwrap();
        assert_eq!((gone.in_flight[0].endpoint, gone.in_flight[0].requests), (A.0, 0));
        assert_eq!(reports.next(base(&[])), None);
        let merged = reports.echo(&echo(2)).unwrap();
        assert_eq!(reports.at(A, merged), Own::default());
        assert!(reports.sent.is_empty(), "nothing is kept of what is settled");
    }

    #[test]
    fn the_value_at_an_echo_is_the_last_one_sent_until_then() {
        let mut reports = Reports::new("me".into(), 8);
        for requests in [1, 2, 2, 5] {
            reports.next(base(&[(A, own(requests))]));
        }
        // Sequences 1, 2 and 3: the third call had nothing to say.
        assert_eq!(reports.at(A, 0), Own::default());
        assert_eq!(reports.at(A, 1), own(1));
        let merged = reports.echo(&echo(2)).unwrap();
        assert_eq!(reports.at(A, merged), own(2));
        assert_eq!(
            reports.sent[&(A, "".into())].len(),
            2,
            "what is older than the echo is forgotten"
        );
        assert_eq!(
            reports.echo(&echo(9)),
            None,
            "an echo of what was never sent counts for nothing"
        );
    }

    #[test]
    fn the_history_of_a_controller_that_never_echoes_is_bounded() {
        let mut reports = Reports::new("me".into(), 3);
        for requests in 1..=10 {
            reports.next(base(&[(A, own(requests))]));
        }
        assert_eq!((reports.sent[&(A, "".into())].len(), reports.forgotten), (3, 7));
    }
}
