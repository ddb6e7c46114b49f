//! Requests that are over are counted and told to the controller, once.

use super::*;
use crate::over::tests::map;

/// Plays a request to its end and lets time pass.
fn play(rig: &mut Rig, id: u32, body: &str, status: &str) {
    rig.post(id, CHAT, body);
    rig.host.pass(100);
    if rig.host.request(id).answer.is_none() {
        rig.host.change(id, |request| {
            request.response_headers.insert(":status".into(), status.into());
        });
        rig.root.on_response_headers(id, false);
        rig.host.pass(200);
        let usage = map(&[("input_tokens", 7.0), ("output_tokens", 3.0)]);
        rig.host.change(id, |request| {
            request
                .properties
                .insert("metadata.filter_metadata.kthena.usage".into(), usage);
        });
    }
    rig.root.on_done(id);
}

fn counts(rig: &Rig) -> Vec<proto::Counts> {
    let counts = |message| match message {
        from_filter::Message::Counts(counts) => Some(counts),
        _ => None,
    };
    rig.sent().into_iter().filter_map(counts).collect()
}

fn answer(rig: &mut Rig, message: &proto::Counts) {
    rig.hear(to_filter::Message::Counted(proto::Counted {
        origin: message.origin.clone(),
        sequence: message.sequence,
    }));
}

#[test]
fn what_a_request_was_and_took_is_told() {
    let mut rig = Rig::ready(&json!({"usage": "envoy"}));
    play(&mut rig, 2, &chat("alias"), "200");
    play(&mut rig, 3, &chat("unknown"), "");
    rig.post(4, "/not-ours", "");
    rig.root.on_done(4);
    rig.host.pass(2_000);
    rig.tick();
    let told = counts(&rig);
    assert_eq!((told.len(), told[0].sequence), (1, 1));
    let of = |status| told[0].requests.iter().find(|kind| kind.status == status).unwrap();
    let good = of(200);
    let words = [
        &good.model,
        &good.path,
        &good.model_route,
        &good.model_server,
        &good.upstream_model,
        &good.error_type,
    ];
    assert_eq!(words, ["alias", CHAT, "a/r", "a/s", "engine/model", ""]);
    let sum = |histogram: &Option<proto::Histogram>| histogram.as_ref().unwrap().sum;
    assert_eq!((sum(&good.input_tokens), sum(&good.output_tokens)), (7.0, 3.0));
    assert!((sum(&good.seconds) - 0.3).abs() < 1e-6 && (sum(&good.first_byte) - 0.1).abs() < 1e-6);
    let bad = of(404);
    assert_eq!(
        (bad.model.as_str(), bad.error_type.as_str(), &bad.input_tokens),
        ("unknown", "route_not_found", &None)
    );
    assert_eq!(told[0].requests.len(), 2, "what is not ours is not counted");
}

#[test]
fn a_message_without_an_answer_is_told_again_on_the_next_stream() {
    let mut rig = Rig::ready(&json!({}));
    play(&mut rig, 2, &chat("alias"), "200");
    rig.host.pass(2_000);
    rig.tick();
    let first = counts(&rig).remove(0);
    play(&mut rig, 3, &chat("alias"), "200");
    rig.host.pass(2_000);
    rig.tick();
    assert!(counts(&rig).is_empty(), "one message at a time");
    let stream = rig.host.stream().unwrap();
    rig.host.set_controller(false);
    rig.root.on_closed(stream, 14);
    rig.host.set_controller(true);
    rig.host.pass(2_000);
    rig.tick();
    rig.welcome();
    rig.tick();
    assert_eq!(counts(&rig), std::slice::from_ref(&first));
    answer(&mut rig, &first);
    rig.host.pass(2_000);
    rig.tick();
    let second = counts(&rig).remove(0);
    assert_eq!((second.sequence, second.requests[0].requests), (2, 1));
}

#[test]
fn a_plugin_that_ends_tells_what_it_has_not_told() {
    let mut rig = Rig::ready(&json!({}));
    play(&mut rig, 2, &chat("alias"), "200");
    rig.root.on_end();
    assert_eq!(counts(&rig)[0].requests[0].requests, 1);
    assert_eq!(rig.host.stream(), None);
}

#[test]
fn kinds_without_room_are_counted_together_and_the_metric_says_so() {
    let mut rig = Rig::ready(&json!({"max_metric_series": 1}));
    play(&mut rig, 2, &chat("alias"), "200");
    play(&mut rig, 3, &chat("alias"), "503");
    rig.host.pass(2_000);
    rig.tick();
    let told = counts(&rig).remove(0);
    assert_eq!(told.overflowed, 1);
    assert!(
        told.requests
            .iter()
            .any(|kind| kind.model == "other" && kind.status == 500)
    );
    assert_eq!(rig.host.metric("kthena_series_overflowed_total"), 1);
}
