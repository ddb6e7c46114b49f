//! Story: where the host cannot hold the head until the body is there, the head alone decides, by rules that are few and plain.

use super::*;
use crate::exchange::header;

fn house() -> House {
    let mut house = House::new(2);
    house.settings.by_head = true;
    house
}

fn named(path: &str, model: Option<&str>) -> RequestHead {
    let mut head = post(path);
    head.headers
        .extend(model.map(|model| (header::MODEL.to_owned(), model.as_bytes().to_vec())));
    head
}

/// What comes of a head whose body follows.
fn ask(house: &mut House, exchange: &mut Exchange, head: RequestHead) -> Vec<Effect> {
    house.step(exchange, Input::Request { head, end: false })
}

fn header<'a>(dispatch: &'a Dispatch, name: &str) -> Option<&'a str> {
    let found = dispatch.headers.iter().find(|header| header.name == name);
    found.map(|header| &*header.value)
}

#[test]
fn a_header_names_the_model_and_the_body_goes_on_as_it_comes() {
    let mut house = house();
    let mut exchange = Exchange::new();
    let mut head = named(CHAT, Some("alias"));
    head.headers.push(("content-length".into(), b"4000".to_vec()));
    let dispatch = dispatched(ask(&mut house, &mut exchange, head)).unwrap();
    assert_eq!(header(&dispatch, header::CLUSTER), Some("model-server/a/s/8000"));
    assert_eq!(header(&dispatch, header::PATH), None);
    assert!(dispatch.splices.is_empty() && dispatch.placed.is_empty());
    let record = exchange.record();
    assert_eq!(
        (record.model.as_deref(), record.upstream_model.as_deref()),
        (Some("alias"), None)
    );
    assert_eq!((record.prompt_tokens, record.total_blocks), (1_000, 0));
    assert!(house.step(&mut exchange, Input::RequestBody(b"{ anything")).is_empty());
    assert!(house.step(&mut exchange, Input::RequestEnd).is_empty());
    assert_eq!(house.in_flight(), 1);
    house.step(&mut exchange, Input::Abort);
    assert_eq!(house.in_flight(), 0);
}

#[test]
fn the_path_names_the_model_before_any_header_and_goes_on_without_it() {
    let mut house = house();
    let head = named("/m/alias/v1/completions?stream=1", Some("unknown"));
    let mut exchange = Exchange::new();
    let dispatch = dispatched(ask(&mut house, &mut exchange, head)).unwrap();
    assert_eq!(header(&dispatch, header::PATH), Some("/v1/completions?stream=1"));
    assert_eq!(exchange.record().form, Some(crate::request::ApiForm::Completions));
}

#[test]
fn a_head_that_names_no_model_is_told_what_to_do() {
    let mut house = house();
    for head in [
        named(CHAT, None),
        named(CHAT, Some(" ")),
        named("/m/%20/v1/completions", None),
    ] {
        let effects = ask(&mut house, &mut Exchange::new(), head);
        let (status, body) = replied(&effects).unwrap();
        assert_eq!(status, 400);
        assert!(
            body.contains(header::MODEL) && body.contains("/m/<model>/v1/"),
            "{body}"
        );
    }
    let effects = ask(&mut house, &mut Exchange::new(), named(CHAT, Some("nobody-knows")));
    assert_eq!(replied(&effects).unwrap().0, 404);
}

#[test]
fn what_is_not_ours_passes_and_models_are_listed() {
    let mut house = house();
    for path in ["/", "/m/alias", "/m/alias/v2/x"] {
        let effects = ask(&mut house, &mut Exchange::new(), named(path, Some("alias")));
        assert!(matches!(effects[..], [Effect::Pass]), "{path}: {effects:?}");
    }
    let effects = house.send(&mut Exchange::new(), get("/v1/models"), "");
    assert_eq!(replied(&effects).unwrap().0, 200);
}

#[test]
fn a_body_that_says_to_be_too_large_is_refused_and_one_that_cannot_be_read_is_not() {
    let mut house = house();
    let with = |name: &str, value: &str| {
        let mut head = named(CHAT, Some("alias"));
        head.headers.push((name.into(), value.as_bytes().to_vec()));
        head
    };
    let effects = ask(&mut house, &mut Exchange::new(), with("content-length", "16777217"));
    assert_eq!(replied(&effects).unwrap().0, 413);
    for (name, value) in [
        ("content-encoding", "gzip"),
        ("content-type", "multipart/form-data; boundary=x"),
    ] {
        let effects = ask(&mut house, &mut Exchange::new(), with(name, value));
        assert!(dispatched(effects).is_some(), "{name}");
    }
}

#[test]
fn without_state_the_head_waits() {
    let mut house = house();
    let snapshot = house.snapshot.take();
    let mut exchange = Exchange::new();
    let effects = ask(&mut house, &mut exchange, named(CHAT, Some("alias")));
    assert!(matches!(effects[..], [Effect::Hold, Effect::WakeAt(_)]), "{effects:?}");
    house.snapshot = snapshot;
    assert!(dispatched(house.step(&mut exchange, Input::Wake)).is_some());
}
