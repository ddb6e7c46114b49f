//! What the last configurations changed, so that a subscriber that follows is not compared with all of it each time.
//!
//! What must always hold: an answer names every resource that differs between two configurations; where that is not remembered any more there is no
//! answer, and the subscriber is compared with everything.

use std::collections::{BTreeSet, VecDeque};

use crate::compile::Key;

/// Keys remembered, over all configurations.
const ROOM: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Changes {
    entries: VecDeque<(u64, Vec<Key>)>,
    keys: usize,
}

impl Changes {
    /// A configuration differs in these from the one before it.
    pub(super) fn note(&mut self, generation: u64, changed: Vec<Key>) {
        self.keys += changed.len();
        self.entries.push_back((generation, changed));
        while self.keys > ROOM {
            let Some((_, dropped)) = self.entries.pop_front() else {
                return;
            };
            self.keys -= dropped.len();
        }
    }

    /// What differs between the configuration of this generation and the newest; `None` = not remembered.
    pub(super) fn since(&self, generation: u64) -> Option<BTreeSet<&Key>> {
        let oldest = self.entries.front()?.0;
        if oldest > generation + 1 {
            return None;
        }
        let first = self.entries.partition_point(|(made, _)| *made <= generation);
        Some(self.entries.range(first..).flat_map(|(_, keys)| keys).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kthena_scheduler::state::proto::ResourceType;

    fn key(name: &str) -> Key {
        Key::new(ResourceType::Route, name)
    }

    #[test]
    fn what_changed_since_is_told_as_long_as_it_is_remembered() {
        let mut changes = Changes::default();
        assert!(changes.since(0).is_none());
        changes.note(1, vec![key("a"), key("b")]);
        changes.note(2, vec![key("b")]);
        changes.note(3, vec![key("c")]);
        let names = |changes: &Changes, since| {
            let keys = changes.since(since)?;
            Some(keys.into_iter().map(|key| key.name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(names(&changes, 1).unwrap(), ["b", "c"]);
        assert_eq!(names(&changes, 3).unwrap(), [""; 0]);
        assert_eq!(names(&changes, 0).unwrap(), ["a", "b", "c"]);
        changes.note(4, vec![key("x"); ROOM]);
        assert_eq!(names(&changes, 2), None);
        assert_eq!(names(&changes, 3).unwrap(), ["x"]);
    }
}
