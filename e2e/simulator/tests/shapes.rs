//! The simulator's answers have the shape of those that a real vLLM gave: keys in their order, types, events, series.
//!
//! `record.sh` makes the recordings, by the same requests. A case without a recording is listed as unverified; the list
//! must be true, so that a new recording is compared from the day it is there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod client;

use std::collections::BTreeMap;

use client::{Answer, chat, start};
use serde_json::Value;

/// Requests of `record.sh`: file, method, path, body.
const CASES: &[(&str, &str, &str, &str)] = &[
    ("models.json", "GET", "/v1/models", ""),
    (
        "chat.json",
        "POST",
        "/v1/chat/completions",
        r#"{"model":"tiny","messages":[{"role":"user","content":"hello"}],"max_tokens":8}"#,
    ),
    (
        "chat.sse",
        "POST",
        "/v1/chat/completions",
        r#"{"model":"tiny","messages":[{"role":"user","content":"hello"}],"max_tokens":4,"stream":true,"stream_options":{"include_usage":true}}"#,
    ),
    (
        "notfound.json",
        "POST",
        "/v1/chat/completions",
        r#"{"model":"nope","messages":[{"role":"user","content":"hello"}]}"#,
    ),
    (
        "completions.json",
        "POST",
        "/v1/completions",
        r#"{"model":"tiny","prompt":["a b","c d"],"max_tokens":4}"#,
    ),
    (
        "completions.sse",
        "POST",
        "/v1/completions",
        r#"{"model":"tiny","prompt":"a b","max_tokens":4,"stream":true,"stream_options":{"include_usage":true}}"#,
    ),
    (
        "responses.json",
        "POST",
        "/v1/responses",
        r#"{"model":"tiny","input":"hello","max_output_tokens":16}"#,
    ),
    (
        "responses.sse",
        "POST",
        "/v1/responses",
        r#"{"model":"tiny","input":"hello","max_output_tokens":16,"stream":true}"#,
    ),
    (
        "messages.json",
        "POST",
        "/v1/messages",
        r#"{"model":"tiny","messages":[{"role":"user","content":"hello"}],"max_tokens":4}"#,
    ),
    (
        "messages.sse",
        "POST",
        "/v1/messages",
        r#"{"model":"tiny","messages":[{"role":"user","content":"hello"}],"max_tokens":4,"stream":true}"#,
    ),
    (
        "messages-notfound.json",
        "POST",
        "/v1/messages",
        r#"{"model":"nope","max_tokens":4,"messages":[{"role":"user","content":"hello"}]}"#,
    ),
    (
        "messages-invalid.json",
        "POST",
        "/v1/messages",
        r#"{"model":"tiny","messages":[{"role":"user","content":"hello"}]}"#,
    ),
    (
        "tokenize.json",
        "POST",
        "/tokenize",
        r#"{"model":"tiny","prompt":"hello"}"#,
    ),
    ("version.json", "GET", "/version", ""),
    ("bad-json.json", "POST", "/v1/chat/completions", r#"{"model":"#),
    (
        "bad-type.json",
        "POST",
        "/v1/chat/completions",
        r#"{"model":"tiny","messages":5}"#,
    ),
    (
        "missing-field.json",
        "POST",
        "/v1/chat/completions",
        r#"{"model":"tiny"}"#,
    ),
    (
        "bad-limit.json",
        "POST",
        "/v1/completions",
        r#"{"model":"tiny","prompt":"a","max_tokens":-1}"#,
    ),
    (
        "too-long.json",
        "POST",
        "/v1/completions",
        r#"{"model":"tiny","prompt":"a","max_tokens":5000}"#,
    ),
    (
        "stream-options.json",
        "POST",
        "/v1/chat/completions",
        r#"{"model":"tiny","messages":[{"role":"user","content":"hello"}],"stream_options":{"include_usage":true}}"#,
    ),
    ("no-path.json", "POST", "/v1/nothing", "{}"),
    ("no-method.json", "GET", "/v1/chat/completions", ""),
];

/// Requests of `record.sh --details`, each made twice where caching is what is looked at.
const DETAILS: &[(&str, &str, &str)] = &[
    ("chat-details.json", "/v1/chat/completions", ""),
    (
        "chat-details.sse",
        "/v1/chat/completions",
        r#","stream":true,"stream_options":{"include_usage":true}"#,
    ),
    ("messages-details.json", "/v1/messages", ""),
];

/// Cases that nobody has recorded yet.
const UNVERIFIED: &[&str] = &[
    "completions.json",
    "completions.sse",
    "responses.json",
    "responses.sse",
    "messages.json",
    "messages.sse",
    "messages-notfound.json",
    "messages-invalid.json",
    "tokenize.json",
    "version.json",
    "bad-json.json",
    "bad-type.json",
    "missing-field.json",
    "bad-limit.json",
    "too-long.json",
    "stream-options.json",
    "no-path.json",
    "no-method.json",
    "chat-details.json",
    "chat-details.sse",
    "messages-details.json",
];

/// As the recorded server was started.
const LIKE_THE_RECORDED: &str = "profile=test-nodelay,model=tiny,block_size=128,kv_tokens=1048576,max_model_len=2048,\
                                 prompt_tokens_details=off";

fn recorded(name: &str) -> Option<String> {
    std::fs::read_to_string(format!("{}/recordings/{name}", env!("CARGO_MANIFEST_DIR"))).ok()
}

/// The recording of a case; none if the case is listed as unverified, and only then.
fn recording(name: &str) -> Option<String> {
    let recording = recorded(name);
    let listed = UNVERIFIED.contains(&name);
    assert_ne!(
        recording.is_some(),
        listed,
        "{name}: take it from UNVERIFIED when it is recorded, or record it"
    );
    recording
}

/// What is left of a JSON text without its values: keys in order, types, lists of equal entries as one.
#[derive(Debug, PartialEq)]
enum Shape {
    Null,
    Bool,
    Number,
    Text,
    List(Vec<Shape>),
    Object(BTreeMap<String, Shape>),
}

fn types(value: &Value) -> Shape {
    match value {
        Value::Null => Shape::Null,
        Value::Bool(_) => Shape::Bool,
        Value::Number(_) => Shape::Number,
        Value::String(_) => Shape::Text,
        Value::Array(entries) => {
            let mut shapes: Vec<Shape> = entries.iter().map(types).collect();
            shapes.dedup();
            Shape::List(shapes)
        }
        Value::Object(fields) => Shape::Object(
            fields
                .iter()
                .map(|(name, value)| (name.clone(), types(value)))
                .collect(),
        ),
    }
}

/// All keys of a JSON text, in order: the strings that a colon follows.
fn keys(json: &str) -> Vec<&str> {
    let mut keys = Vec::new();
    let mut rest = json;
    while let Some(begin) = rest.find('"') {
        let text = &rest[begin + 1..];
        let mut escaped = false;
        let is_end = |(_, c): &(usize, char)| {
            let end = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            end
        };
        let end = text.char_indices().find(is_end).map(|(at, _)| at).expect("strings end");
        rest = &text[end + 1..];
        if rest.starts_with(':') {
            keys.push(&text[..end]);
        }
    }
    keys
}

#[track_caller]
fn assert_same_shape(name: &str, ours: &str, recorded: &str) {
    let parse = |text: &str| -> Value { serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")) };
    let (our_value, recorded_value) = (parse(ours), parse(recorded));
    assert_eq!(
        types(&our_value),
        types(&recorded_value),
        "{name}\nours: {ours}\nrecorded: {recorded}"
    );
    assert_eq!(keys(ours), keys(recorded), "{name}: the order of keys");
    for part in ["type", "param", "code"] {
        assert_eq!(
            our_value["error"][part], recorded_value["error"][part],
            "{name}: what programs read of an error"
        );
    }
}

/// Events one by one; of events that look alike and follow each other, one stands for all.
fn different_events(stream: &str) -> Vec<(Option<&str>, &str)> {
    let mut events: Vec<(Option<&str>, &str)> = Vec::new();
    let looks = |data: &str| {
        serde_json::from_str(data)
            .map(|value: Value| (types(&value), keys(data).join(",")))
            .ok()
    };
    for event in stream.split("\n\n").filter(|event| !event.is_empty()) {
        let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
        let next = (line("event: "), line("data: ").unwrap_or_default());
        if events
            .last()
            .is_none_or(|last| last.0 != next.0 || looks(last.1) != looks(next.1))
        {
            events.push(next);
        }
    }
    events
}

#[track_caller]
fn assert_same_answer(name: &str, answer: &Answer, recording: &str) {
    let status = recorded(&format!("{name}.status")).unwrap_or_else(|| "200".to_owned());
    assert_eq!(answer.status.as_str(), status.trim(), "{name}: {}", answer.text());
    if !name.ends_with(".sse") {
        return assert_same_shape(name, answer.text(), recording.trim());
    }
    let (ours, theirs) = (different_events(answer.text()), different_events(recording));
    assert_eq!(
        ours.len(),
        theirs.len(),
        "{name}\nours: {}\nrecorded: {recording}",
        answer.text()
    );
    for ((our_name, ours), (their_name, theirs)) in ours.into_iter().zip(theirs) {
        assert_eq!(our_name, their_name, "{name}");
        match theirs {
            "[DONE]" => assert_eq!(ours, theirs, "{name}"),
            _ => assert_same_shape(name, ours, theirs),
        }
    }
}

#[tokio::test]
async fn answers_look_as_recorded() {
    let fleet = start(&[(LIKE_THE_RECORDED, 1)]).await;
    for (name, method, path, body) in CASES {
        let Some(recording) = recording(name) else { continue };
        let answer = if *method == "GET" {
            fleet.get(1, path).await
        } else {
            fleet.post(1, path, *body).await
        };
        assert_same_answer(name, &answer, &recording);
    }
}

#[tokio::test]
async fn details_of_usage_look_as_recorded() {
    let fleet = start(&[("profile=test-nodelay,model=tiny,block_size=128,max_model_len=2048", 1)]).await;
    let prompt = "one two three four five six seven eight ".repeat(40);
    for (name, path, more) in DETAILS {
        let Some(recording) = recording(name) else { continue };
        let request = chat(&prompt, &format!(r#","model":"tiny","max_tokens":2{more}"#));
        fleet.post(1, path, request.clone()).await;
        assert_same_answer(name, &fleet.post(1, path, request).await, &recording);
    }
}

#[tokio::test]
async fn an_unknown_model_is_refused_in_the_recorded_words() {
    let fleet = start(&[(LIKE_THE_RECORDED, 1)]).await;
    let answer = fleet
        .post(1, "/v1/chat/completions", chat("hello", r#","model":"nope""#))
        .await;
    assert_eq!(
        Some(answer.text()),
        recording("notfound.json").as_deref().map(str::trim)
    );
}

/// A page of metrics without its values.
fn series(page: &str) -> Vec<&str> {
    page.lines()
        .map(|line| {
            if line.starts_with('#') {
                line
            } else {
                line.rsplit_once(' ').unwrap().0
            }
        })
        .collect()
}

#[tokio::test]
async fn metrics_have_the_names_types_help_and_labels_of_the_recorded_ones() {
    let fleet = start(&[(LIKE_THE_RECORDED, 1)]).await;
    fleet.post(1, "/v1/chat/completions", chat("hello", "")).await;
    let answer = fleet.get(1, "/metrics").await;
    let recorded = recording("metrics.txt").unwrap();
    assert_eq!(series(answer.text()), series(&recorded));
    assert!(
        answer.body.len().abs_diff(recorded.len()) < recorded.len() / 20,
        "about as much to read"
    );
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
}
