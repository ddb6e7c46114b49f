//! One message a request tells the processors all that they need to settle it, and one line tells the operator.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, HttpAccessLogEntry};
use envoy_types::pb::google::protobuf::value::Kind;
use kthena_e2e::client::Ask;
use kthena_e2e::clusters::Cluster;
use kthena_e2e::noop::Decision;
use kthena_e2e::process::wait_until;
use kthena_e2e::scripted::Behaviour;

use crate::rig::{LLAMA, Rig, SOON, named, route};

async fn next_entry(rig: &Rig, before: usize) -> HttpAccessLogEntry {
    wait_until("an access-log entry at the processor", SOON, async || {
        rig.noop.entries().len() > before
    })
    .await
    .unwrap();
    rig.noop.entries()[before].clone()
}

/// A metadata value as text; empty when absent.
fn metadata(common: &AccessLogCommon, namespace: &str, key: &str) -> String {
    let value = common
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.filter_metadata.get(namespace))
        .and_then(|fields| fields.fields.get(key))
        .and_then(|value| value.kind.clone());
    match value {
        Some(Kind::StringValue(text)) => text,
        Some(Kind::NumberValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn decided() -> BTreeMap<String, String> {
    let pairs = [
        ("lease", "17"),
        ("model_name", "llama"),
        ("upstream_model", "meta/llama"),
        ("selected_pod", "llama-0"),
    ];
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_the_served_endpoint_and_the_keys_of_kthena_arrive() {
    let (first, second) = (named("first").await, named("second").await);
    let both = [first.address(), second.address()];
    let rig = Rig::start(
        &[Cluster::new(LLAMA, both)],
        Decision {
            metadata: decided(),
            ..route(LLAMA, &both)
        },
    )
    .await;
    first.behave(Behaviour::Reset);
    let answer = rig.chat().await;

    let entry = next_entry(&rig, 0).await;
    let common = entry.common_properties.unwrap();
    assert_eq!(metadata(&common, "kthena", "lease"), "17");
    assert_eq!(
        metadata(&common, "envoy.lb", "x-gateway-destination-endpoint-served"),
        second.address().to_string()
    );
    assert_eq!(entry.request.unwrap().request_id, answer.header("x-request-id"));
    assert_eq!(common.upstream_request_attempt_count, 2);

    let line = rig.log_line(&answer.header("x-request-id")).await;
    for (key, value) in decided().iter().filter(|(key, _)| *key != "lease") {
        assert_eq!(line[key], value.as_str());
    }
    assert_eq!(
        (line["method"].as_str(), line["path"].as_str()),
        (Some("POST"), Some("/v1/chat/completions"))
    );
    assert_eq!(
        (line["status_code"].as_u64(), line["upstream_status_code"].as_str()),
        (Some(200), Some("200"))
    );
    assert!(line["duration_total"].is_u64(), "{line}");
}

/// What of usage is read: what the engine calls input, output, input from the cache, and the last two of Anthropic's form, which are
/// not among its input.
const KEYS: [&str; 5] = [
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "cache_read_tokens",
    "cache_creation_tokens",
];

/// Form of the API, whether it is streamed, the answer, then what is read of it.
const USAGE: [(&str, bool, &str, [&str; KEYS.len()]); 9] = [
    (
        "chat/completions",
        false,
        r#"{"usage":{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":5}}}"#,
        ["7", "3", "5", "", ""],
    ),
    (
        "embeddings",
        false,
        r#"{"usage":{"prompt_tokens":9,"total_tokens":9}}"#,
        ["9", "", "", "", ""],
    ),
    (
        "responses",
        false,
        r#"{"usage":{"input_tokens":11,"output_tokens":4,"input_tokens_details":{"cached_tokens":8}}}"#,
        ["11", "4", "8", "", ""],
    ),
    (
        "messages",
        false,
        r#"{"usage":{"input_tokens":13,"output_tokens":6,"cache_creation_input_tokens":1,"cache_read_input_tokens":2}}"#,
        ["13", "6", "2", "2", "1"],
    ),
    ("chat/completions", false, r#"{"choices":[]}"#, ["", "", "", "", ""]),
    (
        "chat/completions",
        true,
        "data: {\"choices\":[{}],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\
         \"prompt_tokens_details\":{\"cached_tokens\":5}}}\n\ndata: [DONE]\n\n",
        ["7", "3", "5", "", ""],
    ),
    (
        "responses",
        true,
        "event: response.created\ndata: {\"response\":{\"usage\":null}}\n\nevent: response.completed\ndata: {\"response\":{\"usage\":\
         {\"input_tokens\":11,\"output_tokens\":4,\"input_tokens_details\":{\"cached_tokens\":8}}}}\n\n",
        ["11", "4", "8", "", ""],
    ),
    (
        "messages",
        true,
        "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":13,\"cache_creation_input_tokens\":1,\"cache_read_input_tokens\":2,\
         \"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"usage\":{\"output_tokens\":6}}\n\n",
        ["13", "6", "2", "2", "1"],
    ),
    (
        "messages",
        true,
        // As vLLM does: all input first, then without what was cached.
        "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":13,\"output_tokens\":0}}}\n\nevent: message_delta\n\
         data: {\"usage\":{\"input_tokens\":3,\"output_tokens\":6,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":10}}\n\n",
        ["3", "6", "10", "10", "0"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_read_from_every_form_of_answer_and_is_unknown_where_the_engine_sends_none() {
    let pod = named("pod").await;
    let rig = Rig::start(&[Cluster::new(LLAMA, [pod.address()])], route(LLAMA, &[pod.address()])).await;
    for (number, (form, streamed, body, expected)) in USAGE.into_iter().enumerate() {
        pod.behave(if streamed {
            // Cut where no event ends, as a network does.
            let (one, other) = body.split_at(body.len() / 2);
            Behaviour::Stream(vec![one.to_owned(), other.to_owned()], Duration::from_millis(1))
        } else {
            Behaviour::Answer(200, body.to_owned())
        });
        let answer = rig.client.send(Ask::post(&format!("/v1/{form}"), "{}")).await.unwrap();
        assert_eq!(answer.text(), body);
        let common = next_entry(&rig, number).await.common_properties.unwrap();
        assert_eq!(
            KEYS.map(|key| metadata(&common, "kthena.usage", key)),
            expected,
            "{form} streamed={streamed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_is_told_apart() {
    let pod = named("pod").await;
    let rig = Rig::start(
        &[Cluster::new(LLAMA, [pod.address()])],
        Decision {
            metadata: decided(),
            ..route(LLAMA, &[pod.address()])
        },
    )
    .await;
    pod.behave(Behaviour::Hang);
    let mut ask = Ask::post("/v1/completions", "{}");
    ask.within = Duration::from_millis(200);
    assert!(rig.client.send(ask).await.is_err());
    let common = next_entry(&rig, 0).await.common_properties.unwrap();
    assert!(common.response_flags.unwrap().downstream_connection_termination);
    assert_eq!(metadata(&common, "kthena", "lease"), "17");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_in_metadata_becomes_a_header_of_the_answer_and_its_absence_none() {
    let pod = named("pod").await;
    let rig = Rig::start(&[Cluster::new(LLAMA, [pod.address()])], route(LLAMA, &[pod.address()])).await;
    assert!(!rig.chat().await.headers.contains_key("x-kthena-explanation"));
    let explanation = format!("{{\"picked\":\"llama-0\",\"why\":\"{}\"}}", "b".repeat(4000));
    let metadata = BTreeMap::from([("explanation".to_owned(), explanation.clone())]);
    rig.noop.decide(Decision {
        metadata,
        ..route(LLAMA, &[pod.address()])
    });
    assert_eq!(rig.chat().await.header("x-kthena-explanation"), explanation);
}
