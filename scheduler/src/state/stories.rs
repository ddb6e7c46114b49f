//! Stories of the store: what a filter knows after what a controller sent.

use std::sync::Arc;

use prost::Message;

use super::proto::{self, ResourceType};
use super::testing::{self, endpoints, load, removed, resource, route, server};
use super::{Limits, Store};
use crate::load::Fleet;
use crate::routing::Attributes;
use crate::snapshot::{EndpointId, Snapshot};
use crate::time::Time;

const NOW: Time = Time::from_millis(10_000);

fn store() -> Store {
    Store::new(Fleet::new(16), "me".into(), Limits::default())
}

fn serves(snapshot: &Snapshot, model: &str) -> bool {
    let header = |_: &str| None;
    let asked = Attributes {
        model,
        path: "/v1/completions",
        header: &header,
    };
    snapshot.routes.find(&asked, 0).is_some()
}

#[test]
fn decisions_begin_when_the_first_complete_state_has_come() {
    let mut store = store();
    let first = store.apply(
        &testing::update(vec![route("a/r", "m", 1), server("a/s")], false),
        &[],
        NOW,
    );
    assert!(first.snapshot.is_none() && first.ack.refused.is_empty());
    let second = store.apply(&testing::update(vec![endpoints("a/s", &[1, 2])], true), &[], NOW);
    let snapshot = second.snapshot.unwrap();
    assert!(serves(&snapshot, "m") && !serves(&snapshot, "other"));
    assert_eq!(snapshot.server("a/s").unwrap().endpoints.len(), 2);
    assert_eq!(store.have().len(), 3);
}

#[test]
fn an_empty_state_is_a_state() {
    assert!(
        store()
            .apply(&testing::update(vec![], true), &[], NOW)
            .snapshot
            .is_some()
    );
}

#[test]
fn a_bad_resource_keeps_its_last_good_version_and_the_rest_goes_on() {
    let mut store = store();
    store.apply(&testing::update(vec![route("a/r", "old", 1)], true), &[], NOW);
    let bad = testing::broken_route("a/r");
    let refused_version = bad.version;
    let applied = store.apply(&testing::update(vec![bad, route("a/q", "new", 1)], false), &[], NOW);
    let snapshot = applied.snapshot.unwrap();
    assert!(serves(&snapshot, "old") && serves(&snapshot, "new"));
    let refusal = &applied.ack.refused[0];
    assert_eq!((&*refusal.name, refusal.version), ("a/r", refused_version));
    assert!(refusal.reason.contains("weights"), "{}", refusal.reason);
    assert_eq!(store.counters().refused, 1);
    assert!(store.have().iter().all(|held| held.version != refused_version));
}

#[test]
fn a_profile_with_an_unknown_plugin_is_refused_and_its_server_has_the_default_one() {
    let mut store = store();
    let profile = proto::Profile {
        name: "a/s".into(),
        scores: vec![proto::Plugin {
            name: "from-the-future".into(),
            weight: 1,
            args: String::new(),
        }],
        ..Default::default()
    };
    let profile = resource(ResourceType::Profile, "a/s", profile.encode_to_vec());
    let applied = store.apply(&testing::update(vec![server("a/s"), profile], true), &[], NOW);
    assert!(applied.ack.refused[0].reason.contains("from-the-future"));
    assert_eq!(
        &*applied.snapshot.unwrap().server("a/s").unwrap().profile.name,
        "default"
    );
}

#[test]
fn endpoints_without_room_are_told_and_placed_when_there_is_room() {
    let mut store = Store::new(Fleet::new(2), "me".into(), Limits::default());
    let all = testing::update(vec![server("a/s"), endpoints("a/s", &[1, 2, 3])], true);
    let applied = store.apply(&all, &[], NOW);
    assert!(applied.ack.refused[0].reason.contains("1 of its 3"));
    assert_eq!(store.counters().unplaced_endpoints, 1);
    // The cells of the endpoints that went are free once nobody holds the old snapshot.
    let next = testing::update(vec![endpoints("a/s", &[3, 4])], false);
    assert_eq!(store.apply(&next, &[], NOW).ack.refused.len(), 1);
    drop(applied);
    let applied = store.apply(&testing::update(vec![], false), &[], NOW);
    assert_eq!(applied.snapshot.unwrap().server("a/s").unwrap().endpoints.len(), 2);
    assert_eq!(store.counters().unplaced_endpoints, 0);
}

