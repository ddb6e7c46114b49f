//! The newest version of each object of a kind, judged, and the newest that could be accepted.
//!
//! What must always hold: an object that is the same as at the last look (the very same, not an equal one) is not judged again; the version in force is
//! the newest that was accepted, and goes when the object goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kthena_gateway_api::FieldIssue;

use crate::index::Entry;
use crate::source::{ObjectKey, Origin};
use crate::status::Status;

/// What is found when an object is judged.
#[derive(Debug)]
pub(super) struct Judgement {
    /// Why it cannot be accepted.
    pub(super) errors: Vec<FieldIssue>,
    /// What has no effect, or not the one that was meant.
    pub(super) warnings: Vec<FieldIssue>,
}

/// What a look at all objects found.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Objects that are new, different, or gone.
    pub(super) keys: BTreeSet<ObjectKey>,
    /// Whether one is new or gone.
    pub(super) came_or_went: bool,
}

#[derive(Debug)]
pub(super) struct Versions<T> {
    by_key: BTreeMap<ObjectKey, Version<T>>,
}

#[derive(Debug)]
struct Version<T> {
    /// `None` = to be judged anew.
    newest: Option<Arc<T>>,
    origin: Origin,
    status: Status,
    in_force: Option<Arc<T>>,
}

impl<T> Default for Versions<T> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
        }
    }
}

impl<T> Versions<T> {
    /// Takes in all objects there are.
    pub(super) fn take_in(
        &mut self,
        objects: &BTreeMap<ObjectKey, Entry<T>>,
        judge: impl Fn(&ObjectKey, &T) -> Judgement,
    ) -> Change {
        let mut change = Change::default();
        for (key, entry) in objects {
            let old = self.by_key.get(key);
            if old.is_some_and(|old| old.is_of(entry)) {
                continue;
            }
            change.came_or_went |= old.is_none();
            change.keys.insert(key.clone());
            let before = old.and_then(|old| old.in_force.clone());
            let version = Version::judged(entry, judge(key, &entry.object), before);
            self.by_key.insert(key.clone(), version);
        }
        if self.by_key.len() > objects.len() {
            change.came_or_went = true;
            let gone = self.by_key.extract_if(.., |key, _| !objects.contains_key(key));
            change.keys.extend(gone.map(|(key, _)| key));
        }
        change
    }

    /// The version of an object that is in force.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.by_key.get(key)?.in_force.as_ref()
    }

    /// The versions in force, by key.
    pub(super) fn in_force(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<T>)> {
        self.by_key
            .iter()
            .filter_map(|(key, version)| Some((key, version.in_force.as_ref()?)))
    }

    /// What was found when the newest version was judged.
    pub(super) fn status(&self, key: &ObjectKey) -> Option<&Status> {
        Some(&self.by_key.get(key)?.status)
    }

    /// The same, to be judged anew.
    #[cfg(test)]
    pub(super) fn unjudged(mut self) -> Self {
        self.by_key.values_mut().for_each(|version| version.newest = None);
        self
    }
}

impl<T> Version<T> {
    fn judged(entry: &Entry<T>, judgement: Judgement, before: Option<Arc<T>>) -> Self {
        let mut status = Status::judged(&entry.origin, judgement.errors, judgement.warnings);
        let in_force = match status.accepted {
            true => Some(Arc::clone(&entry.object)),
            false => before,
        };
        status.serving = in_force.is_some();
        Self {
            newest: Some(Arc::clone(&entry.object)),
            origin: entry.origin.clone(),
            status,
            in_force,
        }
    }

    fn is_of(&self, entry: &Entry<T>) -> bool {
        let same = self
            .newest
            .as_ref()
            .is_some_and(|newest| Arc::ptr_eq(newest, &entry.object));
        same && self.origin == entry.origin
    }
}
