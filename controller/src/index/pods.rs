//! Pods by name and by label.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pod::PodView;

#[derive(Debug, Default)]
pub(super) struct Pods {
    // By namespace, so that names need not be copied for a look-up.
    namespaces: BTreeMap<String, Namespace>,
}

#[derive(Debug, Default)]
struct Namespace {
    by_name: BTreeMap<String, Arc<PodView>>,
    // Label key -> value -> names.
    by_label: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl Pods {
    /// Takes a pod in; what it replaces and what it is go to `touched`, unless they are equal.
    pub(super) fn insert(&mut self, pod: PodView, touched: &mut Vec<Arc<PodView>>) {
        let namespace = self.namespaces.get(&pod.namespace);
        let before = namespace.and_then(|pods| pods.by_name.get(&pod.name));
        if before.is_some_and(|before| **before == pod) {
            return;
        }
        touched.extend(self.remove(&pod.namespace, &pod.name));
        let pod = Arc::new(pod);
        touched.push(Arc::clone(&pod));
        let namespace = self.namespaces.entry(pod.namespace.clone()).or_default();
        for (key, value) in &pod.labels {
            namespace
                .by_label
                .entry(key.clone())
                .or_default()
                .entry(value.clone())
                .or_default()
                .insert(pod.name.clone());
        }
        namespace.by_name.insert(pod.name.clone(), pod);
    }

    /// Drops a pod and returns what it was.
    pub(super) fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<PodView>> {
        let pods = self.namespaces.get_mut(namespace)?;
        let pod = pods.by_name.remove(name)?;
        for (key, value) in &pod.labels {
            let Some(values) = pods.by_label.get_mut(key) else {
                continue;
            };
            if let Some(names) = values.get_mut(value) {
                names.remove(name);
                if names.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                pods.by_label.remove(key);
            }
        }
        if pods.by_name.is_empty() {
            self.namespaces.remove(namespace);
        }
        Some(pod)
    }

    pub(super) fn select(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<&Arc<PodView>> {
        let Some(pods) = self.namespaces.get(namespace) else {
            return Vec::new();
        };
        // The rarest label leaves the fewest pods to look at.
        let rarest = labels
            .iter()
            .map(|(key, value)| pods.by_label.get(key).and_then(|values| values.get(value)))
            .min_by_key(|names| names.map_or(0, BTreeSet::len))
            .flatten();
        rarest
            .into_iter()
            .flatten()
            .filter_map(|name| pods.by_name.get(name))
            .filter(|pod| pod.has_labels(labels))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.namespaces.values().map(|pods| pods.by_name.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::pod::Eligibility;

    fn pod(name: &str, app: &str) -> PodView {
        PodView {
            uid: name.into(),
            namespace: "default".into(),
            name: name.into(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            eligibility: Eligibility::NoAddress,
            containers: Vec::new(),
        }
    }

    #[test]
    fn labels_that_no_pod_has_any_more_are_forgotten() {
        let mut pods = Pods::default();
        let mut touched = Vec::new();
        for pod in [pod("a", "m"), pod("b", "x"), pod("a", "n"), pod("a", "n")] {
            pods.insert(pod, &mut touched);
        }
        assert_eq!(touched.len(), 4, "a as it was and as it is, once");
        let values: Vec<_> = pods.namespaces["default"].by_label["app"].keys().collect();
        assert_eq!(values, ["n", "x"]);
        pods.remove("default", "a");
        pods.remove("default", "b");
        assert!(pods.namespaces.is_empty());
    }
}
