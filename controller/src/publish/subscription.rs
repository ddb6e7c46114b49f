//! A live subscription: what its filter says goes into the hub, what it must be told comes out.
//!
//! What must always hold: its end, however it comes, starts the clock for what it had reported.

use std::sync::Arc;

use kthena_scheduler::state::PROTOCOL_MINOR;
use kthena_scheduler::state::proto::{
    Ack, Counted, Counts, FromFilter, Hello, InFlight, Placements, Report, ResourceType, Settlements, ToFilter,
    from_filter, to_filter,
};
use tokio::sync::Notify;

use super::hub::{Hub, Inner};
use super::merge::{Entry, MAX_ORIGIN, Outcome, Speaker, SubscriberId};
use super::scope::{Namespaces, Scope};
use super::subscriber::{Config, Subscriber};
use super::view::Answered;
use crate::compile::{Key, Resource};
use crate::metrics::kind;

/// Settlements in one message: some hundred bytes each.
const SETTLEMENTS_PER_MESSAGE: usize = 1024;

/// Why a subscription is refused or ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The stream did not begin with a hello.
    #[error("the first message must be hello")]
    NoHello,
    /// A second hello.
    #[error("hello may come only once")]
    SecondHello,
    /// Versions are too far apart.
    #[error("this controller speaks protocol minor version {PROTOCOL_MINOR} and one before and after it")]
    Version,
    /// The origin is empty or too long.
    #[error("origin must have 1 to {MAX_ORIGIN} bytes")]
    Origin,
    /// It asks for a namespace that it may not see.
    #[error("this client may not see namespace {0:?}, only {1}: see --state-scope of the controller")]
    Scope(String, String),
    /// There are too many subscribers.
    #[error("too many subscribers: raise --state-max-subscribers")]
    Full,
    /// Updates were not acknowledged in time.
    #[error("updates were not acknowledged in time")]
    Silent,
    /// Messages were not taken in time.
    #[error("messages were not taken in time")]
    Stalled,
}

/// A live subscription; dropping it ends it.
#[derive(Debug)]
pub(super) struct Subscription {
    hub: Arc<Hub>,
    id: SubscriberId,
    wake: Arc<Notify>,
}

// === impl Subscription ===

impl Subscription {
    /// Begins a subscription of a client that may see these namespaces.
    ///
    /// # Errors
    /// The subscriber cannot be served, and why.
    pub(super) fn begin(hub: &Arc<Hub>, hello: Hello, allowed: &Namespaces) -> Result<Self, Refusal> {
        let mut inner = hub.inner.lock();
        if hello.protocol_minor.abs_diff(PROTOCOL_MINOR) > 1 {
            return Err(Refusal::Version);
        }
        if hello.origin.is_empty() || hello.origin.len() > MAX_ORIGIN {
            return Err(Refusal::Origin);
        }
        let scope = Scope::new(&hello, allowed).map_err(|excess| Refusal::Scope(excess, allowed.to_string()))?;
        if inner.subscribers.len() >= hub.settings.max_subscribers {
            return Err(Refusal::Full);
        }
        if !hello.gateway.is_empty() {
            tracing::warn!(
                origin = %hello.origin,
                "a filter tells the gateway that it decides for, which narrows nothing: routes serve all gateways, as their parentRefs are not \
                 evaluated; what it sees is narrowed by namespaces"
            );
        }
        let id = inner.next_subscriber;
        inner.next_subscriber += 1;
        inner.merge.adopt(&hello.origin, id, hub.clock.now());
        let wake = Arc::new(Notify::new());
        let mut subscriber = Subscriber::new(hello, scope, Arc::clone(&wake));
        subscriber.echoes = inner.merge.echoes(id);
        inner.subscribers.insert(id, subscriber);
        let inner = &mut *inner;
        let sees_everything = inner.narrowed(id).is_none();
        for follower in inner.followers.values_mut() {
            // One that sees everything is told of as starting, any other with each resource.
            if !sees_everything {
                follower.progress.touch(inner.resources.keys());
            }
            follower.wake.notify_one();
        }
        inner.answered = Answered::Anything;
        hub.metrics.subscribers.set(inner.subscribers.len() as i64);
        wake.notify_one();
        Ok(Self {
            hub: Arc::clone(hub),
            id,
            wake,
        })
    }

