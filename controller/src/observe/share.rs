//! Who of several controllers observes which endpoint, by rendezvous hashing: each of them works it out alone.
//!
//! What must always hold: with one view of who is there, every endpoint has one observer; when one goes, its endpoints alone change hands. Views
//! may differ for a moment, and a controller may not know a pod yet: who is not told of an endpoint in time looks itself (`scrape`).

use parking_lot::RwLock;

use crate::compile::EndpointKey;

/// The controllers that share the observing.
#[derive(Debug)]
pub struct Share {
    own: String,
    others: RwLock<Vec<String>>,
}

// === impl Share ===

impl Share {
    /// This controller alone, by its name among all.
    pub fn new(own: impl Into<String>) -> Self {
        Self {
            own: own.into(),
            others: RwLock::default(),
        }
    }

    /// The name of this controller.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// Another controller shares from now on.
    pub fn join(&self, other: &str) {
        self.others.write().push(other.to_owned());
    }

    /// Another controller shares no more.
    pub fn leave(&self, other: &str) {
        let mut others = self.others.write();
        if let Some(at) = others.iter().position(|known| known == other) {
            others.swap_remove(at);
        }
    }

    /// Whether there are others.
    pub fn is_shared(&self) -> bool {
        !self.others.read().is_empty()
    }

    /// Whether this controller is to observe an endpoint.
    pub fn is_ours(&self, key: &EndpointKey) -> bool {
        let others = self.others.read();
        let own = weight(&self.own, key);
        others.iter().all(|other| weight(other, key) < own)
    }
}

/// The greatest decides. The name stands beside it, so that two are never equal.
fn weight<'a>(name: &'a str, key: &EndpointKey) -> (u64, &'a str) {
    let seed = twox_hash::XxHash3_64::oneshot_with_seed(u64::from(key.port), key.uid.as_bytes());
    (twox_hash::XxHash3_64::oneshot_with_seed(seed, name.as_bytes()), name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> impl Iterator<Item = EndpointKey> {
        (0..3000).map(|n| EndpointKey {
            uid: format!("pod-{n}"),
            port: 8000,
        })
    }

    fn shares(names: &[&str]) -> Vec<Share> {
        let share = |own: &&str| {
            let share = Share::new(*own);
            names
                .iter()
                .filter(|name| *name != own)
                .for_each(|name| share.join(name));
            share
        };
        names.iter().map(share).collect()
    }

    #[test]
    fn every_endpoint_has_one_observer_and_each_controller_its_part() {
        let shares = shares(&["a-1", "b-1", "c-1"]);
        let mut counts = [0; 3];
        for key in keys() {
            let owners: Vec<_> = (0..3).filter(|at| shares[*at].is_ours(&key)).collect();
            assert_eq!(owners.len(), 1);
            counts[owners[0]] += 1;
        }
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }

    #[test]
    fn when_one_goes_only_its_endpoints_change_hands() {
        let shares = shares(&["a-1", "b-1", "c-1"]);
        let before: Vec<_> = keys().filter(|key| shares[0].is_ours(key)).collect();
        let theirs: Vec<_> = keys().filter(|key| shares[1].is_ours(key)).collect();
        shares[0].leave("c-1");
        shares[1].leave("c-1");
        assert!(before.iter().all(|key| shares[0].is_ours(key)));
        assert!(theirs.iter().all(|key| shares[1].is_ours(key)));
        let all = keys().filter(|key| shares[0].is_ours(key) != shares[1].is_ours(key));
        assert_eq!(all.count(), 3000);
        shares[0].leave("b-1");
        assert!(keys().all(|key| shares[0].is_ours(&key)) && !shares[0].is_shared());
    }
}
