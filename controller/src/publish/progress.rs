//! How far filters have got with each resource, told from controller to controller: so that what is said of an object speaks of all filters,
//! whichever controller they are connected to.
//!
//! What must always hold: versions follow from content, so they mean the same everywhere; a version that another controller does not publish has
//! been acknowledged by none of its filters. Only what changed is told, and worked out when the other can take it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kthena_scheduler::state::proto::ResourceType;
use prost::Message;

use super::merge::SubscriberId;
use super::resource::{split, versioned};
use super::subscriber::Subscriber;
use super::view::{Acceptance, Answered};
use crate::compile::{Key, Resource, Resources};
use crate::peers::proto;

/// Refusals of one resource that are told, with reasons of up to a kilobyte.
const REFUSALS: usize = 64;

/// How the filters of one controller stand to a resource's version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Standing {
    version: u64,
    /// Those that do not see it.
    outside: usize,
    /// Those that see it and have not acknowledged it, but for those that are starting.
    missing: usize,
    /// Those of them that refused it: origin and reason.
    refused: Vec<(String, String)>,
}

/// What one follower was told.
#[derive(Debug)]
pub(super) struct Told {
    /// Filters connected, and starting of those that see everything; `None` = it was told nothing.
    counts: Option<(usize, usize)>,
    standings: HashMap<Key, Standing>,
    /// Resources whose standing may have changed.
    touched: BTreeSet<Key>,
}

/// What one other controller told.
#[derive(Debug, Default)]
pub(super) struct Heard {
    connected: usize,
    starting: usize,
    standings: HashMap<Key, Standing>,
    /// Endpoints of ours that not all its filters have which see them.
    lacking: BTreeSet<Key>,
}

// === impl Standing ===

impl Standing {
    fn of(resource: &Resource, subscribers: &BTreeMap<SubscriberId, Subscriber>) -> Self {
        let version = resource.version;
        let mut standing = Self {
            version,
            ..Self::default()
        };
        for subscriber in subscribers.values().filter(|subscriber| !subscriber.is_starting()) {
            if !subscriber.scope.admits(&resource.key) {
                standing.outside += 1;
                continue;
            }
            standing.missing += usize::from(!subscriber.holds(&resource.key, version));
            if let Some(reason) = subscriber.refusal(&resource.key, version)
                && standing.refused.len() < REFUSALS
            {
                standing
                    .refused
                    .push((subscriber.hello.origin.clone(), reason.to_owned()));
            }
        }
        standing
    }

    fn message(&self, key: &Key) -> proto::Acceptance {
        let refusal = |(origin, reason): &(String, String)| proto::Refusal {
            origin: origin.clone(),
            reason: reason.clone(),
        };
        proto::Acceptance {
            resource: Some(versioned(key, self.version)),
            outside: u32::try_from(self.outside).unwrap_or(u32::MAX),
            missing: u32::try_from(self.missing).unwrap_or(u32::MAX),
            refused: self.refused.iter().map(refusal).collect(),
        }
    }
}

// === impl Told ===

impl Told {
    /// Nothing was told: all of these resources are to be.
    pub(super) fn new(resources: &Resources) -> Self {
        Self {
            counts: None,
            standings: HashMap::new(),
            touched: resources.keys().cloned().collect(),
        }
    }

