//! What other controllers tell of endpoints, kept apart from what is known: it may come before the endpoint is known here, or be of another
//! server than the one that is asked here.
//!
//! What must always hold: each teller may occupy so many entries and no more; the oldest look goes when it is old enough to be of a pod that is
//! gone. Nothing of a teller outlives its end.

use std::collections::HashMap;
use std::sync::Arc;

use kthena_scheduler::time::Time;

use super::observation::Observation;
use crate::compile::{EndpointKey, Fact};

/// An entry that was not told anew for this long is of a pod that is gone, milliseconds.
const STALE_MS: u64 = 60_000;

/// What a controller tells of an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// Of which endpoint.
    pub key: EndpointKey,
    /// What was asked.
    pub target: u64,
    /// When the last scrape ended.
    pub looked_at: Time,
    /// What is known, but for the fact.
    pub load: Observation,
    /// `None` = as it told before.
    pub fact: Option<Fact>,
}

/// What was told, by teller.
#[derive(Debug, Default)]
pub(super) struct Hearsay {
    tellers: HashMap<u64, HashMap<EndpointKey, Heard>>,
}

#[derive(Debug)]
struct Heard {
    target: u64,
    looked_at: Time,
    observation: Observation,
}

// === impl Hearsay ===

impl Hearsay {
    /// Takes what is told and returns it whole; `None` = there is no room for one more endpoint of this teller.
    pub(super) fn hear(&mut self, from: u64, told: Told, max: usize) -> Option<Observation> {
        let heard = self.tellers.entry(from).or_default();
        if heard.len() >= max && !heard.contains_key(&told.key) {
            heard.retain(|_, old| told.looked_at.since(old.looked_at) < STALE_MS);
            if heard.len() >= max {
                return None;
            }
        }
        let mut observation = told.load;
        observation.fact = match (told.fact, heard.get(&told.key)) {
            (Some(fact), Some(old)) if *old.observation.fact == fact => Arc::clone(&old.observation.fact),
            (Some(fact), _) => Arc::new(fact),
            (None, Some(old)) => Arc::clone(&old.observation.fact),
            (None, None) => Arc::default(),
        };
        let entry = Heard {
            target: told.target,
            looked_at: told.looked_at,
            observation: observation.clone(),
        };
        heard.insert(told.key, entry);
        Some(observation)
    }

    /// The newest look at an endpoint that was told, of those at this server since `since`.
    pub(super) fn newest(&self, key: &EndpointKey, target: u64, since: Time) -> Option<(Time, Observation)> {
        let heard = self.tellers.values().filter_map(|heard| heard.get(key));
        let fits = heard.filter(|heard| heard.target == target && heard.looked_at >= since);
        let newest = fits.max_by_key(|heard| heard.looked_at)?;
        Some((newest.looked_at, newest.observation.clone()))
    }

    /// An endpoint is gone.
    pub(super) fn forget(&mut self, key: &EndpointKey) {
        for heard in self.tellers.values_mut() {
            heard.remove(key);
        }
    }

    /// A teller tells nothing any more.
    pub(super) fn end(&mut self, from: u64) {
        self.tellers.remove(&from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_teller_has_so_much_room_and_what_is_old_makes_some() {
        let mut hearsay = Hearsay::default();
        let told = |uid: &str, at| Told {
            key: EndpointKey {
                uid: uid.into(),
                port: 1,
            },
            target: 1,
            looked_at: Time::from_millis(at),
            load: Observation::default(),
            fact: None,
        };
        assert!(hearsay.hear(1, told("a", 1_000), 2).is_some());
        assert!(hearsay.hear(1, told("b", 50_000), 2).is_some());
        assert!(hearsay.hear(1, told("c", 60_000), 2).is_none());
        assert!(
            hearsay.hear(1, told("b", 60_000), 2).is_some(),
            "what is there may change"
        );
        assert!(
            hearsay.hear(2, told("c", 60_000), 2).is_some(),
            "another has its own room"
        );
        assert!(
            hearsay.hear(1, told("c", 61_000), 2).is_some(),
            "a was not told of for long"
        );
        hearsay.end(1);
        assert_eq!(hearsay.tellers.len(), 1);
    }
}
