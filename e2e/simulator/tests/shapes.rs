//! The simulator's answers have the shape of those that a real vLLM gave: keys in their order, types, events, series.
//!
//! `record.sh` makes the recordings, by the same requests. Every case has one; what of the simulator nobody has recorded is listed in
//! `recordings/README.md`.

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

/// Requests whose prompt is in the cache, without and with details of usage: file, path, what the body has beside the prompt.
const CACHED: &[(&str, &str, &str)] = &[
    ("messages-cached.json", "/v1/messages", r#""max_tokens":2"#),
    ("responses-cached.json", "/v1/responses", r#""max_output_tokens":2"#),
];
const DETAILS: &[(&str, &str, &str)] = &[
    ("chat-details.json", "/v1/chat/completions", r#""max_tokens":2"#),
    (
        "chat-details.sse",
        "/v1/chat/completions",
        r#""max_tokens":2,"stream":true,"stream_options":{"include_usage":true}"#,
    ),
    ("messages-details.json", "/v1/messages", r#""max_tokens":2"#),
    (
        "messages-details.sse",
        "/v1/messages",
        r#""max_tokens":2,"stream":true"#,
    ),
    ("responses-details.json", "/v1/responses", r#""max_output_tokens":2"#),
];

/// As the server with details was started.
const WITH_DETAILS: &str = "profile=test-nodelay,model=tiny,block_size=128,max_model_len=2048";

/// As the recorded server was started.
const LIKE_THE_RECORDED: &str = "profile=test-nodelay,model=tiny,block_size=128,kv_tokens=1048576,max_model_len=2048,\
                                 prompt_tokens_details=off";

fn recorded(name: &str) -> Option<String> {
    std::fs::read_to_string(format!("{}/recordings/{name}", env!("CARGO_MANIFEST_DIR"))).ok()
}

/// The recording of a case: every case has one.
#[track_caller]
fn recording(name: &str) -> String {
    recorded(name)
        .unwrap_or_else(|| panic!("{name} is not recorded: add it to record.sh and run e2e/tools/real-vllm record"))
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
        let recording = recording(name);
        let answer = if *method == "GET" {
            fleet.get(1, path).await
        } else {
            fleet.post(1, path, *body).await
        };
        assert_same_answer(name, &answer, &recording);
    }
}

/// Longer than two blocks.
fn long_prompt() -> String {
    "one two three four five six seven eight ".repeat(40)
}

/// A request with the long prompt, as the path wants it.
fn long_request(path: &str, more: &str) -> String {
    let mut request: Value = serde_json::from_str(&format!("{{{more}}}")).unwrap();
    request["model"] = "tiny".into();
    match path {
        "/v1/responses" => request["input"] = long_prompt().into(),
        _ => request["messages"] = serde_json::json!([{"role": "user", "content": long_prompt()}]),
    }
    request.to_string()
}

/// What a usage says of the cache, by the paths of the fields: zero or more. `Null` where the field is not there.
fn cache_counts(answer: &str) -> Vec<(&'static str, Option<bool>)> {
    let line = answer.lines().rfind(|line| line.contains("\"usage\":{")).unwrap();
    let value: Value = serde_json::from_str(line.trim_start_matches("data: ")).unwrap();
    [
        "/usage/prompt_tokens_details/cached_tokens",
        "/usage/prompt_tokens_details/created_cache_tokens",
        "/usage/input_tokens_details/cached_tokens",
        "/usage/cache_read_input_tokens",
        "/usage/cache_creation_input_tokens",
    ]
    .into_iter()
    .map(|path| (path, value.pointer(path).and_then(Value::as_u64).map(|count| count > 0)))
    .collect()
}

#[tokio::test]
async fn usage_of_a_cached_prompt_looks_as_recorded() {
    for (figures, cases) in [(LIKE_THE_RECORDED, CACHED), (WITH_DETAILS, DETAILS)] {
        let fleet = start(&[(figures, 1)]).await;
        for (name, path, more) in cases {
            let (request, recording) = (long_request(path, more), recording(name));
            fleet.post(1, path, request.clone()).await;
            let answer = fleet.post(1, path, request).await;
            assert_same_answer(name, &answer, &recording);
            assert_eq!(cache_counts(answer.text()), cache_counts(&recording), "{name}");
        }
    }
}

#[tokio::test]
async fn usage_of_a_new_prompt_looks_as_recorded() {
    let fleet = start(&[(WITH_DETAILS, 1)]).await;
    let (path, recording) = ("/v1/chat/completions", recording("chat-details-cold.json"));
    let answer = fleet.post(1, path, long_request(path, r#""max_tokens":2"#)).await;
    assert_same_answer("chat-details-cold.json", &answer, &recording);
    assert_eq!(cache_counts(answer.text()), cache_counts(&recording));
}

#[tokio::test]
async fn an_unknown_model_is_refused_in_the_recorded_words() {
    let fleet = start(&[(LIKE_THE_RECORDED, 1)]).await;
    let answer = fleet
        .post(1, "/v1/chat/completions", chat("hello", r#","model":"nope""#))
        .await;
    assert_eq!(answer.text(), recording("notfound.json").trim());
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
    let recorded = recording("metrics.txt");
    assert_eq!(series(answer.text()), series(&recorded));
    assert!(
        answer.body.len().abs_diff(recorded.len()) < recorded.len() / 20,
        "about as much to read"
    );
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
}
