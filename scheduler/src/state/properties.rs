//! Properties of the store: whatever comes, in whatever pieces, it neither panics nor forgets what was good.

use std::sync::Arc;

use proptest::prelude::*;
use prost::bytes::Bytes;

use super::proto::{self, ResourceType};
use super::testing::{endpoints, load, resource, route, server, update};
use super::{Limits, Store};
use crate::load::Fleet;
use crate::time::Time;

const NOW: Time = Time::from_millis(1_000);

fn store() -> Store {
    Store::new(Fleet::new(8), "me".into(), Limits::default())
}

fn good() -> Vec<proto::Resource> {
    vec![
        route("a/r", "m", 1),
        route("a/q", "n", 2),
        server("a/s"),
        endpoints("a/s", &[1, 2, 3]),
        load("a/s", &[(1, 2, 3)]),
    ]
}

/// A resource in pieces of `size` bytes.
fn cut(whole: &proto::Resource, size: usize) -> Vec<proto::Resource> {
    let pieces: Vec<&[u8]> = whole.body.chunks(size).collect();
    let parts = pieces.len() as u32;
    pieces
        .into_iter()
        .enumerate()
        .map(|(part, body)| proto::Resource {
            body: Bytes::copy_from_slice(body),
            part: part as u32,
            parts,
            ..whole.clone()
        })
        .collect()
}

fn garbage() -> impl Strategy<Value = proto::Resource> {
    let body = prop::collection::vec(any::<u8>(), 0..64);
    (-1..8i32, "[a-b]/[q-s]|", body, any::<bool>(), 0..5u32, 0..5u32).prop_map(
        |(r#type, name, body, honest, part, parts)| {
            let mut made = resource(ResourceType::Route, &name, body);
            made.r#type = r#type;
            made.version ^= u64::from(!honest);
            proto::Resource { part, parts, ..made }
        },
    )
}

proptest! {
    #[test]
    fn any_cut_and_any_grouping_gives_the_same_state(
        sizes in prop::collection::vec(1..40usize, 5),
        groups in prop::collection::vec(1..4usize, 1..8),
        doubled in any::<prop::sample::Index>(),
    ) {
        let mut expected = store();
        let snapshot = expected.apply(&update(good(), true), &[], NOW).snapshot.unwrap();

        let mut pieces: Vec<_> = good().iter().zip(sizes).flat_map(|(whole, size)| cut(whole, size)).collect();
        let again = pieces[doubled.index(pieces.len())].clone();
        pieces.insert(0, again);
        let mut cut_up = store();
        let mut groups = groups.into_iter().cycle();
        while !pieces.is_empty() {
            let size = groups.next().unwrap().min(pieces.len());
            let applied = cut_up.apply(&update(pieces.drain(..size).collect(), false), &[], NOW);
            prop_assert!(applied.ack.refused.is_empty(), "{:?}", applied.ack.refused);
        }
        let other = cut_up.apply(&update(vec![], true), &[], NOW).snapshot.unwrap();
        prop_assert_eq!(cut_up.have(), expected.have());
        let addresses = |of: &Arc<crate::snapshot::Snapshot>| -> Vec<_> {
            of.servers.iter().flat_map(|s| s.endpoints.iter().map(|e| e.address.clone())).collect()
        };
        prop_assert_eq!(addresses(&other), addresses(&snapshot));
        prop_assert_eq!(other.routes.names(), snapshot.routes.names());
    }

    #[test]
    fn garbage_is_refused_and_what_was_good_stays(updates in prop::collection::vec(prop::collection::vec(garbage(), 0..6), 0..12)) {
        let mut store = store();
        store.apply(&update(good(), true), &[], NOW);
        for resources in updates {
            let sent: Vec<_> = resources.iter().map(|r| (r.r#type, r.name.clone(), r.version)).collect();
            let applied = store.apply(&update(resources, false), &[], NOW);
            for refused in &applied.ack.refused {
                prop_assert!(sent.contains(&(refused.r#type, refused.name.clone(), refused.version)));
                prop_assert!(!refused.reason.is_empty());
            }
        }
        // Garbage may happen to decode as an empty set of endpoints; routes need targets, so they stay.
        let held = store.have();
        for good in good().iter().filter(|r| r.r#type == ResourceType::Route as i32) {
            prop_assert!(held.iter().any(|h| h.name == good.name && h.version == good.version));
        }
    }

    #[test]
    fn others_never_go_below_zero_and_own_never_counts_twice(
        steps in prop::collection::vec((0..3u8, 0..20u32, 0..6u64), 1..40),
    ) {
        let mut store = store();
        store.apply(&update(vec![endpoints("a/s", &[1])], true), &[], NOW);
        let slot = Arc::clone(&store.endpoint(crate::snapshot::EndpointId(1)).unwrap().slot);
        let mut own = 0;
        for (step, merged, sequence) in steps {
            match step {
                0 => { slot.begin(None, 1); own += 1; }
                1 => drop(store.report()),
                _ => {
                    let echoes = super::testing::echo("me", sequence);
                    store.apply(&update(vec![load("a/s", &[(1, merged, 0)])], false), &echoes, NOW);
                }
            }
            let seen = slot.view(NOW).in_flight;
            prop_assert!(seen >= own && seen <= own + 20, "own {own}, seen {seen}");
        }
    }
}
