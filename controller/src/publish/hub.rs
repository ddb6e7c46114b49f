//! Everything the state service knows, behind one lock: configuration, loads, reports, placements, subscribers.
//!
//! Nothing here waits: the lock is held for the time of a comparison, and what a subscriber must be told is worked out
//! when that subscriber can take it. What must always hold: before the first configuration is set nobody is told
//! anything (an empty state would be taken for the truth); a subscriber's end, however it comes, starts the clock for
//! what it had reported.

use std::collections::BTreeMap;
use std::sync::Arc;

use kthena_scheduler::state::proto::{
    Endpoints, FromFilter, Hello, Placements, ResourceType, Settlements, ToFilter, Welcome, from_filter, to_filter,
};
use kthena_scheduler::time::Time;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, watch};

use super::load::Loads;
use super::merge::{Bounds, Merge, Outcome, SubscriberId};
use super::placements::Ring;
use super::resource::{Key, Resource};
use super::subscriber::{Config, Refused, Subscriber};
use crate::clock::Clock;
use crate::metrics::{self, kind};
use crate::observe::Table;

/// The version of the protocol that this controller speaks; a filter may be one off either way.
pub const PROTOCOL_MINOR: u32 = 0;

/// Settlements in one message: some hundred bytes each.
const SETTLEMENTS_PER_MESSAGE: usize = 1024;

/// Longest name of an origin, bytes.
const MAX_ORIGIN: usize = 128;

/// Bounds and times of the state service.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Subscribers at one time.
    pub max_subscribers: usize,
    /// What one subscriber may report.
    pub reports: Bounds,
    /// Bytes of placements kept for new and slow subscribers.
    pub placements_bytes: usize,
    /// Settlements waiting for one subscriber.
    pub max_settlements: usize,
    /// How long newer samples may wait before they are pushed, milliseconds.
    pub sample_wait_ms: u64,
    /// How long a subscriber may take to acknowledge an update, milliseconds.
    pub ack_timeout_ms: u64,
}

/// Why a subscription is refused or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
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

