//! ModelRoutes decide: by header, by weight, by adapter.

use kthena_e2e::client::Ask;
use kthena_e2e::system::Options;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use serde_json::{Value, json};

use crate::{CHAT, group_of, last_received, question, send, start};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rule_whose_headers_match_decides() {
    let mut route = model_route("llama", "llama", "small");
    let premium = json!({
        "name": "premium", "modelMatch": {"headers": {"x-user-type": {"exact": "premium"}}},
        "targetModels": [{"modelServerName": "large"}],
    });
    let rules = route["spec"]["rules"].as_array_mut().unwrap();
    rules.insert(0, premium);
    let system = start(Options {
        groups: vec![
            Group::instant("small", "meta/llama-8b", 1),
            Group::instant("large", "meta/llama-70b", 1),
        ],
        routes: vec![route],
        ..Options::default()
    })
    .await;
    assert_eq!(group_of(&system, question("llama")).await, "small");
    assert_eq!(
        group_of(&system, question("llama").header("x-user-type", "premium")).await,
        "large"
    );
    assert_eq!(
        group_of(&system, question("llama").header("x-user-type", "premium2")).await,
        "small"
    );
    let unknown = send(&system, question("gpt")).await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("route not found"), "{}", unknown.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_get_requests_by_weight() {
    let mut route = model_route("llama", "llama", "stable");
    route["spec"]["rules"][0]["targetModels"] = json!([
        {"modelServerName": "stable", "weight": 80}, {"modelServerName": "canary", "weight": 20},
    ]);
    let system = start(Options {
        groups: vec![
            Group::instant("stable", "meta/llama", 1),
            Group::instant("canary", "meta/llama-next", 1),
        ],
        routes: vec![route],
        ..Options::default()
    })
    .await;
    let mut canary = 0;
    for _ in 0..200 {
        canary += usize::from(group_of(&system, question("llama")).await == "canary");
    }
    // 40 are expected, with a standard deviation of 5.7: this is five of them on either side.
    assert!((12..=68).contains(&canary), "{canary} of 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_is_asked_for_by_its_name_and_keeps_it() {
    let mut route = model_route("llama", "llama", "llama");
    route["spec"]["loraAdapters"] = json!(["sql"]);
    let llama = Group {
        adapters: vec!["sql".to_owned()],
        ..Group::instant("llama", "meta/llama", 2)
    };
    let system = start(Options {
        groups: vec![llama],
        routes: vec![route],
        ..Options::default()
    })
    .await;
    for (asked, served) in [("sql", "sql"), ("llama", "meta/llama")] {
        let body = json!({"model": asked, "messages": [{"role": "user", "content": "select"}], "max_tokens": 1});
        let answer = send(&system, Ask::post(CHAT, body.to_string())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let received = last_received(&system).await;
        let body: Value = serde_json::from_slice(&system.fleet().body(received.number).await.unwrap()).unwrap();
        assert_eq!(body["model"], served);
    }
}
