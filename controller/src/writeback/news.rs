//! Of which objects something else may be to be said, at the cost of what has changed.
//!
//! What must always hold: an object whose status, own form, or wanted resources differ between two pictures is named.

use std::collections::BTreeSet;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use kthena_scheduler::state::proto::ResourceType;

use crate::picture::Picture;
use crate::publish::Key;
use crate::source::{Kind, ObjectKey};

/// The objects that differ between two pictures, in whatever is looked at to say something of them.
pub(super) fn between(before: &Picture, after: &Picture) -> BTreeSet<ObjectKey> {
    let mut keys = BTreeSet::new();
    keys.extend(differing(&before.statuses, &after.statuses).cloned());
    keys.extend(differing(&before.routes, &after.routes).cloned());
    keys.extend(differing(&before.servers, &after.servers).cloned());
    keys.extend(differing(&before.providers, &after.providers).cloned());
    keys.extend(differing(&before.resources, &after.resources).filter_map(object_of));
    keys
}

/// The object that a resource was made of, if it has a status.
pub(super) fn object_of(resource: &Key) -> Option<ObjectKey> {
    let kind = match resource.kind {
        ResourceType::Route => Kind::ModelRoute,
        ResourceType::Server | ResourceType::Endpoints | ResourceType::Profile => Kind::ModelServer,
        ResourceType::Load | ResourceType::Unspecified => return None,
    };
    let (namespace, name) = resource.name.split_once('/')?;
    Some(ObjectKey::new(kind, namespace, name))
}

fn differing<'a, K: Ord, V: PartialEq>(
    before: &'a OrdMap<K, V>,
    after: &'a OrdMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    before.diff(after).map(|difference| match difference {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::compile::Resource;
    use crate::status::Status;

    #[test]
    fn what_differs_is_named_and_nothing_else() {
        let server = |name: &str| ObjectKey::new(Kind::ModelServer, "n", name);
        let mut before = Picture::default();
        for name in ["a", "b", "c"] {
            before.statuses.insert(server(name), Arc::new(Status::default()));
        }
        let mut after = before.clone();
        assert!(between(&before, &after).is_empty());
        // Said anew, but the same.
        after.statuses.insert(server("a"), Arc::new(Status::default()));
        after.statuses.remove(&server("b"));
        let endpoints = Key::new(ResourceType::Endpoints, "n/c");
        let resource = Resource::encode(endpoints.clone(), &0u32);
        after.resources.insert(endpoints, resource);
        assert_eq!(between(&before, &after), [server("b"), server("c")].into());
    }

    #[test]
    fn what_is_no_objects_own_is_nobodys() {
        for (kind, name) in [(ResourceType::Profile, "default"), (ResourceType::Load, "n/m")] {
            assert_eq!(object_of(&Key::new(kind, name)), None);
        }
    }
}