    /// The standing of these may have changed.
    pub(super) fn touch<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>) {
        self.touched.extend(keys.into_iter().cloned());
    }

    /// A filter has gone: what it was missing or did not see counts no more.
    pub(super) fn filter_left(&mut self) {
        let depends = |standing: &Standing| standing.missing > 0 || standing.outside > 0;
        let unlike = self.standings.iter().filter(|(_, standing)| depends(standing));
        self.touched.extend(unlike.map(|(key, _)| key.clone()));
    }

    /// What is to be told now.
    pub(super) fn next(
        &mut self,
        resources: &Resources,
        subscribers: &BTreeMap<SubscriberId, Subscriber>,
    ) -> Vec<proto::Filters> {
        let starting = subscribers.values().filter(|subscriber| subscriber.is_starting());
        let counts = (subscribers.len(), starting.count());
        let (mut changed, mut removed) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.touched) {
            let Some(resource) = resources.get(&key) else {
                if let Some(old) = self.standings.remove(&key) {
                    removed.push(versioned(&key, old.version));
                }
                continue;
            };
            let standing = Standing::of(resource, subscribers);
            if self.standings.get(&key) != Some(&standing) {
                changed.push(standing.message(&key));
                self.standings.insert(key, standing);
            }
        }
        if changed.is_empty() && removed.is_empty() && self.counts == Some(counts) {
            return Vec::new();
        }
        self.counts = Some(counts);
        let numbers = || proto::Filters {
            connected: u32::try_from(counts.0).unwrap_or(u32::MAX),
            starting: u32::try_from(counts.1).unwrap_or(u32::MAX),
            ..proto::Filters::default()
        };
        let removed = split(removed, Message::encoded_len).into_iter();
        let removed = removed.map(|removed| proto::Filters { removed, ..numbers() });
        let changed = split(changed, Message::encoded_len).into_iter();
        let mut messages: Vec<_> = removed
            .chain(changed.map(|resources| proto::Filters { resources, ..numbers() }))
            .collect();
        if messages.is_empty() {
            messages.push(numbers());
        }
        messages
    }
}

// === impl Heard ===

impl Heard {
    /// Takes what another controller tells, and remembers up to so many resources; `ours` are those that are published here. Returns for how many
    /// there was no room, and of which something else may be said now.
    pub(super) fn hear(&mut self, filters: proto::Filters, max: usize, ours: &Resources) -> (u64, Answered) {
        let news = if (self.connected, self.starting) == counts(&filters) {
            Answered::Some(named(&filters).collect())
        } else {
            Answered::Anything
        };
        let refused = self.remember(filters, max);
        match &news {
            Answered::Some(named) => self.judge(ours, named),
            Answered::Anything => self.judge(ours, ours.keys()),
        }
        (refused, news)
    }

