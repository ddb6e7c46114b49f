//! Everything the state service knows, behind one lock: configuration, loads, reports, placements, subscribers.
//!
//! Nothing here waits: the lock is held for the time of a comparison, and what a subscriber must be told is worked out
//! when that subscriber can take it. What must always hold: before the first configuration is set nobody is told
//! anything (an empty state would be taken for the truth); a subscriber's end, however it comes, starts the clock for
//! what it had reported.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use kthena_scheduler::state::PROTOCOL_MINOR;
use kthena_scheduler::state::proto::{Endpoints, ResourceType, Settlement, ToFilter, Welcome, to_filter};
use kthena_scheduler::time::Time;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;

use super::changes::Changes;
use super::followed::Followed;
use super::follower::Follower;
use super::load::Loads;
use super::merge::{Bounds, Merge, Speaker, SubscriberId};
use super::placements::Ring;
use super::scope::Scope;
use super::subscriber::Subscriber;
use super::view::{Answered, SubscriberView};
use crate::clock::Clock;
use crate::compile::{Key, Resources};
use crate::metrics;
use crate::observe::Table;
use crate::requests::{self, Requests};

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
    /// What is kept of requests that filters tell of.
    pub requests: requests::Bounds,
    /// What other controllers may occupy.
    pub peers: PeerBounds,
}

/// Bounds of what other controllers may occupy.
#[derive(Clone, Copy, Debug)]
pub struct PeerBounds {
    /// Controllers that follow this one at one time.
    pub max_followers: usize,
    /// Endpoints that one may tell of.
    pub max_endpoints: usize,
    /// Resources that one may tell of.
    pub max_resources: usize,
}

/// The state service's state.
#[derive(Debug)]
pub struct Hub {
    pub(super) settings: Settings,
    pub(super) table: Arc<Table>,
    pub(super) clock: Clock,
    pub(super) metrics: metrics::Publish,
    instance: String,
    pub(super) requests: Arc<Requests>,
    /// Grows whenever a subscriber has acknowledged a configuration whole, or has gone.
    pub(super) answers: watch::Sender<u64>,
    /// Grows whenever another controller begins to follow.
    pub(super) callers: watch::Sender<u64>,
    pub(super) inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// `None` = not set yet.
    pub(super) generation: Option<u64>,
    pub(super) resources: Resources,
    pub(super) loads: Loads,
    pub(super) merge: Merge,
    pub(super) ring: Ring,
    pub(super) subscribers: BTreeMap<SubscriberId, Subscriber>,
    /// Controllers that follow this one.
    pub(super) followers: BTreeMap<SubscriberId, Follower>,
    /// Controllers that this one follows.
    pub(super) followed: BTreeMap<SubscriberId, Followed>,
    /// Names subscriptions, and controllers either way.
    pub(super) next_subscriber: SubscriberId,
    /// When the last configurations were set, by generation.
    pub(super) made: VecDeque<(u64, Time)>,
    /// What the last configurations changed.
    pub(super) changes: Changes,
    /// Requests that wait for an endpoint of each ModelServer, as they were shown last.
    waiting: BTreeMap<Key, u64>,
    /// Of what [`Hub::acceptance`] may tell something else than at the last [`Hub::take_answered`].
    pub(super) answered: Answered,
}

/// Configurations whose time is remembered, to tell how long filters take for them.
const REMEMBERED: usize = 256;

// === impl Hub ===

