//! Faults that are switched on while the fleet runs, and what is left of them when they are switched off.

mod client;

use std::error::Error;
use std::time::{Duration, Instant};

use client::{chat, start};
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

const FAST: &str = "profile=test-nodelay,model=base,block_size=16";
const PATH: &str = "/v1/chat/completions";

/// The kind of the I/O error at the bottom of a failure.
fn io_kind(error: &(dyn Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

#[tokio::test]
async fn a_hang_holds_answers_and_streams_and_lets_them_go_on() {
    let fleet = start(&[("profile=test-nodelay,step_ms=1", 1)]).await;
    let request = chat("x", r#","max_tokens":300,"stream":true"#);
    let answer = fleet.send(Method::POST, fleet.url(1, PATH), request).await.unwrap();
    let mut body = answer.into_body();
    body.frame().await.unwrap().unwrap();
    fleet.inflict(1, r#"{"kind":"hang"}"#).await;
    let before = fleet.describe(1).await["generation_tokens"].clone();
    let health = fleet.get(1, "/health");
    tokio::pin!(health);
    let held = tokio::time::timeout(Duration::from_millis(100), &mut health).await;
    assert!(held.is_err(), "nothing is answered");
    assert_eq!(
        fleet.describe(1).await["generation_tokens"],
        before,
        "the engine stands still"
    );
    fleet.heal(1).await;
    assert_eq!(health.await.status, 200);
    let rest = body.collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(fleet.describe(1).await["generation_tokens"], 300);
}

#[tokio::test]
async fn refusing_closes_the_port_and_keeps_what_is_connected() {
    let fleet = start(&[("profile=test-nodelay,step_ms=2", 1)]).await;
    let request = chat("x", r#","max_tokens":50,"stream":true"#);
    let answer = fleet.send(Method::POST, fleet.url(1, PATH), request).await.unwrap();
    fleet.inflict(1, r#"{"kind":"refuse"}"#).await;
    let error = fleet.send(Method::GET, fleet.url(1, "/health"), "").await.unwrap_err();
    assert_eq!(io_kind(&error), Some(std::io::ErrorKind::ConnectionRefused));
    assert!(
        answer
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .ends_with(b"[DONE]\n\n")
    );
    fleet.heal(1).await;
    assert_eq!(fleet.get(1, "/health").await.header("x-simulator-incarnation"), "1");
}

#[tokio::test]
async fn dying_resets_connections_and_the_next_life_remembers_nothing() {
    let fleet = start(&[("profile=test-nodelay,step_ms=5,block_size=16", 2)]).await;
    let prompt = "remember ".repeat(50);
    for _ in 0..2 {
        fleet.post(1, PATH, chat(&prompt, r#","max_tokens":1"#)).await;
    }
    assert!(fleet.describe(1).await["cached_tokens"].as_u64().unwrap() > 0);
    let request = chat("x", r#","max_tokens":1000,"stream":true"#);
    let mut body = fleet
        .send(Method::POST, fleet.url(1, PATH), request)
        .await
        .unwrap()
        .into_body();
    body.frame().await.unwrap().unwrap();
    fleet.inflict(1, r#"{"kind":"die"}"#).await;
    let error = body.collect().await.unwrap_err();
    assert_eq!(io_kind(&error), Some(std::io::ErrorKind::ConnectionReset), "{error:?}");
    let error = fleet.send(Method::GET, fleet.url(1, "/health"), "").await.unwrap_err();
    assert_eq!(io_kind(&error), Some(std::io::ErrorKind::ConnectionRefused));
    assert_eq!(fleet.get(2, "/health").await.status, 200, "the others live");
    fleet.heal(1).await;
    let endpoint = fleet.describe(1).await;
    assert_eq!(
        (&endpoint["incarnation"], &endpoint["prompt_tokens"]),
        (&json!(2), &json!(0))
    );
    let answer = fleet.post(1, PATH, chat(&prompt, r#","max_tokens":1"#)).await;
    assert_eq!(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[tokio::test]
async fn errors_hit_their_share_of_requests_and_no_probe() {
    let fleet = start(&[(FAST, 1)]).await;
    fleet.inflict(1, r#"{"kind":"error","status":503,"share":0.25}"#).await;
    let mut failed = 0;
    for _ in 0..20 {
        failed += u32::from(fleet.post(1, PATH, chat("x", "")).await.status == 503);
        assert_eq!(fleet.get(1, "/health").await.status, 200);
    }
    assert_eq!(failed, 5);
    fleet.heal(1).await;
    assert_eq!(fleet.post(1, PATH, chat("x", "")).await.status, 200);
}

#[tokio::test]
async fn slowness_delays_answers_and_stretches_steps() {
    let fleet = start(&[("profile=test-nodelay,step_ms=2", 1)]).await;
    fleet.inflict(1, r#"{"kind":"slow","factor":5,"delay_ms":50}"#).await;
    let started = Instant::now();
    fleet.post(1, PATH, chat("x", r#","max_tokens":10"#)).await;
    assert!(
        started.elapsed() >= Duration::from_millis(150),
        "50 ms, and ten steps of 10 ms"
    );
    let sum = fleet.metric(1, &["vllm:inter_token_latency_seconds_sum"]).await;
    assert!((sum - 0.09).abs() < 1e-6, "{sum}");
}

#[tokio::test]
async fn frozen_metrics_say_what_was() {
    let fleet = start(&[(FAST, 1)]).await;
    let finished = ["vllm:request_success_total", "\"stop\""];
    fleet.post(1, PATH, chat("x", "")).await;
    fleet.inflict(1, r#"{"kind":"frozen_metrics"}"#).await;
    fleet.post(1, PATH, chat("x", "")).await;
    assert_eq!(fleet.metric(1, &finished).await, 1.0);
    fleet.heal(1).await;
    assert_eq!(fleet.metric(1, &finished).await, 2.0);
}

#[tokio::test]
async fn a_mistaken_order_changes_nothing_and_says_why() {
    let fleet = start(&[(FAST, 1)]).await;
    let cases = [
        (r#"{"fault":{"kind":"explode"}}"#.to_owned(), "unknown variant"),
        (r#"{"fault":{"kind":"error","status":200}}"#.to_owned(), "500 to 599"),
        (
            r#"{"fault":{"kind":"hang"},"address":"127.0.0.1"}"#.to_owned(),
            "unknown field",
        ),
        (
            format!(
                r#"{{"addresses":"{}-127.255.0.1","fault":{{"kind":"die"}}}}"#,
                fleet.address(1)
            ),
            "more than",
        ),
        (
            format!(
                r#"{{"addresses":"{}-{}","fault":{{"kind":"die"}}}}"#,
                fleet.address(1),
                fleet.address(9)
            ),
            "not in the fleet",
        ),
    ];
    for (order, reason) in cases {
        let answer = fleet.control(Method::PUT, "/faults", &order).await;
        assert_eq!(answer.status, 400, "{order}");
        assert!(answer.text().contains(reason), "{order}: {}", answer.text());
    }
    assert_eq!(fleet.post(1, PATH, chat("x", "")).await.status, 200);
}
