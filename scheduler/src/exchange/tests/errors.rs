//! Story: every condition has one answer, and the table in `docs/errors.md` is what clients get.

use std::fmt::Write;
use std::path::Path;

use super::*;
use crate::exchange::{Failure, WhenSaturated};
use crate::load::Sample;
use crate::request::ApiForm;

/// A condition in words, and how a client brings it about.
struct Case {
    condition: &'static str,
    head: RequestHead,
    body: &'static str,
}

fn case(condition: &'static str, body: &'static str) -> Case {
    Case {
        condition,
        head: post(CHAT),
        body,
    }
}

fn with_header(condition: &'static str, name: &str, value: &str) -> Case {
    let head = RequestHead {
        headers: vec![(name.into(), value.as_bytes().to_vec())],
        ..post(CHAT)
    };
    Case {
        condition,
        head,
        body: "{}",
    }
}

fn cases() -> Vec<Case> {
    vec![
        case("the body is not JSON", r#"{"model":"alias","messages":["#),
        case(
            "two JSON values",
            r#"{"model":"alias","messages":[{"role":"user","content":"x"}]}{}"#,
        ),
        case("the body is not an object", "[1]"),
        case("no model", r#"{"messages":[{"role":"user","content":"x"}]}"#),
        case(
            "the model is not a string",
            r#"{"model":7,"messages":[{"role":"user","content":"x"}]}"#,
        ),
        case(
            "the model is blank",
            r#"{"model":" ","messages":[{"role":"user","content":"x"}]}"#,
        ),
        case(
            "the model is given twice",
            r#"{"model":"alias","model":"b","messages":[]}"#,
        ),
        case(
            "a prompt field of the wrong type",
            r#"{"model":"alias","messages":"x"}"#,
        ),
        case("an empty prompt", r#"{"model":"alias","messages":[]}"#),
        with_header("the body is too large", "content-length", "16777217"),
        with_header("a content encoding we cannot read", "content-encoding", "gzip"),
        with_header(
            "a body of parts, as uploads are",
            "content-type",
            "multipart/form-data; boundary=x",
        ),
        case(
            "no ModelRoute for the model",
            r#"{"model":"unknown","messages":[{"role":"user","content":"x"}]}"#,
        ),
        case(
            "no rule of the model's ModelRoutes holds",
            r#"{"model":"picky","messages":[{"role":"user","content":"x"}]}"#,
        ),
        case(
            "the route leads to an external provider",
            r#"{"model":"external","messages":[{"role":"user","content":"x"}]}"#,
        ),
        case(
            "the ModelServer does not exist",
            r#"{"model":"missing","messages":[{"role":"user","content":"x"}]}"#,
        ),
        case(
            "the ModelServer has no endpoint",
            r#"{"model":"nobody","messages":[{"role":"user","content":"x"}]}"#,
        ),
    ]
}

fn answer(house: &mut House, case: &Case, path: &str) -> (u16, serde_json::Value) {
    let head = RequestHead {
        path: path.into(),
        ..case.head.clone()
    };
    let effects = house.send(&mut Exchange::new(), head, case.body);
    let (status, body) = replied(&effects).unwrap_or_else(|| panic!("{}: {effects:?}", case.condition));
    (status, serde_json::from_str(&body).unwrap())
}

fn row(table: &mut String, condition: &str, status: u16, body: &serde_json::Value, anthropic: &serde_json::Value) {
    let error = &body["error"];
    let text = |value: &serde_json::Value| value.as_str().map_or("-".to_owned(), |text| format!("`{text}`"));
    let message = error["message"].as_str().unwrap_or_default().replace('|', "\\|");
    writeln!(
        table,
        "| {condition} | {status} | {} | {} | {} | {} | {message} |",
        text(&error["type"]),
        text(&error["code"]),
        text(&error["param"]),
        text(&anthropic["error"]["type"]),
    )
    .unwrap();
}

fn parts(failure: &Failure) -> (u16, serde_json::Value, serde_json::Value) {
    let json = |form| serde_json::from_slice(&failure.reply(form).body).unwrap();
    (
        failure.row().status,
        json(ApiForm::ChatCompletions),
        json(ApiForm::Messages),
    )
}

fn table() -> String {
    let mut table = String::new();
    for case in cases() {
        let (status, openai) = answer(&mut House::new(1), &case, CHAT);
        let (same, anthropic) = answer(&mut House::new(1), &case, "/v1/messages");
        assert_eq!(status, same, "{}", case.condition);
        row(&mut table, case.condition, status, &openai, &anthropic);
    }
    for (condition, failure) in [
        (
            "every endpoint is saturated, and `--when-saturated reject`",
            Failure::Saturated("a/s".into()),
        ),
        ("no state from the controller within `--state-wait`", Failure::NoState),
        (
            "the wasm filter with `hold: off`, and the head names no model",
            Failure::ModelNotNamed,
        ),
    ] {
        let (status, openai, anthropic) = parts(&failure);
        row(&mut table, condition, status, &openai, &anthropic);
    }
    table
}

#[test]
fn the_documented_table_is_what_clients_get() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (start, end) = ("<!-- table -->\n", "<!-- end -->");
    let (before, rest) = document.split_once(start).unwrap();
    let (documented, after) = rest.split_once(end).unwrap();
    let header = "| condition | status | `type` | `code` | `param` | Anthropic `type` | message |\n|---|---|---|---|---|---|---|\n";
    let actual = format!("{header}{}", table());
    if std::env::var_os("GENERATE").is_some() {
        std::fs::write(&path, format!("{before}{start}{actual}{end}{after}")).unwrap();
        return;
    }
    assert_eq!(documented, actual, "docs/errors.md: run `make generate`");
}

#[test]
fn saturation_is_served_or_rejected_as_the_operator_says() {
    let mut house = House::new(2);
    for endpoint in &house.snapshot.as_ref().unwrap().server("a/s").unwrap().endpoints {
        endpoint.slot.sampled(
            Sample {
                waiting: Some(50),
                running: Some(8),
                kv_usage: None,
            },
            house.now,
        );
    }
    let mut exchange = Exchange::new();
    assert!(dispatched(house.send(&mut exchange, post(CHAT), &chat("alias"))).is_some());
    assert!(exchange.record().saturated);
    house.settings.when_saturated = WhenSaturated::Reject;
    let effects = house.send(&mut Exchange::new(), post(CHAT), &chat("alias"));
    assert_eq!(replied(&effects).unwrap().0, 429);
}

#[test]
fn a_body_that_grows_over_the_bound_is_stopped_as_it_comes() {
    let mut house = House::new(1);
    house.settings.max_body_bytes = 40;
    let effects = house.send(&mut Exchange::new(), post(CHAT), &chat("alias"));
    assert_eq!(replied(&effects).unwrap().0, 413);
    assert_eq!(house.in_flight(), 0);
}

#[test]
fn what_is_wrong_first_is_told_however_a_body_is_cut() {
    let mut house = House::new(1);
    house.settings.max_body_bytes = 40;
    let body = format!("{{] {}", "x".repeat(100));
    for cut in [1, 2, 39, 40, 41, body.len()] {
        let mut exchange = Exchange::new();
        let head = post(CHAT);
        let mut effects = house.step(&mut exchange, Input::Request { head, end: false });
        for piece in [&body[..cut], &body[cut..]] {
            effects.extend(house.step(&mut exchange, Input::RequestBody(piece.as_bytes())));
        }
        assert_eq!(replied(&effects).unwrap().0, 400, "cut at {cut}");
    }
}

#[test]
fn deep_nesting_and_broken_utf8_are_the_clients_to_mend() {
    let mut house = House::new(1);
    let deep = format!(r#"{{"model":"alias","x":{}"#, "[".repeat(5_000));
    assert_eq!(
        replied(&house.send(&mut Exchange::new(), post(CHAT), &deep)).unwrap().0,
        400
    );
    let mut exchange = Exchange::new();
    house.step(
        &mut exchange,
        Input::Request {
            head: post(CHAT),
            end: false,
        },
    );
    let effects = house.step(&mut exchange, Input::RequestBody(b"{\"model\":\"\xff\xfe\"}"));
    assert_eq!(replied(&effects).unwrap().0, 400);
}
