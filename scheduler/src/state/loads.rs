//! Loads as pushed by the controller, written into the endpoints' cells.
//!
//! What must always hold: a sample's age counts from when it was taken, not from when it came; what others have in
//! flight is the merged sum less our own part in it, never below zero. While no controller is heard, the counts of
//! others fade to nothing over a while: nobody tells us that those requests ended.

use std::collections::BTreeMap;

use super::endpoints::Registry;
use super::reports::Reports;
use super::translate::Observed;
use crate::load::Slot;
use crate::snapshot::EndpointId;
use crate::time::Time;

/// The last load of every ModelServer, and what others have in flight.
#[derive(Debug)]
pub(super) struct Loads {
    held: BTreeMap<Box<str>, Received>,
    others: BTreeMap<EndpointId, (u32, u64)>,
    lost: Option<Time>,
    fade_ms: u64,
}

#[derive(Debug)]
struct Received {
    observed: Vec<Observed>,
    at: Time,
}

impl Loads {
    /// Others' counts are gone `fade_ms` after the controller was lost.
    pub(super) fn new(fade_ms: u64) -> Self {
        Self {
            held: BTreeMap::new(),
            others: BTreeMap::new(),
            lost: None,
            fade_ms: fade_ms.max(1),
        }
    }

    /// Takes a ModelServer's loads in. `merged` is our last report that their counts contain.
    pub(super) fn set(
        &mut self,
        server: &str,
        observed: Vec<Observed>,
        at: Time,
        merged: Option<u64>,
        reports: &Reports,
    ) {
        for before in self
            .held
            .get(server)
            .into_iter()
            .flat_map(|received| &received.observed)
        {
            self.others.remove(&before.id);
        }
        for seen in &observed {
            let own = merged.map(|sequence| reports.at(seen.id, sequence)).unwrap_or_default();
            let others = (
                seen.in_flight.saturating_sub(own.requests),
                seen.in_flight_tokens.saturating_sub(own.tokens),
            );
            self.others.insert(seen.id, others);
        }
        self.held.insert(server.into(), Received { observed, at });
    }

    /// Writes a ModelServer's loads into the cells of its endpoints.
    pub(super) fn write(&self, server: &str, registry: &Registry) {
        let Some(received) = self.held.get(server) else { return };
        for seen in &received.observed {
            if let Some(endpoint) = registry.get(seen.id) {
                write(&endpoint.slot, seen, received.at);
                let (requests, tokens) = self.others.get(&seen.id).copied().unwrap_or_default();
                endpoint.slot.set_others(requests, tokens);
            }
        }
    }

    /// Forgets a ModelServer's loads.
    pub(super) fn remove(&mut self, server: &str, registry: &Registry) {
        let Some(received) = self.held.remove(server) else {
            return;
        };
        for seen in &received.observed {
            self.others.remove(&seen.id);
            if let Some(endpoint) = registry.get(seen.id) {
                endpoint.slot.set_others(0, 0);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn contains(&self, server: &str) -> bool {
        self.held.contains_key(server)
    }

    /// The controller is not heard any more, or is again.
    pub(super) fn set_lost(&mut self, lost: Option<Time>) {
        self.lost = lost;
    }

    /// Lets others' counts fade while the controller is lost.
    pub(super) fn fade(&mut self, now: Time, registry: &Registry) {
        let Some(lost) = self.lost else { return };
        let left = self.fade_ms.saturating_sub(now.since(lost));
        for (id, (requests, tokens)) in &self.others {
            if let Some(endpoint) = registry.get(*id) {
                let scaled = |count: u64| (u128::from(count) * u128::from(left) / u128::from(self.fade_ms)) as u64;
                endpoint
                    .slot
                    .set_others(scaled(u64::from(*requests)) as u32, scaled(*tokens));
            }
        }
        if left == 0 {
            self.others.clear();
        }
    }
}

fn write(slot: &Slot, seen: &Observed, at: Time) {
    if let Some(age) = seen.sample_age {
        slot.sampled(seen.sample, at.before(age));
    }
    slot.measured(seen.latency, at.before(seen.latency_age));
    slot.set_down(seen.down);
}
