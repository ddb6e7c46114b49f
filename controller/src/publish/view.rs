//! How the state service shows itself: to an object's status, and to people.

use std::collections::{BTreeMap, BTreeSet};

use kthena_scheduler::state::proto::ResourceType;
use kthena_scheduler::time::Time;

use super::subscriber::{Refused, Subscriber};
use crate::compile::Key;

/// How far a resource's newest version has got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// The resource's type.
    pub kind: ResourceType,
    /// The version published, which is spoken of.
    pub version: u64,
    /// Filters connected that see it, to whichever controller.
    pub subscribers: usize,
    /// Filters that acknowledged the version.
    pub acknowledged: usize,
    /// Filters that refused it: origin and reason.
    pub refused: Vec<(String, String)>,
}

/// Of what something else may be told now than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// Of these.
    Some(BTreeSet<Key>),
    /// Of anything: a filter came or went, or nobody has asked for long.
    Anything,
}

/// Resources that are remembered one by one because something else may be told of them.
const MAX_ANSWERED: usize = 16_384;

/// A subscriber as the debug page shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SubscriberView {
    /// Its origin.
    pub origin: String,
    /// Its protocol version.
    pub protocol_minor: u32,
    /// The Gateway that it decides for, which narrows nothing.
    pub gateway: String,
    /// Its scope: namespaces, with commas between them, or `*`.
    pub namespaces: String,
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

/// A controller that is followed, as the debug page shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PeerView {
    /// Names its process.
    pub instance: String,
    /// Where it was found.
    pub address: String,
    /// How long it has been followed, milliseconds.
    pub since_ms: u64,
    /// Filters that are connected to it.
    pub filters: usize,
    /// Whether it follows this controller, too.
    pub follows_us: bool,
}

// === impl Answered ===

impl Answered {
    /// Something else may be told of these.
    pub(super) fn note(&mut self, keys: impl IntoIterator<Item = Key>) {
        if let Self::Some(noted) = self {
            noted.extend(keys);
            if noted.len() > MAX_ANSWERED {
                *self = Self::Anything;
            }
        }
    }
}

// === impl SubscriberView ===

impl SubscriberView {
    /// A subscriber at `now`, when the newest configuration is of this generation.
    pub(super) fn of(subscriber: &Subscriber, generation: Option<u64>, now: Time) -> Self {
        Self {
            origin: subscriber.hello.origin.clone(),
            protocol_minor: subscriber.hello.protocol_minor,
            gateway: subscriber.hello.gateway.clone(),
            namespaces: subscriber.scope.namespaces().to_string(),
            pools: subscriber.hello.pools.clone(),
            plugins: subscriber.hello.plugins.clone(),
            synced: subscriber.is_synced(),
            up_to_date: generation.is_some() && subscriber.acknowledged_generation == generation,
            silent_ms: subscriber.silent_for(now),
            refused: subscriber.refused.iter().map(show_refusal).collect(),
        }
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