/// The state service's state.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    table: Arc<Table>,
    clock: Clock,
    metrics: metrics::Publish,
    controller: String,
    /// Grows with every acknowledgement, subscription and end of one.
    answers: watch::Sender<u64>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` = not set yet.
    generation: Option<u64>,
    resources: BTreeMap<Key, Resource>,
    loads: Loads,
    merge: Merge,
    ring: Ring,
    subscribers: BTreeMap<SubscriberId, Subscriber>,
    next_subscriber: SubscriberId,
}

/// A live subscription; dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    id: SubscriberId,
    wake: Arc<Notify>,
}

/// How far a resource's newest version has got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// Filters connected.
    pub subscribers: usize,
    /// Filters that acknowledged the version.
    pub acknowledged: usize,
    /// Filters that refused it: origin and reason.
    pub refused: Vec<(String, String)>,
}

/// A subscriber as the debug page shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SubscriberView {
    /// Its origin.
    pub origin: String,
    /// Its protocol version.
    pub protocol_minor: u32,
    /// Its scope: gateway.
    pub gateway: String,
    /// Its scope: pools.
    pub pools: Vec<String>,
    /// Plugins it can run.
    pub plugins: Vec<String>,
    /// Whether it was sent its first complete state.
    pub synced: bool,
    /// Whether it acknowledged the newest configuration.
    pub up_to_date: bool,
    /// Age of its oldest unanswered update, milliseconds.
    pub silent_ms: u64,
    /// What it refused, and why.
    pub refused: BTreeMap<String, String>,
}

// === impl Hub ===

impl Hub {
    /// A hub without a configuration.
    pub fn new(settings: Settings, table: Arc<Table>, clock: Clock, metrics: metrics::Publish) -> Arc<Self> {
        let started = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        Arc::new(Self {
            settings,
            table,
            clock,
            metrics,
            controller: format!("{:x}-{started:x}", std::process::id()),
            answers: watch::Sender::new(0),
            inner: Mutex::new(Inner {
                generation: None,
                resources: BTreeMap::new(),
                loads: Loads::new(settings.sample_wait_ms),
                merge: Merge::new(settings.reports),
                ring: Ring::new(settings.placements_bytes),
                subscribers: BTreeMap::new(),
                next_subscriber: 1,
            }),
        })
    }

    /// Replaces the configuration (all types but load, which is made here). Returns its generation, which stays the same
    /// when nothing changed.
    pub fn set_config(&self, resources: Vec<Resource>) -> u64 {
        let resources: BTreeMap<_, _> = resources.into_iter().map(|r| (r.key.clone(), r)).collect();
        let mut inner = self.inner.lock();
        if let Some(generation) = inner.generation
            && inner.resources == resources
        {
            return generation;
        }
        let generation = inner.generation.map_or(1, |generation| generation + 1);
        inner.generation = Some(generation);
        let old = std::mem::replace(&mut inner.resources, resources);
        inner.follow_endpoints(&old);
        self.make_loads(&mut inner);
        inner.wake_all();
        generation
    }

    /// Makes what loads are due and forgets lost origins. To be called on a tick.
    pub fn step(&self) {
        let mut inner = self.inner.lock();
        let now = self.clock.now();
        inner.merge.expire(now);
        // Those that owe an answer for too long are ended by their own task.
        for subscriber in inner.subscribers.values() {
            if subscriber.silent_for(now) > self.settings.ack_timeout_ms {
                subscriber.wake.notify_one();
            }
        }
        if inner.generation.is_some() && self.make_loads(&mut inner) {
            inner.wake_all();
        }
        self.metrics.origins.set(inner.merge.origins() as i64);
        self.metrics.placements_bytes.set(inner.ring.bytes() as i64);
        self.show_waiting(&inner);
    }

    fn show_waiting(&self, inner: &Inner) {
        let waiting = inner.merge.waiting();
        for key in inner.resources.keys().filter(|key| key.kind == ResourceType::Server) {
            let label = metrics::ModelServer {
                model_server: key.name.to_string(),
            };
            let requests = waiting.get(&*key.name).copied().unwrap_or_default();
            self.metrics.waiting.get_or_create(&label).set(requests as i64);
        }
    }

    fn make_loads(&self, inner: &mut Inner) -> bool {
        let made = inner.loads.step(&mut inner.merge, &self.table, self.clock.now());
        if made {
            for (id, subscriber) in &mut inner.subscribers {
                subscriber.echoes = inner.merge.echoes(*id);
            }
        }
        made
    }

    /// Begins a subscription.
    pub fn subscribe(self: &Arc<Self>, hello: Hello) -> Result<Subscription, Refusal> {
        let mut inner = self.inner.lock();
        if hello.protocol_minor.abs_diff(PROTOCOL_MINOR) > 1 {
            return Err(Refusal::Version);
        }
        if hello.origin.is_empty() || hello.origin.len() > MAX_ORIGIN {
            return Err(Refusal::Origin);
        }
        if inner.subscribers.len() >= self.settings.max_subscribers {
            return Err(Refusal::Full);
        }
        let id = inner.next_subscriber;
        inner.next_subscriber += 1;
        inner.merge.adopt(&hello.origin, id, self.clock.now());
        let wake = Arc::new(Notify::new());
        let mut subscriber = Subscriber::new(hello, Arc::clone(&wake));
        subscriber.echoes = inner.merge.echoes(id);
        inner.subscribers.insert(id, subscriber);
        self.metrics.subscribers.set(inner.subscribers.len() as i64);
        wake.notify_one();
        Ok(Subscription {
            hub: Arc::clone(self),
            id,
            wake,
        })
    }

    /// What a filter hears first.
    pub(super) fn welcome(&self) -> ToFilter {
        let message = to_filter::Message::Welcome(Welcome {
            protocol_minor: PROTOCOL_MINOR,
            controller: self.controller.clone(),
        });
        ToFilter {
            message: Some(message),
            echoes: Vec::new(),
        }
    }

    /// How far a resource's newest version has got.
    pub fn acceptance(&self, key: &Key) -> Acceptance {
        let inner = self.inner.lock();
        let mut acceptance = Acceptance {
            subscribers: inner.subscribers.len(),
            ..Acceptance::default()
        };
        let Some(version) = inner.resources.get(key).map(|resource| resource.version) else {
            return acceptance;
        };
        for subscriber in inner.subscribers.values() {
            acceptance.acknowledged += usize::from(subscriber.holds(key, version));
            if let Some(refused) = subscriber.refused.get(key).filter(|refused| refused.version == version) {
                let origin = subscriber.hello.origin.clone();
                acceptance.refused.push((origin, refused.reason.clone()));
            }
        }
        acceptance
    }

    /// Whether every subscriber has answered this configuration or a later one. True without subscribers.
    pub fn acknowledged(&self, generation: u64) -> bool {
        let inner = self.inner.lock();
        inner
            .subscribers
            .values()
            .all(|subscriber| subscriber.acknowledged_generation >= Some(generation))
    }

    /// Changes whenever [`Hub::acknowledged`] or [`Hub::acceptance`] may answer differently.
    pub fn answers(&self) -> watch::Receiver<u64> {
        self.answers.subscribe()
    }

    /// The time that ages are counted from.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// The subscribers, for people.
    pub fn subscribers(&self) -> Vec<SubscriberView> {
        let now = self.clock.now();
        let inner = self.inner.lock();
        let view = |subscriber: &Subscriber| SubscriberView {
            origin: subscriber.hello.origin.clone(),
            protocol_minor: subscriber.hello.protocol_minor,
            gateway: subscriber.hello.gateway.clone(),
            pools: subscriber.hello.pools.clone(),
            plugins: subscriber.hello.plugins.clone(),
            synced: subscriber.is_synced(),
            up_to_date: inner.generation.is_some() && subscriber.acknowledged_generation == inner.generation,
            silent_ms: subscriber.silent_for(now),
            refused: subscriber.refused.iter().map(show_refusal).collect(),
        };
        inner.subscribers.values().map(view).collect()
    }

    fn answered(&self) {
        self.answers.send_modify(|count| *count += 1);
    }
}

fn show_refusal((key, refused): (&Key, &Refused)) -> (String, String) {
    (
        format!("{} {}", key.kind.as_str_name(), key.name),
        refused.reason.clone(),
    )
}

// === impl Acceptance ===

impl Acceptance {
    /// Whether every connected filter, and at least one, runs the newest version.
    pub fn is_programmed(&self) -> bool {
        self.subscribers > 0 && self.acknowledged == self.subscribers
    }
}

// === impl Inner ===

impl Inner {
    /// Brings loads and placements to the endpoints of the new configuration.
    fn follow_endpoints(&mut self, old: &BTreeMap<Key, Resource>) {
        for key in old.keys().filter(|key| key.kind == ResourceType::Endpoints) {
            if !self.resources.contains_key(key) {
                self.loads.remove(&key.name);
            }
        }
        for (key, resource) in &self.resources {
            if key.kind != ResourceType::Endpoints || old.get(key) == Some(resource) {
                continue;
            }
            match Endpoints::decode(resource.body.clone()) {
                Ok(endpoints) => self.loads.set(&key.name, &endpoints),
                Err(error) => {
                    tracing::error!(server = %key.name, %error, "endpoints cannot be decoded: no load for them")
                }
            }
        }
        self.loads.reindex();
        self.ring.retain(&self.loads.endpoints());
    }

    fn wake_all(&self) {
        for subscriber in self.subscribers.values() {
            subscriber.wake.notify_one();
        }
    }
}

// === impl Subscription ===

impl Subscription {
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
        };
        for outgoing in subscriber.updates(config, &inner.loads, now) {
            messages.push(ToFilter {
                message: Some(to_filter::Message::Update(outgoing.update)),
                echoes: outgoing.echoes,
            });
        }
        if before != subscriber.acknowledged_generation {
            self.hub.answered();
        }
        let read = inner.ring.read(&mut subscriber.cursor, self.id);
        self.hub
            .metrics
            .placements_dropped
            .get_or_create(&kind("slow"))
            .inc_by(read.missed);
        for placements in read.messages {
            messages.push(down(to_filter::Message::Placements(placements)));
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
        }
    }

    fn acknowledge(&self, ack: kthena_scheduler::state::proto::Ack) {
        let mut inner = self.hub.inner.lock();
        let Some(subscriber) = inner.subscribers.get_mut(&self.id) else {
            return;
        };
        for (key, refused) in subscriber.acknowledge(ack) {
            let label = kind(key.kind.as_str_name());
            self.hub.metrics.refusals.get_or_create(&label).inc();
            tracing::warn!(
                origin = %subscriber.hello.origin,
                kind = key.kind.as_str_name(),
                name = %key.name,
                reason = %refused.reason,
                "a filter refused a resource"
            );
        }
        // There may be room for an update that had to wait.
        subscriber.wake.notify_one();
        drop(inner);
        self.hub.answered();
    }

    fn report(&self, report: kthena_scheduler::state::proto::Report) {
        let outcome = if report.origin.is_empty() || report.origin.len() > MAX_ORIGIN {
            Outcome::Excess
        } else {
            self.hub.inner.lock().merge.report(self.id, report)
        };
        let outcome = match outcome {
            Outcome::Merged => "merged",
            Outcome::Stale => "stale",
            Outcome::Excess => "excess",
        };
        self.hub.metrics.reports.get_or_create(&kind(outcome)).inc();
    }

    fn place(&self, placements: Placements) {
        let mut inner = self.hub.inner.lock();
        let inner = &mut *inner;
        let left_out = inner
            .ring
            .push(self.id, placements, |endpoint| inner.loads.knows(endpoint));
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
    }

    fn settle(&self, settlements: Settlements) {
        let mut inner = self.hub.inner.lock();
        let inner = &mut *inner;
        for settlement in settlements.settlements {
            let speaker = inner.merge.speaker(&settlement.owner);
            let found = match speaker.filter(|id| inner.subscribers.contains_key(id)) {
                Some(id) => inner.subscribers.get_mut(&id),
                None => inner
                    .subscribers
                    .values_mut()
                    .rfind(|subscriber| subscriber.hello.origin == settlement.owner),
            };
            let dropped = match found {
                None => Some("owner_gone"),
                Some(owner) if owner.settlements.len() >= self.hub.settings.max_settlements => Some("slow"),
                Some(owner) => {
                    owner.settlements.push_back(settlement);
                    owner.wake.notify_one();
                    None
                }
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
        inner.merge.lose(self.id, self.hub.clock.now());
        self.hub.metrics.subscribers.set(inner.subscribers.len() as i64);
        drop(inner);
        self.hub.answered();
    }
}

fn down(message: to_filter::Message) -> ToFilter {
    ToFilter {
        message: Some(message),
        echoes: Vec::new(),
    }
}