    fn remember(&mut self, filters: proto::Filters, max: usize) -> u64 {
        (self.connected, self.starting) = counts(&filters);
        for gone in &filters.removed {
            self.standings.remove(&Key::new(gone.r#type(), gone.name.as_str()));
        }
        let mut refused = 0;
        for told in filters.resources {
            let Some(resource) = told.resource else { continue };
            if resource.r#type() == ResourceType::Unspecified {
                continue;
            }
            let key = Key::new(resource.r#type(), resource.name);
            if self.standings.len() >= max && !self.standings.contains_key(&key) {
                refused += 1;
                continue;
            }
            let refusals = told.refused.into_iter().map(|one| (one.origin, one.reason));
            let standing = Standing {
                version: resource.version,
                outside: told.outside as usize,
                missing: told.missing as usize,
                refused: refusals.collect(),
            };
            self.standings.insert(key, standing);
        }
        refused
    }

    /// Its filters.
    pub(super) fn connected(&self) -> usize {
        self.connected
    }

    /// Looks again whether its filters have these of our resources, of which something is new here or there.
    pub(super) fn judge<'a>(&mut self, resources: &Resources, keys: impl IntoIterator<Item = &'a Key>) {
        for key in keys.into_iter().filter(|key| key.kind == ResourceType::Endpoints) {
            let lacks = |resource: &Resource| !self.has(key, resource.version);
            if resources.get(key).is_some_and(lacks) {
                self.lacking.insert(key.clone());
            } else {
                self.lacking.remove(key);
            }
        }
    }

    /// Whether all its filters have all our endpoints that they see, as of what was judged.
    pub(super) fn has_all_endpoints(&self) -> bool {
        self.lacking.is_empty()
    }

    /// Whether all its filters that see it have this version; without such filters they do.
    fn has(&self, key: &Key, version: u64) -> bool {
        let is_like = |standing: &Standing| {
            standing.outside >= self.connected || (standing.version == version && standing.missing == 0)
        };
        self.connected == 0 || self.standings.get(key).is_some_and(is_like)
    }

    /// Adds its filters that see it to those that are spoken of.
    pub(super) fn add_to(&self, acceptance: &mut Acceptance, key: &Key) {
        let standing = self.standings.get(key);
        let outside = standing.map_or(0, |standing| standing.outside);
        let seeing = self.connected.saturating_sub(outside);
        acceptance.subscribers += seeing;
        if let Some(standing) = standing.filter(|standing| standing.version == acceptance.version) {
            acceptance.acknowledged += seeing.saturating_sub(self.starting + standing.missing);
            acceptance.refused.extend(standing.refused.iter().cloned());
        }
    }
}

/// Filters connected, and starting.
fn counts(filters: &proto::Filters) -> (usize, usize) {
    (filters.connected as usize, filters.starting as usize)
}

/// The resources that a message speaks of by name.
fn named(filters: &proto::Filters) -> impl Iterator<Item = Key> {
    let told = filters.resources.iter().filter_map(|told| told.resource.as_ref());
    told.chain(&filters.removed)
        .map(|one| Key::new(one.r#type(), one.name.as_str()))
}

#[cfg(test)]
mod tests {
    use kthena_scheduler::state::proto::{Endpoint, Endpoints};
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// A ModelServer has these endpoints, or is none any more.
        Publish(u8, Option<u64>),
        /// The other controller tells of its filters, and how they stand to the endpoints of a ModelServer in a version.
        Tell(u32, u32, Option<(u8, u64, u32, u32)>),
        /// It publishes a ModelServer no more.
        Remove(u32, u8),
    }

    fn endpoints(server: u8, id: u64) -> Resource {
        let endpoint = Endpoint {
            id,
            ..Endpoint::default()
        };
        let key = Key::new(ResourceType::Endpoints, format!("ns/{server}"));
        Resource::encode(
            key,
            &Endpoints {
                endpoints: vec![endpoint],
            },
        )
    }

    fn step() -> impl Strategy<Value = Step> {
        let server = 0..3_u8;
        prop_oneof![
            (server.clone(), proptest::option::of(0..3_u64)).prop_map(|(server, id)| Step::Publish(server, id)),
            (
                0..3_u32,
                0..2_u32,
                proptest::option::of((server.clone(), 0..3_u64, 0..3_u32, 0..2_u32))
            )
                .prop_map(|(connected, starting, told)| Step::Tell(connected, starting, told)),
            (0..3_u32, server).prop_map(|(connected, server)| Step::Remove(connected, server)),
        ]
    }

    proptest! {
        /// What is remembered of what they lack is what looking at everything would find.
        #[test]
        fn what_its_filters_lack_is_known_after_every_step(steps in proptest::collection::vec(step(), 1..40)) {
            let (mut heard, mut ours) = (Heard::default(), Resources::new());
            for step in steps {
                match step {
                    Step::Publish(server, id) => {
                        let key = endpoints(server, 0).key;
                        match id {
                            Some(id) => drop(ours.insert(key.clone(), endpoints(server, id))),
                            None => drop(ours.remove(&key)),
                        }
                        heard.judge(&ours, [&key]);
                    }
                    Step::Tell(connected, starting, told) => {
                        let resources = told.map(|(server, id, missing, outside)| {
                            let resource = endpoints(server, id);
                            proto::Acceptance {
                                resource: Some(versioned(&resource.key, resource.version)),
                                missing,
                                outside,
                                ..proto::Acceptance::default()
                            }
                        });
                        let resources = resources.into_iter().collect();
                        // There is not room for all.
                        heard.hear(proto::Filters { connected, starting, resources, ..proto::Filters::default() }, 2, &ours);
                    }
                    Step::Remove(connected, server) => {
                        let removed = vec![versioned(&endpoints(server, 0).key, 0)];
                        heard.hear(proto::Filters { connected, removed, ..proto::Filters::default() }, 2, &ours);
                    }
                }
                let lacks_none = ours.iter().all(|(key, resource)| heard.has(key, resource.version));
                prop_assert_eq!(heard.has_all_endpoints(), lacks_none);
            }
        }
    }
}
