//! Story: a request finds its endpoint, under the name that the engine knows.

use super::*;
use crate::exchange::{ResponseHead, header};
use crate::request::splice;

fn header_of<'a>(dispatch: &'a Dispatch, name: &str) -> Option<&'a str> {
    dispatch
        .headers
        .iter()
        .find(|h| h.name == name)
        .map(|h| h.value.as_str())
}

#[test]
fn an_alias_is_rewritten_and_the_list_names_the_endpoints() {
    let mut house = House::new(3);
    let mut exchange = Exchange::new();
    let body = chat("alias");
    let effects = house.send(&mut exchange, post(CHAT), &body);
    assert!(matches!(effects[0], Effect::Hold));
    let dispatch = dispatched(effects).unwrap();
    assert_eq!(header_of(&dispatch, header::CLUSTER), Some("model-server/a/s/8000"));
    assert_eq!(header_of(&dispatch, header::MAX_RETRIES), Some("2"));
    assert_eq!(header_of(&dispatch, header::TRY_TIMEOUT), Some("1500"));
    let list = header_of(&dispatch, header::DESTINATION).unwrap();
    assert_eq!(list.split(',').count(), 3);
    let mut rewritten = body.clone().into_bytes();
    splice::apply(&mut rewritten, &dispatch.splices);
    assert_eq!(String::from_utf8(rewritten).unwrap(), body.replace("alias", "real"));
    assert_eq!(house.in_flight(), 1);
    assert!(matches!(house.step(&mut exchange, Input::Abort)[..], [Effect::Settle]));
    assert_eq!(house.in_flight(), 0);
}

#[test]
fn an_adapter_keeps_its_name() {
    let mut house = House::new(1);
    let mut exchange = Exchange::new();
    let dispatch = dispatched(house.send(&mut exchange, post(CHAT), &chat("lora"))).unwrap();
    assert!(dispatch.splices.is_empty());
}

#[test]
fn the_same_request_id_falls_the_same_way() {
    let list = |id: &str| {
        let mut house = House::new(3);
        let head = RequestHead {
            headers: vec![("x-request-id".into(), id.as_bytes().to_vec())],
            ..post(CHAT)
        };
        let dispatch = dispatched(house.send(&mut Exchange::new(), head, &chat("alias"))).unwrap();
        header_of(&dispatch, header::DESTINATION).unwrap().to_owned()
    };
    assert_eq!(list("a"), list("a"));
}

#[test]
fn a_request_without_an_id_gets_one_and_so_does_its_answer() {
    let mut house = House::new(1);
    let mut exchange = Exchange::new();
    let dispatch = dispatched(house.send(&mut exchange, post(CHAT), &chat("alias"))).unwrap();
    let id = header_of(&dispatch, header::REQUEST_ID).unwrap();
    let head = ResponseHead {
        status: 200,
        content_type: "application/json",
        served: None,
    };
    let effects = house.step(&mut exchange, Input::Response(head));
    assert!(
        matches!(&effects[0], Effect::ResponseHeaders(set) if set[0].value == id),
        "{effects:?}"
    );
}

#[test]
fn paths_and_hosts_that_are_not_ours_pass() {
    let mut house = House::new(1);
    assert!(matches!(
        house.send(&mut Exchange::new(), get("/metrics"), "")[..],
        [Effect::Pass]
    ));
    house.settings.hosts = vec!["other.example".into()];
    assert!(matches!(
        house.send(&mut Exchange::new(), post(CHAT), "")[..],
        [Effect::Pass]
    ));
}

#[test]
fn models_are_listed_and_found() {
    let mut house = House::new(1);
    let effects = house.send(&mut Exchange::new(), get("/v1/models"), "");
    let (status, body) = replied(&effects).unwrap();
    let list: serde_json::Value = serde_json::from_str(&body).unwrap();
    let ids: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["id"].as_str().unwrap())
        .collect();
    assert_eq!(
        (status, ids),
        (200, vec!["alias", "external", "lora", "missing", "nobody", "picky"])
    );
    let found = replied(&house.send(&mut Exchange::new(), get("/v1/models/lora"), "")).unwrap();
    assert_eq!(found.0, 200);
    assert_eq!(
        replied(&house.send(&mut Exchange::new(), get("/v1/models/x"), ""))
            .unwrap()
            .0,
        404
    );
}

#[test]
fn an_answer_from_another_endpoint_corrects_where_the_prompt_lives() {
    let mut house = House::new(2);
    let mut exchange = Exchange::new();
    let body = chat("alias").replace("story", &"long ".repeat(200));
    dispatched(house.send(&mut exchange, post(CHAT), &body)).unwrap();
    let picked = exchange.record().selected.clone().unwrap();
    let server = exchange.record().server.clone().unwrap();
    let other = server.endpoints.iter().find(|e| e.id != picked.id).unwrap();
    let head = ResponseHead {
        status: 200,
        content_type: "application/json",
        served: Some(&other.address),
    };
    let effects = house.step(&mut exchange, Input::Response(head));
    let relocated = effects
        .iter()
        .find_map(|e| if let Effect::Relocated(r) = e { Some(r) } else { None })
        .unwrap();
    assert_eq!((relocated.from, relocated.to), (picked.id, other.id));
    let mut next = Exchange::new();
    dispatched(house.send(&mut next, post(CHAT), &body)).unwrap();
    assert_eq!(next.record().selected.as_ref().unwrap().id, other.id);
    assert!(next.record().matched_blocks > 0);
}

#[test]
fn an_explanation_is_made_only_where_it_is_allowed_and_asked_for() {
    let mut house = House::new(2);
    let head = || RequestHead {
        headers: vec![("x-kthena-explain".into(), b"1".to_vec())],
        ..post(CHAT)
    };
    let without = dispatched(house.send(&mut Exchange::new(), head(), &chat("alias"))).unwrap();
    assert!(without.explanation.is_none());
    house.settings.explain = true;
    let with = dispatched(house.send(&mut Exchange::new(), head(), &chat("alias"))).unwrap();
    assert!(with.explanation.unwrap().to_header().len() <= 4096);
    assert!(
        dispatched(house.send(&mut Exchange::new(), post(CHAT), &chat("alias")))
            .unwrap()
            .explanation
            .is_none()
    );
}