impl Hub {
    /// A hub without a configuration.
    pub fn new(settings: Settings, table: Arc<Table>, clock: Clock, metrics: metrics::Publish) -> Arc<Self> {
        let random = RandomState::new().hash_one(std::process::id());
        Arc::new(Self {
            settings,
            table,
            clock,
            metrics,
            instance: format!("{random:016x}"),
            requests: Arc::new(Requests::new(settings.requests)),
            answers: watch::Sender::new(0),
            callers: watch::Sender::new(0),
            inner: Mutex::new(Inner {
                generation: None,
                resources: Resources::new(),
                loads: Loads::new(settings.sample_wait_ms),
                merge: Merge::new(settings.reports),
                ring: Ring::new(settings.placements_bytes),
                subscribers: BTreeMap::new(),
                followers: BTreeMap::new(),
                followed: BTreeMap::new(),
                next_subscriber: 1,
                made: VecDeque::new(),
                changes: Changes::default(),
                waiting: BTreeMap::new(),
                answered: Answered::Anything,
            }),
        })
    }

    /// Replaces the configuration (all types but load, which is made here). Returns its generation, which stays the same
    /// when nothing changed, and takes a time that grows with what did.
    pub fn set_config(&self, resources: Resources) -> u64 {
        let mut inner = self.inner.lock();
        let changed = inner.take_in(resources);
        if let Some(generation) = inner.generation
            && changed.is_empty()
        {
            return generation;
        }
        let generation = inner.generation.map_or(1, |generation| generation + 1);
        inner.generation = Some(generation);
        inner.made.push_back((generation, self.clock.now()));
        if inner.made.len() > REMEMBERED {
            inner.made.pop_front();
        }
        for key in changed.iter().filter(|key| key.kind == ResourceType::Server) {
            if inner.resources.contains_key(key) {
                drop(self.metrics.waiting.get_or_create(&server_label(key)));
            } else {
                self.metrics.waiting.remove(&server_label(key));
            }
        }
        inner.follow_endpoints(&changed);
        inner.judge_followed(&changed);
        for follower in inner.followers.values_mut() {
            follower.progress.touch(&changed);
        }
        inner.wake_followers();
        inner.answered.note(changed.iter().cloned());
        inner.changes.note(generation, changed);
        self.make_loads(&mut inner);
        inner.wake_all();
        generation
    }

    /// Makes what loads are due and forgets lost origins. To be called on a tick.
    pub fn step(&self) {
        let mut inner = self.inner.lock();
        let now = self.clock.now();
        for (origin, speaker) in inner.merge.expire(now) {
            if speaker.is_filter() {
                let followers = inner.followers.values_mut();
                followers.for_each(|follower| follower.note_gone(&origin));
            }
        }
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
        self.metrics.of_others.set(self.table.of_others() as i64);
        self.show_waiting(&mut inner);
    }

    /// Every ModelServer has its series from the beginning; one that nobody waits for, and nobody has waited for, is not looked at.
    fn show_waiting(&self, inner: &mut Inner) {
        let waiting = inner.merge.waiting();
        let waiting: BTreeMap<_, _> = waiting
            .into_iter()
            .map(|(name, requests)| (Key::new(ResourceType::Server, name), requests))
            .filter(|(key, _)| inner.resources.contains_key(key))
            .collect();
        let nobody = inner.waiting.keys().filter(|key| !waiting.contains_key(*key));
        let nobody = nobody.filter(|key| inner.resources.contains_key(*key));
        for (key, requests) in nobody.map(|key| (key, &0)).chain(&waiting) {
            let gauge = self.metrics.waiting.get_or_create(&server_label(key));
            gauge.set(*requests as i64);
        }
        inner.waiting = waiting;
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

    /// What a filter hears first.
    pub(super) fn welcome(&self) -> ToFilter {
        let message = to_filter::Message::Welcome(Welcome {
            protocol_minor: PROTOCOL_MINOR,
            controller: self.instance.clone(),
        });
        ToFilter {
            message: Some(message),
            echoes: Vec::new(),
        }
    }

    /// Names this process among all controllers.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What filters without a page of metrics tell of requests, to be shown.
    pub fn requests(&self) -> Arc<Requests> {
        Arc::clone(&self.requests)
    }

    /// The clock that ages are counted by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The time that ages are counted from.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// The subscribers, for people.
    pub fn subscribers(&self) -> Vec<SubscriberView> {
        let now = self.clock.now();
        let inner = self.inner.lock();
        let view = |subscriber: &Subscriber| SubscriberView::of(subscriber, inner.generation, now);
        inner.subscribers.values().map(view).collect()
    }
}

fn server_label(key: &Key) -> metrics::ModelServer {
    metrics::ModelServer {
        model_server: key.name.to_string(),
    }
}

// === impl Inner ===

impl Inner {
    /// Takes the newest resources in. Returns which are new, different or gone.
    fn take_in(&mut self, resources: Resources) -> Vec<Key> {
        let before = std::mem::replace(&mut self.resources, resources);
        let changed = before.diff(&self.resources).map(|difference| match difference {
            DiffItem::Add(key, _) | DiffItem::Update { new: (key, _), .. } | DiffItem::Remove(key, _) => key.clone(),
        });
        changed.collect()
    }

