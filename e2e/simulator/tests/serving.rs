//! What clients and observers of a healthy endpoint see.

mod client;

use std::time::{Duration, Instant};

use client::{DEADLINE, chat, events, start};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

const FAST: &str = "profile=test-nodelay,model=base,block_size=16";

#[tokio::test]
async fn every_form_is_answered_and_tells_its_usage() {
    let fleet = start(&[(FAST, 1)]).await;
    let cases = [
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}),
            "completion_tokens",
        ),
        (
            "/v1/completions",
            json!({"prompt": "x", "max_tokens": 5}),
            "completion_tokens",
        ),
        (
            "/v1/responses",
            json!({"input": "x", "max_output_tokens": 5}),
            "output_tokens",
        ),
        (
            "/v1/messages",
            json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}),
            "output_tokens",
        ),
    ];
    for (path, mut request, tokens) in cases {
        let plain = fleet.post(1, path, request.to_string()).await;
        assert_eq!(plain.json()["usage"][tokens], 5, "{path}: {}", plain.text());
        request["stream"] = true.into();
        let streamed = fleet.post(1, path, request.to_string()).await;
        let words = events(streamed.text())
            .iter()
            .filter(|event| event.contains("\":\" "))
            .count();
        assert!(words >= 5, "{path}: {}", streamed.text());
    }
    let request = r#"{"input":["a","b"],"dimensions":2,"encoding_format":"base64"}"#;
    let embeddings = fleet.post(1, "/v1/embeddings", request).await.json();
    assert_eq!(
        embeddings["data"][1]["embedding"].as_str().unwrap().len(),
        12,
        "eight bytes in base64"
    );
    assert_eq!(embeddings["usage"]["total_tokens"], 2);
}

