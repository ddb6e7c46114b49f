//! The newest version of every object, to look up.
//!
//! What must always hold: synchronous, and the same content whatever the order of the events that led to it.

use std::collections::BTreeMap;

use crate::source::{Event, Object, ObjectKey, Origin, Problem};

/// Every object, and every document that is none.
#[derive(Debug, Default)]
pub struct Index {
    objects: BTreeMap<ObjectKey, (Object, Origin)>,
    problems: Vec<Problem>,
    synced: bool,
}

impl Index {
    /// Takes a change in.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Apply(object, origin) => {
                self.objects.insert(object.key(), (object, origin));
            }
            Event::Delete(key) => {
                self.objects.remove(&key);
            }
            Event::Problems(mut problems) => {
                problems.sort();
                self.problems = problems;
            }
            Event::Synced => self.synced = true,
        }
    }

    /// Whether everything that existed at the start is in: what is compiled before is not the whole picture.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// What cannot be read now.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}