    /// The scope of a subscriber that does not see everything.
    pub(super) fn narrowed(&self, id: SubscriberId) -> Option<&Scope> {
        let scope = &self.subscribers.get(&id)?.scope;
        (!scope.is_everything()).then_some(scope)
    }

    /// Brings loads and placements to the endpoints of the new configuration.
    fn follow_endpoints(&mut self, changed: &[Key]) {
        for key in changed.iter().filter(|key| key.kind == ResourceType::Endpoints) {
            let Some(resource) = self.resources.get(key) else {
                self.loads.remove(&key.name);
                continue;
            };
            match Endpoints::decode(resource.body.clone()) {
                Ok(endpoints) => self.loads.set(&key.name, &endpoints),
                Err(error) => {
                    tracing::error!(server = %key.name, %error, "endpoints cannot be decoded: no load for them")
                }
            }
        }
        let gone = self.loads.take_gone();
        if !gone.is_empty() {
            self.ring.forget(&gone);
        }
    }

    /// Of these resources the versions changed that other controllers' filters should have.
    fn judge_followed(&mut self, changed: &[Key]) {
        for followed in self.followed.values_mut() {
            followed.progress.judge(&self.resources, changed);
        }
    }

    /// Gives a settlement to its owner, a filter that is connected here. Returns why it was dropped, if it was.
    pub(super) fn settle_here(&mut self, settlement: Settlement, max: usize) -> Option<&'static str> {
        let speaker = self.merge.speaker(&settlement.owner).map(Speaker::id);
        let found = match speaker.filter(|id| self.subscribers.contains_key(id)) {
            Some(id) => self.subscribers.get_mut(&id),
            None => self
                .subscribers
                .values_mut()
                .rfind(|subscriber| subscriber.hello.origin == settlement.owner),
        };
        let Some(owner) = found else {
            return Some("owner_gone");
        };
        if owner.settlements.len() >= max {
            return Some("slow");
        }
        owner.settlements.push_back(settlement);
        owner.wake.notify_one();
        None
    }

    /// Gives a settlement to another controller, which has told of its owner. Returns why it was dropped, if it was.
    pub(super) fn settle_there(
        &mut self,
        peer: SubscriberId,
        settlement: Settlement,
        max: usize,
    ) -> Option<&'static str> {
        let instance = self.followed.get(&peer).map(|followed| followed.instance.as_str());
        let mut followers = self.followers.values_mut();
        let Some(follower) = followers.rfind(|follower| Some(&*follower.instance) == instance) else {
            return Some("owner_gone");
        };
        if follower.settlements.len() >= max {
            return Some("slow");
        }
        follower.settlements.push_back(settlement);
        follower.wake.notify_one();
        None
    }

    /// There may be something to tell those who follow.
    pub(super) fn wake_followers(&self) {
        self.followers.values().for_each(|follower| follower.wake.notify_one());
    }

    fn wake_all(&self) {
        for subscriber in self.subscribers.values() {
            subscriber.wake.notify_one();
        }
    }
}
