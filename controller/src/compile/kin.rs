//! Which ModelRoutes depend on each other, and on which backends.
//!
//! What must always hold: the rank of a route and what of it is unreachable depend on its kin alone, those with which it shares a name, directly or
//! through others; what it refers to without finding depends on its backends. So a change concerns the kin that was and the kin that is, and nobody else.

use std::collections::{BTreeMap, BTreeSet};

use kthena_gateway_api::ModelRoute;

use super::route;
use crate::source::ObjectKey;

#[derive(Debug, Default)]
pub(super) struct Kin {
    routes: BTreeMap<ObjectKey, Ties>,
    by_name: BTreeMap<String, BTreeSet<ObjectKey>>,
    by_backend: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
}

/// Names that a route serves, and where it sends requests.
#[derive(Debug)]
struct Ties {
    names: BTreeSet<String>,
    backends: BTreeSet<ObjectKey>,
}

impl Kin {
    /// A route is in force, or no longer.
    pub(super) fn set(&mut self, key: &ObjectKey, route: Option<&ModelRoute>) {
        if let Some(before) = self.routes.remove(key) {
            before
                .names
                .iter()
                .for_each(|name| unlist(&mut self.by_name, name, key));
            before
                .backends
                .iter()
                .for_each(|backend| unlist(&mut self.by_backend, backend, key));
        }
        let Some(route) = route else { return };
        let ties = Ties {
            names: route::names(route).map(str::to_owned).collect(),
            backends: route::backends(&key.namespace, route).collect(),
        };
        for name in &ties.names {
            self.by_name.entry(name.clone()).or_default().insert(key.clone());
        }
        for backend in &ties.backends {
            self.by_backend.entry(backend.clone()).or_default().insert(key.clone());
        }
        self.routes.insert(key.clone(), ties);
    }

    /// The routes that share a name with this one, itself included.
    pub(super) fn sharing(&self, key: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        let names = self.routes.get(key).into_iter().flat_map(|ties| &ties.names);
        names.filter_map(|name| self.by_name.get(name)).flatten()
    }

    /// The routes that send requests to this backend.
    pub(super) fn to(&self, backend: &ObjectKey) -> impl Iterator<Item = &ObjectKey> {
        self.by_backend.get(backend).into_iter().flatten()
    }

    /// These routes, as far as they are in force, with all their kin.
    pub(super) fn of(&self, routes: BTreeSet<ObjectKey>) -> BTreeSet<ObjectKey> {
        let mut next: Vec<_> = routes.iter().filter(|key| self.routes.contains_key(*key)).collect();
        let mut found: BTreeSet<_> = next.iter().copied().collect();
        while let Some(key) = next.pop() {
            for other in self.sharing(key) {
                if found.insert(other) {
                    next.push(other);
                }
            }
        }
        found.into_iter().cloned().collect()
    }
}

fn unlist<K: Ord>(lists: &mut BTreeMap<K, BTreeSet<ObjectKey>>, at: &K, key: &ObjectKey) {
    if let Some(list) = lists.get_mut(at) {
        list.remove(key);
        if list.is_empty() {
            lists.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::fixtures;
    use crate::source::{Kind, Object};
    use serde_json::json;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new(Kind::ModelRoute, "default", name)
    }

    fn set(kin: &mut Kin, name: &str, model: &str, adapters: &[&str], server: &str) {
        let rules = json!([{"targetModels": [{"modelServerName": server}]}]);
        let spec = json!({"modelName": model, "loraAdapters": adapters, "rules": rules});
        let Object::ModelRoute(route) = fixtures::route(name, spec) else {
            unreachable!()
        };
        kin.set(&key(name), Some(&route));
    }

    fn of(kin: &Kin, name: &str) -> Vec<String> {
        kin.of([key(name)].into()).into_iter().map(|key| key.name).collect()
    }

    #[test]
    fn kin_share_a_name_directly_or_through_others_until_nobody_ties_them() {
        let mut kin = Kin::default();
        set(&mut kin, "a", "x", &[], "m");
        set(&mut kin, "b", "y", &["z"], "m");
        set(&mut kin, "c", "z", &[], "n");
        assert_eq!(of(&kin, "a"), ["a"]);
        assert_eq!(of(&kin, "b"), ["b", "c"]);
        set(&mut kin, "tie", "x", &["y"], "n");
        assert_eq!(of(&kin, "a"), ["a", "b", "c", "tie"]);
        let server = ObjectKey::new(Kind::ModelServer, "default", "n");
        let to: Vec<_> = kin.to(&server).map(|key| key.name.as_str()).collect();
        assert_eq!(to, ["c", "tie"]);
        kin.set(&key("tie"), None);
        assert_eq!(of(&kin, "a"), ["a"]);
        assert!(of(&kin, "tie").is_empty());
        ["a", "b", "c"].iter().for_each(|name| kin.set(&key(name), None));
        assert!(kin.routes.is_empty() && kin.by_name.is_empty() && kin.by_backend.is_empty());
    }
}
