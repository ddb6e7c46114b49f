//! The newest version of each object of a kind, judged, and the newest that could be accepted.
//!
//! What must always hold: an object that is the same as at the last look (the very same, not an equal one) is neither looked at nor judged again;
//! the version in force is the newest that was accepted, and goes when the object goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use kthena_gateway_api::FieldIssue;

use crate::index::Entry;
use crate::source::ObjectKey;
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
    /// Those of them that are new or gone.
    pub(super) came_or_went: BTreeSet<ObjectKey>,
}

#[derive(Debug)]
pub(super) struct Versions<T> {
    /// All objects at the last look.
    seen: OrdMap<ObjectKey, Entry<T>>,
    by_key: BTreeMap<ObjectKey, Version<T>>,
}

#[derive(Debug)]
struct Version<T> {
    status: Status,
    in_force: Option<Arc<T>>,
}

impl<T> Default for Versions<T> {
    fn default() -> Self {
        Self {
            seen: OrdMap::new(),
            by_key: BTreeMap::new(),
        }
    }
}

impl<T> Versions<T> {
    /// Takes in all objects there are.
    pub(super) fn take_in(
        &mut self,
        objects: &OrdMap<ObjectKey, Entry<T>>,
        judge: impl Fn(&ObjectKey, &T) -> Judgement,
    ) -> Change {
        let mut change = Change::default();
        let seen = std::mem::replace(&mut self.seen, objects.clone());
        for difference in seen.diff(objects) {
            let key = match difference {
                DiffItem::Add(key, entry) | DiffItem::Update { new: (key, entry), .. } => {
                    let before = self.by_key.remove(key);
                    if before.is_none() {
                        change.came_or_went.insert(key.clone());
                    }
                    let before = before.and_then(|before| before.in_force);
                    let version = Version::judged(entry, judge(key, &entry.object), before);
                    self.by_key.insert(key.clone(), version);
                    key
                }
                DiffItem::Remove(key, _) => {
                    self.by_key.remove(key);
                    change.came_or_went.insert(key.clone());
                    key
                }
            };
            change.keys.insert(key.clone());
        }
        change
    }

    /// The version of an object that is in force.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.by_key.get(key)?.in_force.as_ref()
    }

    /// What was found when the newest version was judged.
    pub(super) fn status(&self, key: &ObjectKey) -> Option<&Status> {
        Some(&self.by_key.get(key)?.status)
    }

    /// The same, to be judged anew.
    #[cfg(test)]
    pub(super) fn unjudged(mut self) -> Self
    where
        T: Clone,
    {
        let others = self.seen.iter().map(|(key, entry)| {
            let object = Arc::new(T::clone(&entry.object));
            let origin = entry.origin.clone();
            (key.clone(), Entry { object, origin })
        });
        self.seen = others.collect();
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
        Self { status, in_force }
    }
}