#[tokio::test]
async fn a_stream_says_what_the_plain_answer_says() {
    let fleet = start(&[(FAST, 1)]).await;
    let plain = fleet
        .post(1, "/v1/chat/completions", chat("same", r#","max_tokens":20"#))
        .await
        .json();
    let streamed = fleet
        .post(
            1,
            "/v1/chat/completions",
            chat("same", r#","max_tokens":20,"stream":true"#),
        )
        .await;
    let said: String = events(streamed.text())
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .map(|event| event["choices"][0]["delta"]["content"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(plain["choices"][0]["message"]["content"], said);
    assert_eq!(said.len(), 80);
}

#[tokio::test]
async fn the_next_turn_of_a_conversation_finds_the_last_one_in_the_cache() {
    let fleet = start(&[(FAST, 2)]).await;
    let mut messages = vec![json!({"role": "user", "content": "tell me ".repeat(100)})];
    let turn = |messages: &[Value]| json!({"messages": messages, "max_tokens": 64}).to_string();
    let first = fleet.post(1, "/v1/chat/completions", turn(&messages)).await.json();
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    messages.push(first["choices"][0]["message"].clone());
    messages.push(json!({"role": "user", "content": "and then?"}));
    let second = fleet.post(1, "/v1/chat/completions", turn(&messages)).await.json();
    let known = first["usage"]["total_tokens"].as_u64().unwrap();
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap();
    assert!(
        cached + 17 > known && cached <= known,
        "{cached} of {known}: all full blocks, the answer's too"
    );
    let elsewhere = fleet.post(2, "/v1/chat/completions", turn(&messages)).await.json();
    assert_eq!(elsewhere["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(
        elsewhere["choices"], second["choices"],
        "who answers does not change what is said"
    );
    let hits = fleet.metric(1, &["vllm:prefix_cache_hits_total{"]).await;
    assert_eq!(hits, cached as f64);
    assert_eq!(fleet.metric(1, &["vllm:prompt_tokens_cached_total{"]).await, hits);
}

#[tokio::test]
async fn a_stream_is_paced_by_the_steps_and_seen_in_the_metrics() {
    let fleet = start(&[("profile=test-nodelay,step_ms=5", 1)]).await;
    let started = Instant::now();
    let request = chat("x", r#","max_tokens":300,"stream":true"#);
    let response = fleet
        .send(Method::POST, fleet.url(1, "/v1/chat/completions"), request)
        .await
        .unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(
        started.elapsed() < Duration::from_millis(150),
        "the first words come before the last"
    );
    assert_eq!(
        fleet.metric(1, &["vllm:num_requests_running{"]).await,
        1.0,
        "the first words come first"
    );
    tokio::time::timeout(DEADLINE, body.collect()).await.unwrap().unwrap();
    assert!(started.elapsed() >= Duration::from_millis(1500));
    assert_eq!(fleet.metric(1, &["vllm:num_requests_running{"]).await, 0.0);
    assert_eq!(
        fleet.metric(1, &["vllm:inter_token_latency_seconds_count"]).await,
        299.0
    );
    let mean = fleet.metric(1, &["vllm:inter_token_latency_seconds_sum"]).await / 299.0;
    assert!((mean - 0.005).abs() < 1e-6, "{mean}");
    assert_eq!(fleet.metric(1, &["vllm:time_to_first_token_seconds_count"]).await, 1.0);
    assert_eq!(
        fleet.metric(1, &["vllm:request_success_total", "\"length\""]).await,
        1.0
    );
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_sequence() {
    let fleet = start(&[("profile=test-nodelay,step_ms=5", 1)]).await;
    for stream in ["true", "false"] {
        let request = chat("x", &format!(r#","max_tokens":100000,"stream":{stream}"#));
        let answer = fleet.send(Method::POST, fleet.url(1, "/v1/chat/completions"), request);
        tokio::select! {
            response = answer => {
                let mut body = response.unwrap().into_body();
                body.frame().await.unwrap().unwrap();
                assert_eq!(fleet.describe(1).await["running"], 1);
            }
            _ = fleet.until(1, |endpoint| endpoint["running"] == 1 && stream == "false") => {}
        }
        let endpoint = fleet.until(1, |endpoint| endpoint["running"] == 0).await;
        assert_eq!(endpoint["kv_usage"], 0.0);
    }
    assert_eq!(fleet.describe(1).await["aborted"], 2);
}

#[tokio::test]
async fn adapters_are_models_with_a_parent() {
    let fleet = start(&[("profile=test-nodelay,model=base,lora=sql+code,step_ms=5", 1)]).await;
    let models = fleet.get(1, "/v1/models").await.json();
    let names: Vec<_> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| (&model["id"], &model["parent"]))
        .collect();
    let base = json!("base");
    assert_eq!(
        names,
        [(&base, &Value::Null), (&json!("sql"), &base), (&json!("code"), &base)]
    );
    let request = chat("x", r#","model":"code","max_tokens":100000,"stream":true"#);
    let answer = fleet
        .send(Method::POST, fleet.url(1, "/v1/chat/completions"), request)
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-simulator-model"], "code");
    fleet.until(1, |endpoint| endpoint["running"] == 1).await;
    let page = fleet.get(1, "/metrics").await;
    assert!(
        page.text()
            .contains("vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"code\"")
    );
}

#[tokio::test]
async fn what_arrived_can_be_asked_for_byte_by_byte() {
    let fleet = start(&[(FAST, 2)]).await;
    let body = "{\"messages\" : [{\"role\":\"user\",\"content\":\"\\u00e9 1e3\"}],\n\t\"x\": 1.0e5}";
    let answer = fleet.post(2, "/v1/chat/completions?a=b", body).await;
    assert_eq!(answer.header("x-simulator-endpoint"), fleet.authority(2));
    assert_eq!(answer.header("x-simulator-body-bytes"), body.len().to_string());
    let path = format!("/requests?address={}", fleet.address(2));
    let requests = fleet.control(Method::GET, &path, "").await.json();
    let request = &requests["requests"][0];
    assert_eq!(request["path"], "/v1/chat/completions?a=b");
    assert_eq!(request["body_hash"], answer.header("x-simulator-body-hash"));
    assert!(
        request["headers"]
            .as_array()
            .unwrap()
            .contains(&json!(["content-type", "application/json"]))
    );
    let kept = fleet
        .control(Method::GET, &format!("/requests/{}/body", request["number"]), "")
        .await;
    assert_eq!(kept.text(), body);
    let later = format!("/requests?after={}", requests["last"]);
    assert_eq!(
        fleet.control(Method::GET, &later, "").await.json()["requests"],
        json!([])
    );
}

#[tokio::test]
async fn large_bodies_are_taken_up_to_the_bound() {
    let fleet = start(&[(FAST, 1)]).await;
    let large = chat(&"large \u{e9}\n".repeat(1_750_000), r#","max_tokens":1"#);
    assert!(large.len() > 16 << 20);
    let answer = fleet.post(1, "/v1/chat/completions", large.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-simulator-body-bytes"), large.len().to_string());
    assert_eq!(
        fleet.post(1, "/v1/chat/completions", vec![b' '; 21 << 20]).await.status,
        413
    );
}

#[tokio::test]
async fn mistakes_are_told_in_the_form_of_the_api() {
    let fleet = start(&[(FAST, 1)]).await;
    let openai = fleet.post(1, "/v1/chat/completions", "{").await;
    assert_eq!(
        (openai.status.as_u16(), &openai.json()["error"]["code"]),
        (400, &json!(400))
    );
    let nope = r#"{"model":"nope","max_tokens":1,"messages":[{"role":"user","content":"x"}]}"#;
    let anthropic = fleet.post(1, "/v1/messages", nope).await;
    assert_eq!(
        (anthropic.status.as_u16(), &anthropic.json()["type"]),
        (404, &json!("error"))
    );
    assert_eq!(fleet.post(1, "/v1/nothing", "{}").await.status, 404);
    assert_eq!(fleet.get(1, "/v1/chat/completions").await.status, 405);
    assert_eq!(fleet.get(1, "/health").await.status, 200);
    let tokens = fleet.post(1, "/tokenize", r#"{"prompt":"eight by"}"#).await.json();
    assert_eq!(
        (&tokens["count"], tokens["tokens"].as_array().unwrap().len()),
        (&json!(2), 2)
    );
}
