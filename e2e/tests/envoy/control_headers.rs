//! A client that sets a control header chooses nothing, however the processor fares.

use kthena_e2e::client::Ask;
use kthena_e2e::clusters::Cluster;
use kthena_e2e::envoy::place;
use kthena_e2e::noop::Decision;
use kthena_e2e::ports::Reserved;
use serde_json::json;

use crate::rig::{CHAT, LLAMA, QWEN, Rig, named, route, who};

const FILTERS: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";

fn with_control_headers(endpoint: &str) -> Ask {
    Ask::post(CHAT, "{}")
        .header("x-kthena-cluster", QWEN)
        .header("X-Gateway-Destination-Endpoint", endpoint)
        .header("x-gateway-destination-endpoint-subset", endpoint)
        .header("x-envoy-max-retries", "9")
        .header("x-envoy-retry-on", "5xx")
        .header("x-kthena-explain", "true")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decision_alone_chooses_and_no_control_header_reaches_the_model_server() {
    let (llama, other_llama, qwen) = (named("llama").await, named("other-llama").await, named("qwen").await);
    let clusters = [
        Cluster::new(LLAMA, [llama.address(), other_llama.address()]),
        Cluster::new(QWEN, [qwen.address()]),
    ];
    let rig = Rig::start(&clusters, route(LLAMA, &[llama.address()])).await;
    for _ in 0..10 {
        let answer = rig
            .client
            .send(with_control_headers(&other_llama.address().to_string()))
            .await
            .unwrap();
        assert_eq!(who(&answer), "llama");
    }
    let seen = llama.take_seen();
    assert_eq!(seen.len(), 10);
    let names: Vec<&str> = seen[0].headers.keys().map(http::HeaderName::as_str).collect();
    assert!(names.contains(&"x-kthena-explain"), "{names:?}");
    let leaked = names.iter().filter(|name| {
        name.starts_with("x-gateway-")
            || name.starts_with("x-envoy-max")
            || name.starts_with("x-envoy-retry")
            || **name == "x-kthena-cluster"
    });
    assert_eq!(leaked.count(), 0, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecided_request_goes_nowhere_whatever_the_client_says() {
    let qwen = named("qwen").await;
    let rig = Rig::start(&[Cluster::new(QWEN, [qwen.address()])], Decision::default()).await;
    let answer = rig
        .client
        .send(with_control_headers(&qwen.address().to_string()))
        .await
        .unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(qwen.take_seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_holds_when_the_processor_is_dead_and_the_filter_fails_open() {
    let qwen = named("qwen").await;
    let dead = Reserved::loopback().unwrap();
    let clusters = [
        Cluster::new(QWEN, [qwen.address()]),
        Cluster::new("nobody", [dead.address()]),
    ];
    let rig = Rig::start_changed(&clusters, Decision::default(), |configuration| {
        let filter = place(configuration, &format!("{FILTERS}/0/typed_config")).unwrap();
        filter["failure_mode_allow"] = json!(true);
        filter["grpc_service"]["envoy_grpc"]["cluster_name"] = json!("nobody");
    })
    .await;
    let answer = rig
        .client
        .send(with_control_headers(&qwen.address().to_string()))
        .await
        .unwrap();
    assert_eq!(answer.status, 404, "{}", answer.text());
    assert_eq!(
        rig.envoy.stats("failure_mode_allowed").await.unwrap()["http.llm.ext_proc.failure_mode_allowed"],
        1
    );
    assert_eq!(qwen.take_seen().len(), 0);
}