#[test]
fn others_are_the_sum_less_our_part_in_it() {
    let mut store = store();
    store.apply(
        &testing::update(vec![server("a/s"), endpoints("a/s", &[1])], true),
        &[],
        NOW,
    );
    let slot = Arc::clone(&store.endpoint(EndpointId(1)).unwrap().slot);
    slot.begin(None, 10);
    slot.begin(None, 10);
    assert_eq!(store.report().unwrap().sequence, 1);
    slot.begin(None, 10);
    let update = testing::update(vec![load("a/s", &[(1, 5, 100)])], false);
    store.apply(&update, &testing::echo("me", 1), NOW);
    // 5 in all, 2 of them ours as of the report merged: 3 of others, and 3 of ours now.
    let view = slot.view(NOW);
    assert_eq!((view.in_flight, view.in_flight_tokens), (6, 80 + 30));
    assert_eq!(view.sample_age, Some(testing::SAMPLE_AGE_MS));
    // A sum that does not know of us yet is all others'.
    store.apply(&update, &[], NOW);
    assert_eq!(slot.view(NOW).in_flight, 5 + 3);
    // A sum smaller than our part never makes others negative.
    let less = testing::update(vec![load("a/s", &[(1, 1, 0)])], false);
    store.apply(&less, &testing::echo("me", 1), NOW);
    assert_eq!(slot.view(NOW).in_flight, 3);
}

#[test]
fn a_load_that_comes_before_its_endpoints_is_not_lost() {
    let mut store = store();
    store.apply(&testing::update(vec![load("a/s", &[(1, 4, 0)])], false), &[], NOW);
    store.apply(&testing::update(vec![endpoints("a/s", &[1])], true), &[], NOW);
    let view = store.endpoint(EndpointId(1)).unwrap().slot.view(NOW.after(50));
    assert_eq!(
        (view.in_flight, view.sample_age),
        (4, Some(testing::SAMPLE_AGE_MS + 50))
    );
}

#[test]
fn counts_of_others_fade_while_no_controller_is_heard() {
    let mut store = store();
    let update = testing::update(vec![endpoints("a/s", &[1]), load("a/s", &[(1, 8, 80)])], true);
    store.apply(&update, &[], NOW);
    let slot = Arc::clone(&store.endpoint(EndpointId(1)).unwrap().slot);
    slot.begin(None, 1);
    store.disconnected(NOW);
    store.fade(NOW.after(2_500));
    assert_eq!(slot.view(NOW).in_flight, 4 + 1);
    store.fade(NOW.after(6_000));
    assert_eq!(slot.view(NOW).in_flight, 1, "our own are counted exactly");
}

#[test]
fn what_is_saved_brings_another_store_to_the_same_configuration() {
    let limits = Limits {
        keep_bodies: true,
        ..Limits::default()
    };
    let mut first = Store::new(Fleet::new(4), "me".into(), limits.clone());
    assert!(
        first.saved().is_none(),
        "nothing to save before the first complete state"
    );
    let all = vec![route("a/r", "m", 1), server("a/s"), endpoints("a/s", &[1])];
    first.apply(&testing::update(all, true), &[], NOW);
    let mut second = Store::new(Fleet::new(4), "me too".into(), limits);
    let applied = second.apply(&first.saved().unwrap(), &[], NOW);
    assert!(serves(&applied.snapshot.unwrap(), "m"));
    assert_eq!(second.have(), first.have());
}

#[test]
fn what_is_removed_is_gone() {
    let mut store = store();
    let all = vec![route("a/r", "m", 1), server("a/s"), endpoints("a/s", &[1])];
    store.apply(&testing::update(all, true), &[], NOW);
    let update = proto::Update {
        removed: vec![
            removed(ResourceType::Route, "a/r"),
            removed(ResourceType::Endpoints, "a/s"),
            removed(ResourceType::Server, "never/was"),
        ],
        ..Default::default()
    };
    let applied = store.apply(&update, &[], NOW);
    let snapshot = applied.snapshot.unwrap();
    assert!(!serves(&snapshot, "m") && snapshot.server("a/s").unwrap().endpoints.is_empty());
    assert!(store.endpoint(EndpointId(1)).is_none());
}

#[test]
fn what_there_is_no_room_for_is_refused_by_name_and_fits_when_something_else_has_gone() {
    let sizes: Vec<usize> = [route("a/r", "m", 1), route("a/q", "n", 1)]
        .iter()
        .map(|r| r.body.len())
        .collect();
    let limits = Limits {
        max_bytes: sizes[0] + sizes[1] - 1,
        ..Limits::default()
    };
    let mut store = Store::new(Fleet::new(16), "me".into(), limits);
    let both = || testing::update(vec![route("a/r", "m", 1), route("a/q", "n", 1)], true);
    let applied = store.apply(&both(), &[], NOW);
    assert_eq!(applied.ack.refused[0].name, "a/q");
    assert!(
        applied.ack.refused[0].reason.contains("no room"),
        "{:?}",
        applied.ack.refused
    );
    // The same again changes nothing: what is replaced does not count twice.
    assert_eq!(store.apply(&both(), &[], NOW).ack.refused.len(), 1);
    let mut instead = testing::update(vec![route("a/q", "n", 1)], true);
    instead.removed.push(removed(ResourceType::Route, "a/r"));
    let applied = store.apply(&instead, &[], NOW);
    assert!(applied.ack.refused.is_empty() && serves(&applied.snapshot.unwrap(), "n"));
}
