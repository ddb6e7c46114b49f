//! A host that cannot hold heads, as its own wasm API has no word for it: with `hold: off` header and path decide, and nothing is probed.

use kthena_e2e::client::{Ask, Client};
use kthena_e2e::envoy::{Wasm, place};
use kthena_e2e::process::wait_until;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Change, Filter, Options, Part, System};
use serde_json::{Value, json};

use crate::documented::{OURS, assert_documented, documented};
use crate::{CHAT, SOON, group_of, last_received, llama, metric, new_question, send, start, wait_idle, who};

const MODEL: &str = "x-gateway-model-name";

/// Two models on an Envoy that does not hold heads.
async fn unholding() -> System {
    let mut options = llama(2);
    options.groups.push(Group::instant("qwen", "Qwen/Qwen2-7B", 1));
    options.routes.push(model_route("qwen", "qwen", "qwen"));
    start(Options {
        filter: Filter::Wasm(json!({"hold": "off", "state_wait_ms": 10_000, "shared_state_bytes": 0})),
        change_envoy: Change::new(|configuration| {
            let plugin = place(configuration, Wasm::PLUGIN).unwrap();
            plugin
                .as_object_mut()
                .unwrap()
                .remove("allow_on_headers_stop_iteration");
        }),
        ..options
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn header_or_path_names_the_model_and_the_body_passes_as_it_is() {
    let system = unholding().await;
    // The engine's own name: a body that is not read is not rewritten.
    let ask = || new_question("meta/llama");
    assert_eq!(group_of(&system, ask().header(MODEL, "llama")).await, "llama");
    assert_eq!(
        group_of(&system, new_question("Qwen/Qwen2-7B").header(MODEL, "qwen")).await,
        "qwen"
    );
    let path = Ask {
        path: format!("/m/llama{CHAT}?from=path"),
        ..ask().header(MODEL, "qwen")
    };
    assert_eq!(
        group_of(&system, path.clone()).await,
        "llama",
        "the path counts before the header"
    );
    let received = last_received(&system).await;
    assert_eq!(received.path, format!("{CHAT}?from=path"));
    assert_eq!(system.fleet().body(received.number).await.unwrap(), path.body);

    let long = json!({"model": "meta/llama", "messages": [{"role": "user", "content": "word ".repeat(400_000)}], "max_tokens": 1});
    let long = Ask::post(CHAT, long.to_string()).header(MODEL, "llama");
    assert_eq!(send(&system, long.clone()).await.status, 200);
    let received = last_received(&system).await;
    assert_eq!(system.fleet().body(received.number).await.unwrap(), long.body);

    let row = "the wasm filter with `hold: off`, and the head names no model";
    assert_documented(&system, &documented(OURS), row, &ask()).await;
    assert_eq!(send(&system, ask().header(MODEL, "nobody")).await.status, 404);
    let listed = send(&system, Ask::get("/v1/models")).await.json().unwrap();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2));
    wait_idle(&system, 0, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_said_once_in_the_log_and_in_a_metric() {
    let system = unholding().await;
    wait_until("the metric", SOON, async || {
        metric(&system, "kthena_hold_off").await > 0
    })
    .await
    .unwrap();
    assert_eq!(metric(&system, "kthena_unheld_total").await, 0, "nothing is probed");
    let log = std::fs::read_to_string(system.folder().join("envoy.log")).unwrap();
    assert_eq!(log.matches("hold is off").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_controller_is_held_and_goes_on_with_its_body_when_it_comes() {
    let mut system = unholding().await;
    system.kill(Part::Controller).unwrap();
    system.restart(Part::Envoy).await.unwrap();
    let (client, ask) = (
        Client::http1(system.address()),
        new_question("meta/llama").header(MODEL, "llama"),
    );
    let asked = ask.clone();
    let held = tokio::spawn(async move { client.send(asked).await });
    wait_until("a held request", SOON, async || {
        metric(&system, "kthena_held").await == 1
    })
    .await
    .unwrap();
    system.restart(Part::Controller).await.unwrap();
    let answer = held.await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(system.fleet().addresses("llama").contains(&who(&answer)));
    let received = last_received(&system).await;
    assert_eq!(system.fleet().body(received.number).await.unwrap(), ask.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn load_decides_among_the_endpoints_of_the_model() {
    let system = unholding().await;
    let mut served = std::collections::BTreeSet::new();
    for _ in 0..20 {
        served.insert(who(
            &send(&system, new_question("meta/llama").header(MODEL, "llama")).await
        ));
    }
    assert_eq!(served.len(), 2, "no prompt is known, so that both serve: {served:?}");
    let answer = send(&system, new_question("meta/llama").header(MODEL, "llama")).await;
    let body: Value = answer.json().unwrap();
    assert_eq!(body["model"], "meta/llama");
}
