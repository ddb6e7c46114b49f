//! Property: whatever the order, number and cut of inputs, the exchange ends, answers once and settles once.

use proptest::prelude::*;

use super::*;
use crate::exchange::{CallId, ResponseHead};

#[derive(Clone, Debug)]
enum Move {
    Request { path: usize, end: bool },
    Body(usize, usize),
    RequestEnd,
    Response { sse: bool, served: usize },
    Answer(usize, usize),
    ResponseEnd,
    Reply(u32),
    Wake,
    Later(u64),
    Abort,
    StateComes,
    StateGoes,
}

const PATHS: [(&str, &str); 6] = [
    ("POST", CHAT),
    ("POST", "/v1/messages"),
    ("POST", "/v1/rerank"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/alias"),
    ("GET", "/"),
];

const ANSWER: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => (0..PATHS.len(), any::<bool>()).prop_map(|(path, end)| Move::Request { path, end }),
        4 => (0usize..80, 0usize..80).prop_map(|(a, b)| Move::Body(a, b)),
        2 => Just(Move::RequestEnd),
        2 => (any::<bool>(), 0usize..4).prop_map(|(sse, served)| Move::Response { sse, served }),
        3 => (0usize..90, 0usize..90).prop_map(|(a, b)| Move::Answer(a, b)),
        1 => Just(Move::ResponseEnd),
        2 => (0u32..4).prop_map(Move::Reply),
        2 => Just(Move::Wake),
        1 => (0u64..6_000).prop_map(Move::Later),
        1 => Just(Move::Abort),
        1 => Just(Move::StateComes),
        1 => Just(Move::StateGoes),
    ];
    proptest::collection::vec(one, 0..24)
}

fn slice(text: &str, a: usize, b: usize) -> &[u8] {
    let (from, to) = (a.min(b).min(text.len()), a.max(b).min(text.len()));
    &text.as_bytes()[from..to]
}

#[derive(Default)]
struct Seen {
    ways: usize,
    settled: usize,
}

fn check(seen: &mut Seen, effects: &[Effect]) -> Result<(), TestCaseError> {
    prop_assert!(
        seen.settled == 0 || effects.is_empty(),
        "after the end came {effects:?}"
    );
    for effect in effects {
        match effect {
            Effect::Dispatch(_) | Effect::Pass | Effect::Respond(_) => seen.ways += 1,
            Effect::Settle => seen.settled += 1,
            _ => {}
        }
    }
    prop_assert!(seen.ways <= 1, "a request goes one way");
    Ok(())
}

proptest! {
    #[test]
    fn any_order_of_inputs_ends_once(moves in moves(), probes in 0u32..3, injection in any::<bool>()) {
        let mut house = House::new(3);
        house.settings.probes = probes;
        house.settings.usage_injection = injection;
        let snapshot = house.snapshot.clone();
        let (mut exchange, mut seen) = (Exchange::new(), Seen::default());
        let body = chat("alias");
        for one in moves {
            let input = match one {
                Move::Request { path, end } => {
                    let (method, path) = PATHS[path];
                    Input::Request { head: RequestHead { method: method.into(), ..post(path) }, end }
                }
                Move::Body(a, b) => Input::RequestBody(slice(&body, a, b)),
                Move::RequestEnd => Input::RequestEnd,
                Move::Response { sse, served } => Input::Response(ResponseHead {
                    status: 200,
                    content_type: if sse { "text/event-stream" } else { "application/json" },
                    served: [None, Some("127.0.0.2:8000"), Some("127.0.0.3:8000"), Some("nowhere")][served],
                }),
                Move::Answer(a, b) => Input::ResponseBody(slice(ANSWER, a, b)),
                Move::ResponseEnd => Input::ResponseEnd,
                Move::Reply(id) => Input::Reply { id: CallId(id), answered: true },
                Move::Wake => Input::Wake,
                Move::Later(millis) => {
                    house.now = house.now.after(millis);
                    Input::Wake
                }
                Move::Abort => Input::Abort,
                Move::StateComes => { house.snapshot.clone_from(&snapshot); continue }
                Move::StateGoes => { house.snapshot = None; continue }
            };
            let effects = house.step(&mut exchange, input);
            check(&mut seen, &effects)?;
            prop_assert!(house.in_flight() <= 1);
        }
        let effects = house.step(&mut exchange, Input::Abort);
        check(&mut seen, &effects)?;
        prop_assert_eq!(seen.settled, 1, "settled once");
        prop_assert_eq!(house.in_flight(), 0);
    }

    #[test]
    fn a_body_cut_anywhere_is_the_same_request(cuts in proptest::collection::vec(0usize..200, 0..8)) {
        let body = chat("alias").replace("story", "stóry \\u00e9 \\\"so\\\"");
        let whole = dispatched(House::new(3).send(&mut Exchange::new(), post(CHAT), &body)).unwrap();
        let mut house = House::new(3);
        let mut exchange = Exchange::new();
        house.step(&mut exchange, Input::Request { head: post(CHAT), end: false });
        let mut at: Vec<_> = cuts.into_iter().map(|cut| cut.min(body.len())).chain([0, body.len()]).collect();
        at.sort_unstable();
        for pair in at.windows(2) {
            let effects = house.step(&mut exchange, Input::RequestBody(&body.as_bytes()[pair[0]..pair[1]]));
            prop_assert!(effects.is_empty());
        }
        let cut = dispatched(house.step(&mut exchange, Input::RequestEnd)).unwrap();
        prop_assert_eq!(cut.headers, whole.headers);
        prop_assert_eq!(cut.splices, whole.splices);
        prop_assert_eq!(cut.placed, whole.placed);
    }
}

#[test]
fn every_byte_of_a_body_may_come_alone() {
    let mut house = House::new(1);
    let mut exchange = Exchange::new();
    house.step(
        &mut exchange,
        Input::Request {
            head: post(CHAT),
            end: false,
        },
    );
    for byte in chat("alias").as_bytes() {
        assert!(
            house
                .step(&mut exchange, Input::RequestBody(std::slice::from_ref(byte)))
                .is_empty()
        );
    }
    assert!(dispatched(house.step(&mut exchange, Input::RequestEnd)).is_some());
}
