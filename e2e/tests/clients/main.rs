//! The official Python clients of OpenAI and Anthropic get from the gateway what their users expect: answers, streams, and the
//! exceptions that they know. `story.py` asks and says what the client made of each answer; what it should be is said here.
//!
//! Nothing is installed by a test: `make tools` puts the clients, in pinned versions, into the cache folder.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use kthena_e2e::cache;
use kthena_e2e::process::{Launch, Process, wait_until};
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Filter, Options, System};
use serde_json::{Value, json};

const REQUIREMENTS: &str = include_str!("requirements.txt");

/// The whole story, on a machine that does much else.
const WITHIN: Duration = Duration::from_secs(120);

/// The Python that has the pinned clients.
fn python() -> PathBuf {
    let pinned = |package: &str| {
        let prefix = format!("{package}==");
        let version = REQUIREMENTS.lines().find_map(|line| line.strip_prefix(&prefix));
        version.expect("requirements.txt pins the clients")
    };
    let name = format!("clients-openai-{}-anthropic-{}", pinned("openai"), pinned("anthropic"));
    let python = cache::folder().join(name).join("bin/python");
    assert!(
        python.is_file(),
        "the Python clients are not installed at {}: run make tools",
        python.display()
    );
    python
}

/// Runs the story, and returns what each step says.
async fn tell(system: &System) -> BTreeMap<String, Value> {
    let story = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients/story.py");
    let log = system.folder().join("story.log");
    let mut process = Process::start(Launch {
        name: "story.py".to_owned(),
        program: python(),
        args: vec!["-I".into(), story.into(), system.url().into()],
        // A proxy of the machine has no part in this.
        env: vec![("NO_PROXY".to_owned(), "*".to_owned())],
        log: log.clone(),
    })
    .unwrap();
    let mut ended = None;
    wait_until("the end of story.py", WITHIN, async || {
        ended = process.ended().unwrap();
        ended.is_some()
    })
    .await
    .unwrap();
    let said = std::fs::read_to_string(log).unwrap();
    assert!(ended.unwrap().success(), "story.py failed:\n{said}");
    let steps = said
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect(line));
    steps
        .map(|mut step| {
            let name = step["step"].take();
            (name.as_str().unwrap().to_owned(), step)
        })
        .collect()
}

/// Checks that a step said these things, and perhaps more.
fn check(steps: &mut BTreeMap<String, Value>, step: &str, expected: &Value) {
    let said = steps.remove(step).unwrap_or_else(|| panic!("no step {step:?}"));
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&said[name], value, "{step}: {name} in {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_clients_of_openai_and_anthropic_are_served() {
    clients_are_served(Filter::ExtProc).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_served_alike_through_the_wasm_filter() {
    clients_are_served(Filter::Wasm(json!({}))).await;
}

/// The whole story, whoever decides.
async fn clients_are_served(filter: Filter) {
    let system = System::start(Options {
        filter,
        groups: vec![Group::instant("llama", "meta/llama", 2)],
        routes: vec![model_route("llama", "llama", "llama")],
        ..Options::default()
    })
    .await
    .unwrap();
    let mut steps = tell(&system).await;
    let steps = &mut steps;

    check(steps, "models", &json!({"ids": ["llama"]}));
    check(steps, "model", &json!({"id": "llama"}));
    check(steps, "chat", &json!({"words": 6, "finish": "length", "tokens": 6}));
    let streamed = json!({"pieces": 6, "same": true, "prompt_same": true, "tokens": 6});
    check(steps, "chat, streamed", &streamed);
    check(steps, "request id", &json!({"returned": "a-client-of-python"}));
    check(steps, "completion", &json!({"words": 4, "tokens": 4}));
    check(steps, "response", &json!({"words": 5, "tokens": 5}));
    let streamed = json!({"first": "response.created", "last": "response.completed", "same": true, "tokens": 5});
    check(steps, "response, streamed", &streamed);
    check(steps, "embeddings", &json!({"lengths": [1.0, 1.0], "differ": true}));
    check(
        steps,
        "message",
        &json!({"words": 6, "stop": "max_tokens", "tokens": 6}),
    );
    let streamed = json!({"pieces": 6, "same": true, "stop": "max_tokens", "tokens": 6});
    check(steps, "message, streamed", &streamed);

    let not_found =
        json!({"exception": "openai.NotFoundError", "status": 404, "code": "model_not_found", "param": "model"});
    for step in ["no such model", "no such model, streamed"] {
        let message = steps[step]["message"].as_str().unwrap();
        assert!(message.contains("route not found"), "{step}: {message}");
        check(steps, step, &not_found);
    }
    check(steps, "no such model, retrieved", &not_found);
    let bad =
        json!({"exception": "openai.BadRequestError", "status": 400, "code": "empty_prompt", "param": "messages"});
    check(steps, "no messages", &bad);
    let bad = json!({"exception": "openai.BadRequestError", "status": 400, "code": "invalid_model", "param": "model"});
    check(steps, "a model that is a number", &bad);
    let step = "no such model, as a message";
    let message = steps[step]["message"].as_str().unwrap();
    assert!(message.contains("route not found"), "{message}");
    let not_found = json!({"exception": "anthropic.NotFoundError", "status": 404, "type": "not_found_error"});
    check(steps, step, &not_found);
    let bad = json!({"exception": "anthropic.BadRequestError", "status": 400, "type": "invalid_request_error"});
    check(steps, "no messages, as a message", &bad);

    assert!(steps.is_empty(), "nobody looks at these: {steps:?}");
}
