//! The newest version of every object, to look up.
//!
//! What must always hold: synchronous, no clock; the same content whatever the order of the events that led to it; pods
//! are found by label without walking all of them; the maps that it gives can be kept, and compared with later ones, at the cost of what changed.

mod pod;
mod pods;

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use kthena_gateway_api::{ExternalModelProvider, InferencePool, ModelRoute, ModelServer};

pub use pod::{ContainerStart, Eligibility, PodView};

use crate::source::{Event, Kind, Object, ObjectKey, Origin, Problem};
use pods::Pods;

/// An object and where it came from.
#[derive(Debug)]
pub struct Entry<T> {
    /// The newest version that could be read.
    pub object: Arc<T>,
    /// Where it came from.
    pub origin: Origin,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self {
            object: Arc::clone(&self.object),
            origin: self.origin.clone(),
        }
    }
}

/// The very same object, not an equal one: to tell takes no time.
impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.object, &other.object) && self.origin == other.origin
    }
}

/// Every object, and every document that is none.
#[derive(Debug, Default)]
pub struct Index {
    routes: OrdMap<ObjectKey, Entry<ModelRoute>>,
    servers: OrdMap<ObjectKey, Entry<ModelServer>>,
    providers: OrdMap<ObjectKey, Entry<ExternalModelProvider>>,
    pools: OrdMap<ObjectKey, Entry<InferencePool>>,
    pods: Pods,
    touched: Vec<Arc<PodView>>,
    problems: Vec<Problem>,
    synced: bool,
}

impl Index {
    /// Takes a change in.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Apply(object, origin) => self.insert(object, origin),
            Event::Delete(key) => self.remove(&key),
            Event::Problems(mut problems) => {
                problems.sort();
                self.problems = problems;
            }
            Event::Synced => self.synced = true,
        }
    }

    fn insert(&mut self, object: Object, origin: Origin) {
        let key = object.key();
        match object {
            Object::ModelRoute(object) => {
                self.routes.insert(key, Entry { object, origin });
            }
            Object::ModelServer(object) => {
                self.servers.insert(key, Entry { object, origin });
            }
            Object::ExternalModelProvider(object) => {
                self.providers.insert(key, Entry { object, origin });
            }
            Object::InferencePool(object) => {
                self.pools.insert(key, Entry { object, origin });
            }
            Object::Pod(pod) => self.pods.insert(PodView::new(&key, &pod), &mut self.touched),
        }
    }

    fn remove(&mut self, key: &ObjectKey) {
        match key.kind {
            Kind::ModelRoute => {
                self.routes.remove(key);
            }
            Kind::ModelServer => {
                self.servers.remove(key);
            }
            Kind::ExternalModelProvider => {
                self.providers.remove(key);
            }
            Kind::InferencePool => {
                self.pools.remove(key);
            }
            Kind::Pod => self.touched.extend(self.pods.remove(&key.namespace, &key.name)),
        }
    }

    /// The pods that changed since the last call: as they were, and as they are.
    pub fn take_touched(&mut self) -> Vec<Arc<PodView>> {
        std::mem::take(&mut self.touched)
    }

    /// Whether everything that existed at the start is in: what is compiled before is not the whole picture.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// What cannot be read now, sorted.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Every ModelRoute, by key.
    pub fn routes(&self) -> &OrdMap<ObjectKey, Entry<ModelRoute>> {
        &self.routes
    }

    /// One ModelRoute.
    pub fn route(&self, key: &ObjectKey) -> Option<&Entry<ModelRoute>> {
        self.routes.get(key)
    }

    /// Every ModelServer, by key.
    pub fn servers(&self) -> &OrdMap<ObjectKey, Entry<ModelServer>> {
        &self.servers
    }

    /// Every ExternalModelProvider, by key.
    pub fn providers(&self) -> &OrdMap<ObjectKey, Entry<ExternalModelProvider>> {
        &self.providers
    }

    /// Every InferencePool, by key.
    pub fn pools(&self) -> &OrdMap<ObjectKey, Entry<InferencePool>> {
        &self.pools
    }

    /// Whether there is a ModelServer of this name, good or bad.
    pub fn has_server(&self, namespace: &str, name: &str) -> bool {
        self.servers
            .contains_key(&ObjectKey::new(Kind::ModelServer, namespace, name))
    }

    /// Whether there is an ExternalModelProvider of this name, good or bad.
    pub fn has_provider(&self, namespace: &str, name: &str) -> bool {
        self.providers
            .contains_key(&ObjectKey::new(Kind::ExternalModelProvider, namespace, name))
    }

    /// The pods of a namespace that have all these labels, by name. No labels select nothing.
    pub fn pods(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<&Arc<PodView>> {
        self.pods.select(namespace, labels)
    }

    /// How many objects there are of each kind.
    pub fn counts(&self) -> [(Kind, usize); 5] {
        [
            (Kind::ModelRoute, self.routes.len()),
            (Kind::ModelServer, self.servers.len()),
            (Kind::ExternalModelProvider, self.providers.len()),
            (Kind::InferencePool, self.pools.len()),
            (Kind::Pod, self.pods.len()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::fixtures::{apply, pod, server};

    #[test]
    fn the_newest_version_counts_until_it_is_deleted() {
        let mut index = Index::default();
        index.apply(apply(server("a", "app")));
        index.apply(apply(server("a", "other")));
        let (key, entry) = index.servers().iter().next().unwrap();
        assert_eq!(entry.object.spec.workload_selector.match_labels["app"], "other");
        let key = key.clone();
        assert!(index.has_server("default", "a") && !index.has_provider("default", "a"));
        index.apply(Event::Delete(key));
        assert_eq!(index.counts().map(|(_, n)| n), [0; 5]);
    }

    #[test]
    fn pods_are_found_by_their_labels_of_now() {
        let mut index = Index::default();
        let select = |index: &Index, namespace: &str, labels: &[(&str, &str)]| -> Vec<String> {
            let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            index
                .pods(namespace, &labels)
                .iter()
                .map(|pod| pod.name.clone())
                .collect()
        };
        index.apply(apply(pod("b", "m", "10.0.0.2")));
        index.apply(apply(pod("a", "m", "10.0.0.1")));
        assert_eq!(select(&index, "default", &[("app", "m")]), ["a", "b"]);
        assert!(select(&index, "default", &[("app", "m"), ("tier", "x")]).is_empty());
        assert!(select(&index, "default", &[]).is_empty());
        assert!(select(&index, "elsewhere", &[("app", "m")]).is_empty());
        // A relabelled pod leaves its old selection.
        index.apply(apply(pod("a", "n", "10.0.0.1")));
        assert_eq!(select(&index, "default", &[("app", "m")]), ["b"]);
        assert_eq!(select(&index, "default", &[("app", "n")]), ["a"]);
        index.apply(Event::Delete(ObjectKey::new(Kind::Pod, "default", "a")));
        assert!(select(&index, "default", &[("app", "n")]).is_empty());
    }
}
