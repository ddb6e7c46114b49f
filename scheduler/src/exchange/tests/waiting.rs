//! Story: a filter with no state yet holds requests up to a bound, then says so.

use super::*;
use crate::exchange::WhenNoState;

#[test]
fn state_that_comes_in_time_decides_the_held_request() {
    let mut house = House::new(2);
    let snapshot = house.snapshot.take();
    let mut exchange = Exchange::new();
    let effects = house.send(&mut exchange, post(CHAT), &chat("alias"));
    let until = house.now.after(house.settings.state_wait_ms);
    assert!(
        matches!(effects[..], [Effect::Hold, Effect::Hold, Effect::WakeAt(at)] if at == until),
        "{effects:?}"
    );
    assert!(matches!(house.step(&mut exchange, Input::Wake)[..], [Effect::WakeAt(at)] if at == until));
    house.snapshot = snapshot;
    assert!(dispatched(house.step(&mut exchange, Input::Wake)).is_some());
}

#[test]
fn state_that_does_not_come_is_a_503_that_says_when_to_retry() {
    let mut house = House::new(2);
    house.snapshot = None;
    let mut exchange = Exchange::new();
    house.send(&mut exchange, get("/v1/models"), "");
    house.now = house.now.after(house.settings.state_wait_ms);
    let effects = house.step(&mut exchange, Input::Wake);
    assert_eq!(replied(&effects).unwrap().0, 503);
    assert!(matches!(&effects[0], Effect::Respond(reply) if reply.headers[0].name == "retry-after"));
}

#[test]
fn a_client_that_leaves_while_it_waits_is_let_go() {
    let mut house = House::new(2);
    let snapshot = house.snapshot.take();
    let mut exchange = Exchange::new();
    house.send(&mut exchange, post(CHAT), &chat("alias"));
    assert!(matches!(house.step(&mut exchange, Input::Abort)[..], [Effect::Settle]));
    house.snapshot = snapshot;
    assert!(house.step(&mut exchange, Input::Wake).is_empty());
    assert_eq!(house.in_flight(), 0);
}

#[test]
fn an_operator_may_let_requests_go_on_undecided_when_there_is_no_state() {
    let mut house = House::new(2);
    house.snapshot = None;
    house.settings.when_no_state = WhenNoState::Pass;
    let mut exchange = Exchange::new();
    house.send(&mut exchange, post(CHAT), &chat("alias"));
    house.now = house.now.after(house.settings.state_wait_ms);
    assert!(matches!(house.step(&mut exchange, Input::Wake)[..], [Effect::Pass]));
    assert_eq!(
        exchange.record().error_type,
        Some("scheduling"),
        "it is not passed over in silence"
    );
    house.settings.state_wait_ms = 0;
    let effects = house.send(&mut Exchange::new(), post(CHAT), &chat("alias"));
    assert!(matches!(effects[..], [Effect::Hold, Effect::Pass]), "{effects:?}");
    // What is known to be wrong is still the client's to mend.
    let effects = house.send(&mut Exchange::new(), post(CHAT), "{");
    assert_eq!(replied(&effects).unwrap().0, 400);
}
