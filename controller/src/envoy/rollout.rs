//! In which order Envoy and the filters learn of a change: no I/O, no clock.
//!
//! A new endpoint is written to Envoy's files first and published after a short while, in which Envoy reads them. One that
//! is gone is published first and stays in the files until all filters have answered, or a deadline has passed. So the
//! files hold the union of what decisions may name now, what they will name next, and what some may still name. Versions are compared with each
//! other at the cost of what differs.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use kthena_scheduler::time::Time;

use crate::compile::Cluster;

/// Clusters by name.
pub type Clusters = OrdMap<Arc<str>, Arc<Cluster>>;

/// Times of a rollout.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long Envoy may take to read its files, milliseconds.
    pub lag_ms: u64,
    /// How long filters may take to answer before something is removed from the files, milliseconds.
    pub answer_ms: u64,
}

/// The changes under way. `T` is what is published.
#[derive(Debug)]
pub struct Rollout<T> {
    settings: Settings,
    /// What published decisions name.
    in_force: Clusters,
    waiting: VecDeque<Waiting<T>>,
    leaving: Vec<Leaving>,
    /// Grows with every change of the above.
    version: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    clusters: Clusters,
    content: T,
    from: Time,
}

#[derive(Debug)]
struct Leaving {
    clusters: Clusters,
    generation: u64,
    until: Time,
}

/// Whether `all` holds everything of `part`. Mostly they are the same, and nobody has to look.
fn is_subset(part: &Arc<BTreeSet<SocketAddr>>, all: &Arc<BTreeSet<SocketAddr>>) -> bool {
    Arc::ptr_eq(part, all) || part.is_subset(all)
}

/// Adds what a cluster has to what is known of it; the newer has the last word on what is no set.
fn add(union: &mut Clusters, name: &Arc<str>, newer: &Arc<Cluster>) {
    let merged = match union.get(name) {
        None => Arc::clone(newer),
        Some(known) if is_subset(&known.endpoints, &newer.endpoints) => Arc::clone(newer),
        Some(known) => {
            let mut merged = Cluster::clone(newer);
            Arc::make_mut(&mut merged.endpoints).extend(known.endpoints.iter());
            Arc::new(merged)
        }
    };
    union.insert(Arc::clone(name), merged);
}

// === impl Rollout ===

