//! What Envoy answers by itself reads as a model server's error would; what the processor answers passes as it is.

use std::collections::BTreeMap;

use kthena_e2e::client::Ask;
use kthena_e2e::clusters::Cluster;
use kthena_e2e::noop::Decision;
use kthena_e2e::ports::Reserved;
use serde_json::json;

use crate::rig::{CHAT, LLAMA, Rig, named, route};

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_404_in_the_form_of_the_api() {
    let rig = Rig::start(&[], Decision::default()).await;
    let answer = rig.client.send(Ask::get("/nowhere")).await.unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(answer.header("content-type"), "application/json");
    let message = "nothing is served at this path";
    assert_eq!(
        answer.json().unwrap(),
        json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": "path_not_found"}})
    );
    let answer = rig.client.send(Ask::post("/v1/messages", "{}")).await.unwrap();
    assert_eq!(
        answer.json().unwrap(),
        json!({"type": "error", "error": {"type": "not_found_error", "message": message}})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reachable_model_server_is_503_that_says_when_to_come_back() {
    let refusing = Reserved::loopback().unwrap();
    let rig = Rig::start(
        &[Cluster::new(LLAMA, [refusing.address()])],
        route(LLAMA, &[refusing.address()]),
    )
    .await;
    let answer = rig.chat().await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("retry-after").as_str()),
        (503, "1")
    );
    let error = &answer.json().unwrap()["error"];
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("server_error"), &json!("no_endpoint"))
    );
    let answer = rig
        .client
        .send(Ask::post("/v1/messages?beta=true", "{}"))
        .await
        .unwrap();
    assert_eq!(answer.json().unwrap()["error"]["type"], "overloaded_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_processor_passes_word_for_word() {
    let words = r#"{"error":{"message":"route not found","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#;
    let metadata = BTreeMap::from([("error_type".to_owned(), "route_not_found".to_owned())]);
    let reply = Some((404, words.to_owned()));
    let rig = Rig::start(
        &[],
        Decision {
            reply,
            metadata,
            ..Decision::default()
        },
    )
    .await;
    let answer = rig.chat().await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (404, words));
    let line = rig.log_line(&answer.header("x-request-id")).await;
    assert_eq!(line["error"]["type"], "route_not_found");
    assert_eq!(line["error_origin"], "router");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_too_large_are_refused_with_words() {
    let pod = named("pod").await;
    let rig = Rig::start(&[Cluster::new(LLAMA, [pod.address()])], route(LLAMA, &[pod.address()])).await;
    let answer = rig
        .client
        .send(Ask::post(CHAT, "{}").header("x-large", &"a".repeat(70_000)))
        .await
        .unwrap();
    assert_eq!(answer.status, 431);
    assert_eq!(answer.json().unwrap()["error"]["type"], "invalid_request_error");
}
