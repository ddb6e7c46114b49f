//! Who selects a pod by its labels, without a look at everyone.
//!
//! What must always hold: whoever's labels a pod has all of, in one namespace, is found. Each is kept under one of its labels, the one that the
//! fewest others are kept under.

use std::collections::{BTreeMap, BTreeSet};

use crate::index::PodView;
use crate::source::ObjectKey;

/// Namespace, label and value.
type Place = (String, String, String);

#[derive(Debug, Default)]
pub(super) struct Selectors {
    by_label: BTreeMap<Place, BTreeSet<ObjectKey>>,
    selectors: BTreeMap<ObjectKey, Selector>,
}

#[derive(Debug)]
struct Selector {
    place: Place,
    labels: BTreeMap<String, String>,
}

impl Selectors {
    /// An object selects the pods of its namespace that have all these labels; no labels, or no object, select nothing.
    pub(super) fn set(&mut self, key: &ObjectKey, labels: Option<&BTreeMap<String, String>>) {
        if let Some(before) = self.selectors.remove(key)
            && let Some(keys) = self.by_label.get_mut(&before.place)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.by_label.remove(&before.place);
            }
        }
        let Some(labels) = labels else { return };
        let places = labels
            .iter()
            .map(|(label, value)| (key.namespace.clone(), label.clone(), value.clone()));
        let Some(place) = places.min_by_key(|place| self.by_label.get(place).map_or(0, BTreeSet::len)) else {
            return;
        };
        self.by_label.entry(place.clone()).or_default().insert(key.clone());
        let labels = labels.clone();
        self.selectors.insert(key.clone(), Selector { place, labels });
    }

    /// Those that select a pod.
    pub(super) fn of(&self, pod: &PodView) -> Vec<ObjectKey> {
        let place = |(label, value): (&String, &String)| (pod.namespace.clone(), label.clone(), value.clone());
        let kept = pod.labels.iter().filter_map(|label| self.by_label.get(&place(label)));
        let selects = |key: &&ObjectKey| {
            let selector = self.selectors.get(*key);
            selector.is_some_and(|selector| pod.has_labels(&selector.labels))
        };
        kept.flatten().filter(selects).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Eligibility;
    use crate::source::Kind;

    fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn pod(namespace: &str, of: &[(&str, &str)]) -> PodView {
        PodView {
            uid: "u".into(),
            namespace: namespace.into(),
            name: "p".into(),
            labels: labels(of),
            eligibility: Eligibility::NoAddress,
            containers: Vec::new(),
        }
    }

    #[test]
    fn who_selects_a_pod_has_its_namespace_and_no_label_that_it_lacks() {
        let key = |name: &str| ObjectKey::new(Kind::ModelServer, "n", name);
        let mut selectors = Selectors::default();
        selectors.set(&key("a"), Some(&labels(&[("app", "x"), ("all", "1")])));
        selectors.set(&key("b"), Some(&labels(&[("app", "y"), ("all", "1")])));
        selectors.set(&key("c"), Some(&labels(&[("all", "1")])));
        selectors.set(&key("d"), Some(&labels(&[])));
        let names = |selectors: &Selectors, pod: PodView| {
            let mut names: Vec<_> = selectors.of(&pod).into_iter().map(|key| key.name).collect();
            names.sort();
            names
        };
        assert_eq!(names(&selectors, pod("n", &[("app", "x"), ("all", "1")])), ["a", "c"]);
        assert_eq!(
            names(&selectors, pod("n", &[("app", "y"), ("all", "1"), ("z", "z")])),
            ["b", "c"]
        );
        assert!(names(&selectors, pod("n", &[("app", "x")])).is_empty());
        assert!(names(&selectors, pod("m", &[("app", "x"), ("all", "1")])).is_empty());
        selectors.set(&key("c"), Some(&labels(&[("app", "x")])));
        assert_eq!(names(&selectors, pod("n", &[("app", "x")])), ["c"]);
        ["a", "b", "c", "d"]
            .iter()
            .for_each(|name| selectors.set(&key(name), None));
        assert!(selectors.by_label.is_empty() && selectors.selectors.is_empty());
    }
}
