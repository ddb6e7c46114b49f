//! A client asks by the alias that it knows, and gets the answer of a model server of that model, and what it may know about the way.

use std::collections::BTreeMap;

use kthena_e2e::client::Ask;
use kthena_e2e::openai::{Chat, Message, OpenAi};
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Options, System};
use serde_json::{Value, json};

use crate::{CHAT, SOON, last_received, log_line, question, send, start, who};

/// Two models under aliases, two model servers each.
async fn two_models() -> System {
    start(Options {
        groups: vec![
            Group::instant("llama", "meta/llama", 2),
            Group::instant("qwen", "Qwen/Qwen2-7B", 2),
        ],
        routes: vec![
            model_route("llama", "llama", "llama"),
            model_route("qwen", "qwen", "qwen"),
        ],
        ..Options::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_models_name_changes_on_the_way_and_not_a_byte_besides() {
    let system = two_models().await;
    let body = |model: &str| {
        format!(
            "{{ \"messages\":[{{\"role\":\"user\",\"content\":\"h\\u00e9llo \\uD83D\\uDE00 é model\"}}],\r\n\t\"temperature\": 1.0e0,\
             \"x\":{{\"model\":\"not this one\",\"b\":1,\"a\":[ ]}}, \"model\" : \"{model}\",\"max_tokens\":3}} "
        )
    };
    let answer = send(&system, Ask::post(CHAT, body("llama"))).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(system.fleet().addresses("llama").contains(&who(&answer)));
    assert_eq!(answer.json().unwrap()["choices"][0]["message"]["role"], "assistant");

    let received = last_received(&system).await;
    assert_eq!(system.fleet().body(received.number).await.unwrap(), body("meta/llama"));
    for header in ["x-kthena-cluster", "x-gateway-destination-endpoint", "x-kthena-explain"] {
        assert_eq!(received.header(header), "", "{header} stays on our side");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_come_whole_and_no_request_goes_to_the_other_model() {
    let system = two_models().await;
    let client = OpenAi::new(system.address());
    for number in 0..20 {
        for model in ["llama", "qwen"] {
            let chat = Chat {
                model,
                messages: &[Message::new("user", format!("Count to {number}"))],
                max_tokens: 5,
                explain: false,
                within: SOON,
            };
            let turn = client.chat(chat).await.unwrap_or_else(|error| panic!("{error:#}"));
            assert_eq!(turn.text.split_whitespace().count(), 5, "{}", turn.text);
            assert!(turn.prompt_tokens > 0);
        }
    }
    for received in system.fleet().received(0).await.unwrap() {
        let body = system.fleet().body(received.number).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let (group, model) = if system
            .fleet()
            .addresses("llama")
            .iter()
            .any(|address| *address == received.endpoint.ip())
        {
            ("llama", "meta/llama")
        } else {
            ("qwen", "Qwen/Qwen2-7B")
        };
        assert_eq!(body["model"], model, "{group}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_by_the_names_that_clients_use() {
    let system = two_models().await;
    let list = send(&system, Ask::get("/v1/models")).await.json().unwrap();
    let names: Vec<&str> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    assert_eq!((list["object"].as_str(), names), (Some("list"), vec!["llama", "qwen"]));
    let one = send(&system, Ask::get("/v1/models/llama")).await;
    assert_eq!(
        (one.status.as_u16(), one.json().unwrap()["id"].as_str()),
        (200, Some("llama"))
    );
    let none = send(&system, Ask::get("/v1/models/gpt")).await;
    assert_eq!(
        (none.status.as_u16(), none.json().unwrap()["error"]["code"].as_str()),
        (404, Some("model_not_found"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_explained_to_those_who_ask() {
    let system = two_models().await;
    assert_eq!(
        send(&system, question("llama")).await.header("x-kthena-explanation"),
        ""
    );
    let answer = send(&system, question("llama").header("x-kthena-explain", "1")).await;
    let explanation: Value = serde_json::from_str(&answer.header("x-kthena-explanation")).unwrap();
    assert_eq!(explanation["candidates"], 2);
    let pods = system.fleet().addresses("llama");
    let picked = pods.iter().position(|address| *address == who(&answer)).unwrap();
    assert_eq!(explanation["pick"], format!("default/llama-{picked}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_are_kept_or_made_and_lead_from_the_answer_to_the_log() {
    let system = two_models().await;
    let given = send(&system, question("llama").header("x-request-id", "story-17")).await;
    assert_eq!(given.header("x-request-id"), "story-17");
    assert_eq!(last_received(&system).await.header("x-request-id"), "story-17");
    let made = send(&system, question("llama")).await.header("x-request-id");
    assert!(!made.is_empty());

    for id in ["story-17", &made] {
        let line = log_line(&system, id).await;
        let expected = json!({
            "method": "POST", "path": CHAT, "status_code": 200, "model_name": "llama", "model_route": "default/llama",
            "model_server": "default/llama", "upstream_model": "meta/llama", "upstream_attempts": 1,
        });
        let expected: BTreeMap<String, Value> = serde_json::from_value(expected).unwrap();
        for (key, value) in expected {
            assert_eq!(line[&key], value, "{key} in {line}");
        }
        let pod = line["selected_pod"].as_str().unwrap();
        assert!(pod.contains("llama-"), "{line}");
        let whole = [
            "timestamp",
            "protocol",
            "input_tokens",
            "output_tokens",
            "duration_total",
            "backend_type",
        ];
        for key in whole {
            assert!(!line[key].is_null(), "{key} in {line}");
        }
    }
}
