//! The newest version of each object that could be compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::source::ObjectKey;
use crate::status::Status;

#[derive(Debug)]
pub(super) struct LastGood<T> {
    versions: BTreeMap<ObjectKey, Arc<T>>,
}

impl<T> Default for LastGood<T> {
    fn default() -> Self {
        Self {
            versions: BTreeMap::new(),
        }
    }
}

impl<T> LastGood<T> {
    /// Forgets objects that are gone.
    pub(super) fn begin<'k>(&mut self, present: impl Iterator<Item = &'k ObjectKey>) {
        let present: BTreeSet<_> = present.collect();
        self.versions.retain(|key, _| present.contains(key));
    }

    /// Takes an object that its status calls accepted; otherwise the version before stays. Returns the status, which now
    /// says whether any version is in force.
    pub(super) fn offer(&mut self, key: &ObjectKey, object: &Arc<T>, mut status: Status) -> Status {
        if status.accepted {
            self.versions.insert(key.clone(), Arc::clone(object));
        }
        status.serving = self.versions.contains_key(key);
        status
    }

    /// The versions in force, by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<T>)> {
        self.versions.iter()
    }
}
