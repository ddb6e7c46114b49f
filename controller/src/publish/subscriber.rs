//! One subscriber: what it holds, what it has yet to acknowledge, what it must still be told.
//!
//! What must always hold: nothing is queued for it but settlements, which are bounded. Configuration and load are compared
//! with what it holds at the moment it can take more, so a slow subscriber skips to the newest; placements are read from
//! the shared ring. It gets no new update while too many are not acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use kthena_scheduler::state::proto::{Ack, Echo, Hello, ResourceType, Settlement, Update};
use kthena_scheduler::time::Time;
use tokio::sync::Notify;

use super::changes::Changes;
use super::load::Loads;
use super::resource::{Packer, rank};
use super::scope::Scope;
use crate::compile::{Key, Resource, Resources};

/// Updates that may be under way without an acknowledgement.
const WINDOW: usize = 64;

/// Longest reason kept of a refusal, bytes.
const MAX_REASON: usize = 1024;

/// A refusal that stands: the resource's version and the subscriber's reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// The version refused.
    pub version: u64,
    /// Why, in the subscriber's words.
    pub reason: String,
}

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) hello: Hello,
    pub(super) scope: Scope,
    /// Resources (not load) it was sent or said it has.
    sent: BTreeMap<Key, u64>,
    /// The newest of all Loads when it was last sent some.
    newest_load: u64,
    unacknowledged: VecDeque<Unacknowledged>,
    nonce: u64,
    synced: bool,
    /// Versions it acknowledged, and those it refused.
    accepted: HashMap<Key, u64>,
    pub(super) refused: BTreeMap<Key, Refused>,
    /// Everything of this configuration was sent, and everything of that one acknowledged.
    sent_generation: Option<u64>,
    pub(super) acknowledged_generation: Option<u64>,
    pub(super) cursor: u64,
    pub(super) settlements: VecDeque<Settlement>,
    /// The last counts added of each origin, to be answered.
    pub(super) counted: BTreeMap<String, u64>,
    /// What its reporters may be told of at the next update: fixed when the loads were made.
    pub(super) echoes: Vec<Echo>,
    echoed: Vec<Echo>,
    pub(super) wake: Arc<Notify>,
}

#[derive(Debug)]
struct Unacknowledged {
    nonce: u64,
    since: Time,
    completes: Vec<(Key, u64)>,
    /// Set on the last update of a configuration.
    generation: Option<u64>,
}

/// An update on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) update: Update,
    pub(super) echoes: Vec<Echo>,
}

/// The configuration as a subscriber compares itself with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config<'a> {
    pub(super) resources: &'a Resources,
    pub(super) generation: u64,
    pub(super) changes: &'a Changes,
}

// === impl Subscriber ===

impl Subscriber {
    pub(super) fn new(hello: Hello, scope: Scope, wake: Arc<Notify>) -> Self {
        let mut sent = BTreeMap::new();
        for have in &hello.have {
            if let Ok(kind) = ResourceType::try_from(have.r#type) {
                sent.insert(Key::new(kind, have.name.as_str()), have.version);
            }
        }
        let accepted = sent.iter().map(|(key, version)| (key.clone(), *version)).collect();
        Self {
            hello,
            scope,
            sent,
            newest_load: 0,
            unacknowledged: VecDeque::new(),
            nonce: 0,
            synced: false,
            accepted,
            refused: BTreeMap::new(),
            sent_generation: None,
            acknowledged_generation: None,
            cursor: 0,
            counted: BTreeMap::new(),
            settlements: VecDeque::new(),
            echoes: Vec::new(),
            echoed: Vec::new(),
            wake,
        }
    }

    /// The updates that bring it to the newest configuration and load; empty when it is there, or owes too many answers.
    pub(super) fn updates(&mut self, config: Config<'_>, loads: &Loads, now: Time) -> Vec<Outgoing> {
        if self.unacknowledged.len() >= WINDOW {
            return Vec::new();
        }
        let echoes_length: usize = self.echoes.iter().map(|echo| echo.origin.len() + 32).sum();
        let mut packer = Packer::new(echoes_length);
        let fresh = self.sent_generation != Some(config.generation);
        // What it may not have: what changed since it had everything, or everything.
        let changed = self.sent_generation.and_then(|sent| config.changes.since(sent));
        let mut add: Vec<&Resource> = Vec::new();
        if fresh {
            let (sent, scope) = (&self.sent, &self.scope);
            let differs = |resource: &&Resource| {
                sent.get(&resource.key) != Some(&resource.version) && scope.admits(&resource.key)
            };
            match &changed {
                Some(keys) => add.extend(keys.iter().filter_map(|key| config.resources.get(*key)).filter(differs)),
                None => add.extend(config.resources.values().filter(differs)),
            }
        }
        let newer = loads.made_after(self.newest_load);
        add.extend(newer.filter(|load| self.scope.admits(&load.key)));
        self.newest_load = loads.newest();
        add.sort_by_key(|resource| rank(&resource.key));
        for resource in add {
            packer.add(resource);
            self.sent.insert(resource.key.clone(), resource.version);
        }
        if fresh {
            self.remove_absent(config, changed.as_ref(), &mut packer);
        }
        if !self.synced || self.echoes != self.echoed {
            packer.at_least_one();
        }
        let mut packed = packer.finish();
        let count = packed.len();
        let mut outgoing = Vec::with_capacity(count);
        for (at, message) in packed.drain(..).enumerate() {
            let last = at + 1 == count;
            self.nonce += 1;
            let mut update = message.update;
            update.nonce = self.nonce;
            update.synced = last && !self.synced;
            self.unacknowledged.push_back(Unacknowledged {
                nonce: self.nonce,
                since: now,
                completes: message.completes,
                generation: (last && fresh).then_some(config.generation),
            });
            let echoes = if message.load || last {
                self.echoes.clone()
            } else {
                Vec::new()
            };
            outgoing.push(Outgoing { update, echoes });
        }
        if count > 0 {
            self.synced = true;
            self.echoed.clone_from(&self.echoes);
        } else if fresh {
            // Nothing to send: it is there once it has answered what is under way.
            match self.unacknowledged.back_mut() {
                Some(sent) => sent.generation = Some(config.generation),
                None => self.acknowledged_generation = Some(config.generation),
            }
        }
        self.sent_generation = Some(config.generation);
        outgoing
    }

