//! The simulator's answers have the shape of those that a real vLLM gave: keys in their order, types, events, series.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod client;

use std::collections::BTreeMap;

use client::{chat, events, start};
use serde_json::Value;

/// As the recorded server was started.
const LIKE_THE_RECORDED: &str = "profile=test-nodelay,model=tiny,block_size=128,kv_tokens=1048576,max_model_len=2048,\
                                 prompt_tokens_details=off";

fn recording(name: &str) -> String {
    let path = format!("{}/recordings/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
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
fn assert_same_shape(ours: &str, recorded: &str) {
    let parse = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(
        types(&parse(ours)),
        types(&parse(recorded)),
        "ours: {ours}\nrecorded: {recorded}"
    );
    assert_eq!(keys(ours), keys(recorded), "the order of keys");
}

#[tokio::test]
async fn models_are_listed_as_recorded() {
    let fleet = start(&[(LIKE_THE_RECORDED, 1)]).await;
    assert_same_shape(fleet.get(1, "/v1/models").await.text(), recording("models.json").trim());
}

#[tokio::test]
async fn a_chat_is_answered_as_recorded() {
    let fleet = start(&[(LIKE_THE_RECORDED, 1)]).await;
    let answer = fleet
        .post(
            1,
            "/v1/chat/completions",
            chat("hello", r#","model":"tiny","max_tokens":8"#),
        )
        .await;
    assert_eq!(answer.status, 200);
    assert_same_shape(answer.text(), recording("chat.json").trim());
    assert_eq!(answer.json()["usage"]["completion_tokens"], 8);
}

#[tokio::test]
async fn a_chat_is_streamed_as_recorded() {
    let fleet = start(&[(LIKE_THE_RECORDED, 1)]).await;
    let request = chat(
        "hello",
        r#","max_tokens":4,"stream":true,"stream_options":{"include_usage":true}"#,
    );
    let answer = fleet.post(1, "/v1/chat/completions", request).await;
    assert_eq!(answer.header("content-type"), "text/event-stream; charset=utf-8");
    let (ours, recorded) = (events(answer.text()), events(&recording("chat.sse")));
    assert_eq!(ours.len(), recorded.len());
    for (ours, recorded) in ours.iter().zip(&recorded) {
        match recorded.as_str() {
            "[DONE]" => assert_eq!(ours, recorded),
            _ => assert_same_shape(ours, recorded),
        }
    }
}

#[tokio::test]
async fn an_unknown_model_is_refused_as_recorded() {
    let fleet = start(&[(LIKE_THE_RECORDED, 1)]).await;
    let answer = fleet
        .post(1, "/v1/chat/completions", chat("hello", r#","model":"nope""#))
        .await;
    assert_eq!(answer.status, 404);
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
