//! The messages that carry many resources.
//!
//! What must always hold: no message is larger than [`MAX_MESSAGE`]; a body is never copied on its way into messages
//! (parts are slices of it); within one update, what others refer to comes first (profile, server, endpoints, load,
//! route), so that a filter that applies message by message never meets a name it does not know.

use kthena_scheduler::state::proto::{Resource as Part, ResourceType, ResourceVersion, Update};

use crate::compile::{Key, Resource};

/// Largest message either way, bytes.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// Bytes of a message that are not resources: nonce, flags, length prefixes.
const FRAME: usize = 512;

/// One update, and the resources that are complete once it is acknowledged.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) update: Update,
    pub(super) completes: Vec<(Key, u64)>,
    /// Whether it carries load, so that the echoes belong to it.
    pub(super) load: bool,
}

/// Fills updates one after another.
#[derive(Debug)]
pub(super) struct Packer {
    room: usize,
    used: usize,
    packed: Vec<Packed>,
}

/// Deals items out over messages that have room for them all, by the length of each.
pub(super) fn split<T>(items: Vec<T>, length: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut messages: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        // With its tag and the length of its length.
        let length = length(&item) + 8;
        if length > room || messages.is_empty() {
            messages.push(Vec::new());
            room = MAX_MESSAGE - 2 * FRAME;
        }
        room = room.saturating_sub(length);
        if let Some(message) = messages.last_mut() {
            message.push(item);
        }
    }
    messages
}

/// A key with a version of its resource.
pub(super) fn versioned(key: &Key, version: u64) -> ResourceVersion {
    ResourceVersion {
        r#type: key.kind.into(),
        name: key.name.to_string(),
        version,
    }
}

/// Place in an update: what is referred to comes before what refers to it.
pub(super) fn rank(key: &Key) -> u8 {
    match key.kind {
        ResourceType::Profile => 0,
        ResourceType::Server => 1,
        ResourceType::Endpoints => 2,
        ResourceType::Load => 3,
        ResourceType::Route | ResourceType::Unspecified => 4,
    }
}

// === impl Packer ===

impl Packer {
    /// A packer of messages that also carry `reserved` bytes of something else.
    pub(super) fn new(reserved: usize) -> Self {
        Self {
            // At least a quarter is left, whatever is reserved: parts must not become crumbs.
            room: (MAX_MESSAGE - FRAME).saturating_sub(reserved).max(MAX_MESSAGE / 4),
            used: 0,
            packed: Vec::new(),
        }
    }

    /// Adds a resource, in parts when it does not fit into one message.
    pub(super) fn add(&mut self, resource: &Resource) {
        let overhead = resource.key.name.len() + 48;
        let part_room = self.room.saturating_sub(overhead).max(1);
        let parts = resource.body.len().div_ceil(part_room).max(1);
        for part in 0..parts {
            let start = part * part_room;
            let end = (start + part_room).min(resource.body.len());
            let packed = self.message(end - start + overhead);
            packed.load |= resource.key.kind == ResourceType::Load;
            packed.update.resources.push(Part {
                r#type: resource.key.kind.into(),
                name: resource.key.name.to_string(),
                version: resource.version,
                body: resource.body.slice(start..end),
                part: part as u32,
                parts: parts as u32,
            });
            if part + 1 == parts {
                packed.completes.push((resource.key.clone(), resource.version));
            }
        }
    }

    /// Adds a removal.
    pub(super) fn remove(&mut self, key: &Key, version: u64) {
        let packed = self.message(key.name.len() + 24);
        packed.update.removed.push(versioned(key, version));
    }

    /// Makes sure that there is at least one update, be it empty.
    pub(super) fn at_least_one(&mut self) {
        if self.packed.is_empty() {
            self.message(0);
        }
    }

    /// The updates, in the order in which they must travel.
    pub(super) fn finish(self) -> Vec<Packed> {
        self.packed
    }

    /// The message that has room for `size` more bytes.
    fn message(&mut self, size: usize) -> &mut Packed {
        if self.packed.is_empty() || self.used + size > self.room {
            self.used = 0;
            self.packed.push(Packed {
                update: Update::default(),
                completes: Vec::new(),
                load: false,
            });
        }
        self.used += size;
        let last = self.packed.len() - 1;
        &mut self.packed[last]
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn resource(name: &str, size: usize) -> Resource {
        Resource {
            key: Key::new(ResourceType::Endpoints, name),
            version: size as u64,
            body: Bytes::from(vec![7; size]),
        }
    }

    proptest! {
        #[test]
        fn parts_fit_and_come_together_again(
            sizes in proptest::collection::vec(0usize..700_000, 1..6),
            reserved in 0usize..300_000,
        ) {
            let resources: Vec<_> = sizes.iter().enumerate().map(|(n, size)| resource(&format!("ns/{n}"), *size)).collect();
            let mut packer = Packer::new(reserved);
            for resource in &resources {
                packer.add(resource);
            }
            packer.remove(&resources[0].key, 1);
            let packed = packer.finish();
            let mut sizes_seen = vec![0; sizes.len()];
            let mut completed = 0;
            for message in &packed {
                prop_assert!(message.update.encoded_len() <= MAX_MESSAGE);
                if reserved < 190_000 {
                    prop_assert!(message.update.encoded_len() + reserved <= MAX_MESSAGE);
                }
                for part in &message.update.resources {
                    let n: usize = part.name[3..].parse().unwrap();
                    sizes_seen[n] += part.body.len();
                }
                completed += message.completes.len();
            }
            prop_assert_eq!(sizes_seen, sizes);
            prop_assert_eq!(completed, resources.len());
        }
    }
}