    fn remove_absent(&mut self, config: Config<'_>, changed: Option<&BTreeSet<&Key>>, packer: &mut Packer) {
        let mut gone: Vec<_> = match changed {
            Some(keys) => {
                let absent = keys.iter().filter(|key| !config.resources.contains_key(**key));
                let with_load = absent.flat_map(|key| {
                    let load = (key.kind == ResourceType::Endpoints)
                        .then(|| Key::new(ResourceType::Load, Arc::clone(&key.name)));
                    [Some((*key).clone()), load].into_iter().flatten()
                });
                with_load.filter_map(|key| self.sent.remove_entry(&key)).collect()
            }
            None => {
                let scope = &self.scope;
                let is_there = |key: &Key| match key.kind {
                    ResourceType::Load => {
                        let endpoints = Key::new(ResourceType::Endpoints, Arc::clone(&key.name));
                        config.resources.contains_key(&endpoints)
                    }
                    _ => config.resources.contains_key(key),
                };
                // What it had before, under another scope, goes as well.
                let gone = |key: &Key, _: &mut u64| !is_there(key) || !scope.admits(key);
                self.sent.extract_if(.., gone).collect()
            }
        };
        // What refers to others goes first.
        gone.sort_by_key(|(key, _)| std::cmp::Reverse(rank(key)));
        for (key, version) in gone {
            packer.remove(&key, version);
            self.accepted.remove(&key);
            self.refused.remove(&key);
        }
    }

    /// Takes an answer; returns what is newly refused, and what is newly accepted. An answer counts for all updates before it as well: they
    /// travelled in order.
    pub(super) fn acknowledge(&mut self, ack: Ack) -> (Vec<(Key, Refused)>, Vec<Key>) {
        let (mut refusals, mut accepted) = (Vec::new(), Vec::new());
        for refusal in ack.refused {
            let Ok(kind) = ResourceType::try_from(refusal.r#type) else {
                continue;
            };
            let key = Key::new(kind, refusal.name);
            if self.sent.get(&key) == Some(&refusal.version) || kind == ResourceType::Load {
                let mut reason = refusal.reason;
                reason.truncate(reason.floor_char_boundary(MAX_REASON));
                let refused = Refused {
                    version: refusal.version,
                    reason,
                };
                refusals.push((key, refused));
            }
        }
        while let Some(sent) = self.unacknowledged.pop_front_if(|sent| sent.nonce <= ack.nonce) {
            for (key, version) in sent.completes {
                let refused = refusals.iter().any(|(k, r)| *k == key && r.version == version);
                if !refused && key.kind != ResourceType::Load {
                    self.refused.remove(&key);
                    accepted.push(key.clone());
                    self.accepted.insert(key, version);
                }
            }
            self.acknowledged_generation = sent.generation.or(self.acknowledged_generation);
        }
        for (key, refused) in refusals.iter().filter(|(key, _)| key.kind != ResourceType::Load) {
            self.refused.insert(key.clone(), refused.clone());
        }
        (refusals, accepted)
    }

    /// Whether it holds this version of a resource.
    pub(super) fn holds(&self, key: &Key, version: u64) -> bool {
        self.accepted.get(key) == Some(&version)
    }

    /// Why it refused this version of a resource, if it did.
    pub(super) fn refusal(&self, key: &Key, version: u64) -> Option<&str> {
        let refused = self.refused.get(key).filter(|refused| refused.version == version)?;
        Some(&refused.reason)
    }

    /// Whether it sees everything, and has yet to acknowledge a first complete state.
    pub(super) fn is_starting(&self) -> bool {
        self.acknowledged_generation.is_none() && self.scope.is_everything()
    }

    /// Whether it has its first complete state.
    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    /// How long the oldest update has waited for its answer, milliseconds.
    pub(super) fn silent_for(&self, now: Time) -> u64 {
        self.unacknowledged.front().map_or(0, |sent| now.since(sent.since))
    }
}