impl<T> Rollout<T> {
    /// Nothing is in force.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            in_force: Clusters::new(),
            waiting: VecDeque::new(),
            leaving: Vec::new(),
            version: 0,
        }
    }

    /// Grows whenever [`Rollout::files`] may have changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Takes the newest content and its clusters. It may be published at once when Envoy knows all it names.
    pub fn offer(&mut self, clusters: Clusters, content: T, now: Time) {
        self.version += 1;
        let known = self.files();
        let news = known.diff(&clusters).any(|difference| match difference {
            DiffItem::Add(..) => true,
            DiffItem::Update {
                old: (_, known),
                new: (_, cluster),
            } => known.https != cluster.https || !is_subset(&cluster.endpoints, &known.endpoints),
            DiffItem::Remove(..) => false,
        });
        let from = if news { now.after(self.settings.lag_ms) } else { now };
        // Later content never overtakes earlier, whose endpoints it may still name.
        let from = self.waiting.back().map_or(from, |last| last.from.max(from));
        self.waiting.push_back(Waiting {
            clusters,
            content,
            from,
        });
    }

    /// What the files must hold now.
    pub fn files(&self) -> Clusters {
        let mut union = self.in_force.clone();
        for leaving in &self.leaving {
            for (name, cluster) in &leaving.clusters {
                let newer = self.in_force.get(name).unwrap_or(cluster);
                add(&mut union, name, cluster);
                add(&mut union, name, newer);
            }
        }
        for waiting in &self.waiting {
            for difference in self.in_force.diff(&waiting.clusters) {
                if let DiffItem::Add(name, cluster)
                | DiffItem::Update {
                    new: (name, cluster), ..
                } = difference
                {
                    add(&mut union, name, cluster);
                }
            }
        }
        union
    }

    /// The newest content that may be published now. [`Rollout::published`] must follow.
    pub fn due(&mut self, now: Time) -> Option<(T, Clusters)> {
        let count = self.waiting.iter().take_while(|waiting| waiting.from <= now).count();
        let last = self.waiting.drain(..count).next_back()?;
        Some((last.content, last.clusters))
    }

    /// Notes that content with these clusters is published as this generation.
    pub fn published(&mut self, clusters: Clusters, generation: u64, now: Time) {
        self.version += 1;
        let before = std::mem::replace(&mut self.in_force, clusters);
        let mut left = Clusters::new();
        for difference in before.diff(&self.in_force) {
            match difference {
                DiffItem::Remove(name, cluster) => {
                    left.insert(Arc::clone(name), Arc::clone(cluster));
                }
                DiffItem::Update {
                    old: (name, old),
                    new: (_, kept),
                } if !is_subset(&old.endpoints, &kept.endpoints) => {
                    let mut gone = Cluster::clone(old);
                    Arc::make_mut(&mut gone.endpoints).retain(|address| !kept.endpoints.contains(address));
                    left.insert(Arc::clone(name), Arc::new(gone));
                }
                DiffItem::Add(..) | DiffItem::Update { .. } => {}
            }
        }
        if !left.is_empty() {
            self.leaving.push(Leaving {
                clusters: left,
                generation,
                until: now.after(self.settings.answer_ms),
            });
        }
    }

    /// Forgets what left in generations that all filters have answered, or long enough ago. Returns how many removals
    /// did not wait any longer for an answer.
    pub fn settle(&mut self, answered: impl Fn(u64) -> bool, now: Time) -> u64 {
        let mut late = 0;
        let before = self.leaving.len();
        self.leaving.retain(|leaving| {
            if answered(leaving.generation) {
                return false;
            }
            late += u64::from(leaving.until <= now);
            leaving.until > now
        });
        self.version += u64::from(self.leaving.len() != before);
        late
    }

    /// When something is due, or overdue, at the latest.
    pub fn wake_at(&self) -> Option<Time> {
        let waiting = self.waiting.iter().map(|waiting| waiting.from);
        waiting.chain(self.leaving.iter().map(|leaving| leaving.until)).min()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SETTINGS: Settings = Settings {
        lag_ms: 50,
        answer_ms: 1000,
    };

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn set(ports: &[u16]) -> Clusters {
        let addresses = ports.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port)));
        let cluster = Cluster::of("c", addresses);
        Clusters::unit(Arc::from("c"), Arc::new(cluster))
    }

    #[test]
    fn a_new_endpoint_is_in_the_files_before_it_is_published() {
        let mut rollout = Rollout::new(SETTINGS);
        rollout.offer(set(&[1]), "one", at(0));
        assert_eq!(rollout.files(), set(&[1]));
        assert_eq!(rollout.due(at(49)), None);
        assert_eq!(rollout.wake_at(), Some(at(50)));
        assert_eq!(rollout.due(at(50)), Some(("one", set(&[1]))));
    }

    #[test]
    fn what_envoy_knows_is_published_at_once() {
        let mut rollout = Rollout::new(SETTINGS);
        rollout.published(set(&[1]), 1, at(0));
        rollout.offer(set(&[1]), "a route changed", at(10));
        assert!(rollout.due(at(10)).is_some());
    }

    #[test]
    fn a_lost_endpoint_stays_in_the_files_until_the_filters_answer_or_the_deadline() {
        let mut rollout = Rollout::new(SETTINGS);
        rollout.published(set(&[1, 2]), 1, at(0));
        rollout.offer(set(&[1]), "two is gone", at(10));
        let (_, clusters) = rollout.due(at(10)).unwrap();
        rollout.published(clusters, 2, at(10));
        assert_eq!(rollout.files(), set(&[1, 2]));
        assert_eq!(rollout.settle(|generation| generation < 2, at(500)), 0);
        assert_eq!(rollout.files(), set(&[1, 2]));
        rollout.settle(|generation| generation <= 2, at(600));
        assert_eq!(rollout.files(), set(&[1]));

        rollout.published(Clusters::new(), 3, at(1000));
        assert_eq!(rollout.settle(|_| false, at(1999)), 0);
        assert_eq!(rollout.files(), set(&[1]));
        assert_eq!(rollout.settle(|_| false, at(2000)), 1, "told");
        assert_eq!(rollout.files(), Clusters::new());
    }

    #[test]
    fn a_stream_of_changes_does_not_put_off_the_first() {
        let mut rollout = Rollout::new(SETTINGS);
        for n in 0..10u16 {
            rollout.offer(set(&[n + 1]), n, at(u64::from(n) * 10));
        }
        assert_eq!(rollout.due(at(90)).map(|(content, _)| content), Some(4));
    }

    proptest! {
        /// Whatever happens in whatever order, Envoy knows all that published decisions name, and has for `lag_ms`.
        #[test]
        fn envoy_always_knows_what_decisions_name(
            script in proptest::collection::vec((0u64..80, 0u8..3, proptest::collection::vec(1u16..6, 0..5)), 1..60),
        ) {
            let mut rollout = Rollout::new(SETTINGS);
            let mut now = at(0);
            let mut generation = 0;
            let mut since: BTreeMap<SocketAddr, Time> = BTreeMap::new();
            for (step, action, ports) in script {
                now = now.after(step);
                match action {
                    0 => rollout.offer(set(&ports), (), now),
                    1 => { rollout.settle(|g| g < generation, now); }
                    _ => if let Some(((), clusters)) = rollout.due(now) {
                        generation += 1;
                        for address in clusters["c"].endpoints.iter() {
                            prop_assert!(now.since(since[address]) >= SETTINGS.lag_ms);
                        }
                        rollout.published(clusters, generation, now);
                    },
                }
                let files = rollout.files();
                let addresses = files.get("c").map(|c| c.endpoints.clone()).unwrap_or_default();
                since.retain(|address, _| addresses.contains(address));
                for address in addresses.iter() {
                    since.entry(*address).or_insert(now);
                }
                for (name, endpoints) in &rollout.in_force {
                    prop_assert!(endpoints.endpoints.is_subset(&files[name].endpoints));
                }
            }
        }
    }
}