    /// Returns when there may be something to send.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// What to send now, in order.
    pub(super) fn next(&self) -> Result<Vec<ToFilter>, Refusal> {
        let now = self.hub.clock.now();
        let mut messages = Vec::new();
        let mut inner = self.hub.inner.lock();
        let inner = &mut *inner;
        let (Some(generation), Some(subscriber)) = (inner.generation, inner.subscribers.get_mut(&self.id)) else {
            return Ok(messages);
        };
        if subscriber.silent_for(now) > self.hub.settings.ack_timeout_ms {
            return Err(Refusal::Silent);
        }
        let before = subscriber.acknowledged_generation;
        let config = Config {
            resources: &inner.resources,
            generation,
            changes: &inner.changes,
        };
        for outgoing in subscriber.updates(config, &inner.loads, now) {
            messages.push(ToFilter {
                message: Some(to_filter::Message::Update(outgoing.update)),
                echoes: outgoing.echoes,
            });
        }
        if before != subscriber.acknowledged_generation {
            self.hub.answered();
            // It had nothing to acknowledge, as it had everything.
            inner
                .followers
                .values_mut()
                .for_each(|follower| follower.wake.notify_one());
        }
        let (loads, scope) = (&inner.loads, &subscriber.scope);
        let read = inner.ring.read(
            &mut subscriber.cursor,
            |from| from.id() != self.id,
            |endpoint| loads.sees(scope, endpoint),
        );
        self.hub
            .metrics
            .placements_dropped
            .get_or_create(&kind("slow"))
            .inc_by(read.missed);
        for placements in read.messages {
            messages.push(down(to_filter::Message::Placements(placements)));
        }
        for (origin, sequence) in std::mem::take(&mut subscriber.counted) {
            messages.push(down(to_filter::Message::Counted(Counted { origin, sequence })));
        }
        while !subscriber.settlements.is_empty() {
            let count = subscriber.settlements.len().min(SETTLEMENTS_PER_MESSAGE);
            let settlements = subscriber.settlements.drain(..count).collect();
            messages.push(down(to_filter::Message::Settlements(Settlements { settlements })));
        }
        Ok(messages)
    }

    /// Takes a message of the filter.
    pub(super) fn receive(&self, message: FromFilter) -> Result<(), Refusal> {
        match message.message {
            // A message of a later version of the protocol.
            None => Ok(()),
            Some(from_filter::Message::Hello(_)) => Err(Refusal::SecondHello),
            Some(from_filter::Message::Ack(ack)) => {
                self.acknowledge(ack);
                Ok(())
            }
            Some(from_filter::Message::Report(report)) => {
                self.report(report);
                Ok(())
            }
            Some(from_filter::Message::Placements(placements)) => {
                self.place(placements);
                Ok(())
            }
            Some(from_filter::Message::Settlements(settlements)) => {
                self.settle(settlements);
                Ok(())
            }
            Some(from_filter::Message::Counts(counts)) => {
                self.count(counts);
                Ok(())
            }
        }
    }

    fn acknowledge(&self, ack: Ack) {
        let mut inner = self.hub.inner.lock();
        let inner = &mut *inner;
        let Some(subscriber) = inner.subscribers.get_mut(&self.id) else {
            return;
        };
        let before = subscriber.acknowledged_generation;
        let origin = subscriber.hello.origin.clone();
        let (refusals, accepted) = subscriber.acknowledge(ack);
        for (key, refused) in &refusals {
            let label = kind(key.kind.as_str_name());
            self.hub.metrics.refusals.get_or_create(&label).inc();
            tracing::warn!(
                %origin,
                kind = key.kind.as_str_name(),
                name = %key.name,
                reason = %refused.reason,
                "a filter refused a resource"
            );
        }
        // There may be room for an update that had to wait.
        subscriber.wake.notify_one();
        let after = subscriber.acknowledged_generation;
        // One that has started speaks for all it lacks.
        let lacks = |(key, resource): &(&Key, &Resource)| !subscriber.holds(key, resource.version);
        let lacking = match (before, after) {
            (None, Some(_)) => inner.resources.iter().filter(lacks).map(|(key, _)| key).collect(),
            _ => Vec::new(),
        };
        let touched = || refusals.iter().map(|(key, _)| key).chain(&accepted);
        let not_load = |key: &&Key| key.kind != ResourceType::Load;
        if before != after || touched().any(|key| not_load(&key)) {
            for follower in inner.followers.values_mut() {
                let progress = &mut follower.progress;
                progress.touch(touched().filter(not_load).chain(lacking.iter().copied()));
                follower.wake.notify_one();
            }
        }
        inner.answered.note(touched().cloned());
        if before != after {
            self.hub.show_lag(inner.made_after(before));
            self.hub.answered();
        }
    }

