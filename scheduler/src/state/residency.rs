//! Placements of other replicas, learnt by our own prefix index.
//!
//! What must always hold: a placement is about an endpoint by its identity on the wire, so that an engine that restarted
//! inherits nothing. It fails by leaving out what names an endpoint that we do not know: a replica that decides on
//! endpoints which have not reached us yet teaches us with its next request.

use super::{Store, proto};
use crate::prefix::{Key, PrefixIndex};
use crate::snapshot::EndpointId;

/// What became of a message of placements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learnt {
    /// Placements taken over.
    pub learnt: u64,
    /// Placements left out: their endpoint is not known here, or its profile does not look at prompts.
    pub unknown: u64,
}

/// Takes placements over into the index.
pub fn learn(placements: &proto::Placements, store: &Store, index: &PrefixIndex) -> Learnt {
    let mut outcome = Learnt::default();
    let mut keys = Vec::new();
    // What we learn from others is no news to them.
    let mut news = Vec::new();
    for placement in &placements.placements {
        let Some(holder) = store.holder(EndpointId(placement.endpoint)) else {
            outcome.unknown += 1;
            continue;
        };
        outcome.learnt += 1;
        if placement.gone {
            index.remove(holder.slot, placement.keys.iter().copied());
            continue;
        }
        keys.clear();
        let spans = placement.blocks.iter().copied().chain(std::iter::repeat(1));
        keys.extend(
            placement
                .keys
                .iter()
                .zip(spans)
                .map(|(hash, span)| Key { hash: *hash, span }),
        );
        index.insert(holder, &keys, &mut news);
        news.clear();
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::super::testing::{endpoints, server, update};
    use super::*;
    use crate::load::Fleet;
    use crate::prefix::{IndexConfig, Overlap};
    use crate::state::Limits;
    use crate::time::Time;

    fn held(store: &Store, index: &PrefixIndex, keys: &[Key]) -> u32 {
        let slot = store.holder(EndpointId(1)).unwrap().slot;
        let mut overlap = Overlap::default();
        overlap.begin();
        overlap.admit(slot);
        index.look_up(keys, 1, &mut overlap);
        overlap.blocks(slot)
    }

    #[test]
    fn what_another_replica_placed_is_found_here_until_it_is_gone() {
        let mut store = Store::new(Fleet::new(4), "me".into(), Limits::default());
        let all = update(vec![server("a/s"), endpoints("a/s", &[1])], true);
        store.apply(&all, &[], Time::default());
        let index = PrefixIndex::new(IndexConfig {
            max_bytes: 1 << 20,
            max_endpoints: 4,
        });
        let keys = [Key { hash: 11, span: 1 }, Key { hash: 12, span: 3 }];
        let placement = proto::Placement {
            endpoint: 1,
            keys: vec![11, 12],
            gone: false,
            blocks: vec![1, 3],
        };
        let mut message = proto::Placements {
            placements: vec![
                placement.clone(),
                proto::Placement {
                    endpoint: 9,
                    ..placement.clone()
                },
            ],
        };
        let outcome = learn(&message, &store, &index);
        assert_eq!((outcome.learnt, outcome.unknown), (1, 1));
        assert_eq!(held(&store, &index, &keys), 4);
        message.placements = vec![proto::Placement {
            gone: true,
            ..placement
        }];
        learn(&message, &store, &index);
        assert_eq!(held(&store, &index, &keys), 0);
    }
}
