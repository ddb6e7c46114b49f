//! Story: a decision may ask first. Replies that are late, doubled or to cancelled calls change nothing.

use super::*;
use crate::exchange::CallId;

fn asking(probes: u32) -> (House, Exchange, Vec<CallId>) {
    let mut house = House::new(2);
    house.settings.probes = probes;
    let mut exchange = Exchange::new();
    let effects = house.send(&mut exchange, post(CHAT), &chat("alias"));
    let calls = effects
        .iter()
        .filter_map(|e| {
            if let Effect::Call { id, .. } = e {
                Some(*id)
            } else {
                None
            }
        })
        .collect();
    (house, exchange, calls)
}

#[test]
fn the_last_reply_lets_the_request_go() {
    let (mut house, mut exchange, calls) = asking(2);
    let first = Input::Reply {
        id: calls[1],
        answered: true,
    };
    assert!(dispatched(house.step(&mut exchange, first)).is_none());
    let doubled = Input::Reply {
        id: calls[1],
        answered: true,
    };
    assert!(dispatched(house.step(&mut exchange, doubled)).is_none());
    let last = Input::Reply {
        id: calls[0],
        answered: false,
    };
    assert!(dispatched(house.step(&mut exchange, last)).is_some());
    let late = Input::Reply {
        id: calls[0],
        answered: true,
    };
    assert!(house.step(&mut exchange, late).is_empty());
}

#[test]
fn a_call_that_is_not_answered_is_cancelled_at_its_deadline() {
    let (mut house, mut exchange, calls) = asking(2);
    house.now = house.now.after(100);
    let effects = house.step(&mut exchange, Input::Wake);
    assert!(
        matches!(effects[0], Effect::Cancel(id) if id == calls[0]),
        "{effects:?}"
    );
    assert!(matches!(effects[1], Effect::WakeAt(_)));
    house.now = house.now.after(100);
    let effects = house.step(&mut exchange, Input::Wake);
    assert!(matches!(effects[0], Effect::Cancel(id) if id == calls[1]));
    assert!(dispatched(effects).is_some());
}

#[test]
fn a_client_that_leaves_cancels_what_was_asked() {
    let (mut house, mut exchange, calls) = asking(2);
    let effects = house.step(&mut exchange, Input::Abort);
    let cancelled: Vec<_> = effects
        .iter()
        .filter_map(|e| if let Effect::Cancel(id) = e { Some(*id) } else { None })
        .collect();
    assert_eq!(cancelled, calls);
    assert!(matches!(effects.last(), Some(Effect::Settle)));
    assert!(
        house
            .step(
                &mut exchange,
                Input::Reply {
                    id: calls[0],
                    answered: true
                }
            )
            .is_empty()
    );
}