    fn report(&self, mut report: Report) {
        let outcome = if report.origin.is_empty() || report.origin.len() > MAX_ORIGIN {
            Outcome::Excess
        } else {
            let mut inner = self.hub.inner.lock();
            let inner = &mut *inner;
            if let Some(scope) = inner.narrowed(self.id) {
                report.in_flight.retain(|entry| inner.loads.sees(scope, entry.endpoint));
                report.waiting.retain(|entry| scope.admits_name(&entry.server));
            }
            merge(inner, self.id, report)
        };
        let outcome = match outcome {
            Outcome::Merged => "merged",
            Outcome::Stale => "stale",
            Outcome::Excess => "excess",
        };
        self.hub.metrics.reports.get_or_create(&kind(outcome)).inc();
    }

    /// Answers also what was added before: its sender waits for the answer that was lost.
    fn count(&self, mut counts: Counts) {
        let mut inner = self.hub.inner.lock();
        let Some(subscriber) = inner.subscribers.get_mut(&self.id) else {
            return;
        };
        let scope = &subscriber.scope;
        // Words for what is absent are no names.
        let sees = |name: &str| !name.contains('/') || scope.admits_name(name);
        counts
            .requests
            .retain(|entry| sees(&entry.model_route) && sees(&entry.model_server));
        let known = subscriber.counted.contains_key(&counts.origin);
        let fits = known || subscriber.counted.len() < self.hub.settings.reports.max_origins;
        let outcome = if counts.origin.is_empty() || counts.origin.len() > MAX_ORIGIN || !fits {
            "excess"
        } else {
            let is_new = self.hub.requests.add(&counts);
            subscriber.counted.insert(counts.origin, counts.sequence);
            subscriber.wake.notify_one();
            if is_new { "added" } else { "again" }
        };
        self.hub.metrics.counts.get_or_create(&kind(outcome)).inc();
    }

    fn place(&self, placements: Placements) {
        let mut inner = self.hub.inner.lock();
        let inner = &mut *inner;
        let Some(scope) = inner.subscribers.get(&self.id).map(|subscriber| &subscriber.scope) else {
            return;
        };
        let loads = &inner.loads;
        let left_out = inner.ring.push(Speaker::Filter(self.id), placements, |endpoint| {
            loads.knows(endpoint) && loads.sees(scope, endpoint)
        });
        self.hub
            .metrics
            .placements_dropped
            .get_or_create(&kind("unknown_endpoint"))
            .inc_by(left_out);
        for (id, subscriber) in &inner.subscribers {
            if *id != self.id {
                subscriber.wake.notify_one();
            }
        }
        inner.wake_followers();
    }

    fn settle(&self, settlements: Settlements) {
        let mut inner = self.hub.inner.lock();
        for settlement in settlements.settlements {
            let max = self.hub.settings.max_settlements;
            // The owner may be a filter of another controller, which passes it on.
            let dropped = match inner.merge.speaker(&settlement.owner) {
                Some(Speaker::Peer(peer)) => inner.settle_there(peer, settlement, max),
                _ => inner.settle_here(settlement, max),
            };
            if let Some(reason) = dropped {
                self.hub.metrics.settlements_dropped.get_or_create(&kind(reason)).inc();
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.hub.inner.lock();
        inner.subscribers.remove(&self.id);
        inner.answered = Answered::Anything;
        inner.merge.lose(self.id, self.hub.clock.now());
        for follower in inner.followers.values_mut() {
            follower.progress.filter_left();
            follower.wake.notify_one();
        }
        self.hub.metrics.subscribers.set(inner.subscribers.len() as i64);
        drop(inner);
        self.hub.answered();
    }
}

/// Merges a report of a filter connected here; those who follow are told of it.
fn merge(inner: &mut Inner, id: SubscriberId, report: Report) -> Outcome {
    if inner.followers.is_empty() {
        return inner.merge.report(Speaker::Filter(id), report);
    }
    let (origin, complete) = (report.origin.clone(), report.complete);
    let entry = |one: &InFlight| (one.endpoint, one.adapter.clone());
    let entries: Vec<Entry> = report.in_flight.iter().map(entry).collect();
    let outcome = inner.merge.report(Speaker::Filter(id), report);
    if outcome != Outcome::Stale {
        for follower in inner.followers.values_mut() {
            follower.note(&origin, &entries, complete);
        }
    }
    outcome
}

fn down(message: to_filter::Message) -> ToFilter {
    ToFilter {
        message: Some(message),
        echoes: Vec::new(),
    }
}
