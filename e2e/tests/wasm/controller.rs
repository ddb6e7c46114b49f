//! The controller comes late, goes and comes back: requests are held for it up to a bound, then told, and served by what is known.

use std::time::Duration;

use kthena_e2e::client::{Ask, Client};
use kthena_e2e::envoy::place;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Change, Filter, Options, Part};
use serde_json::{Value, json};

use crate::host::{change_plugin, dynamic};
use crate::{CHAT, SOON, last_received, llama, metric, new_question, send, start, wait_in_flight};

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_controller_costs_nothing_and_a_restarted_one_takes_up_changes_again() {
    let mut system = start(llama(3)).await;
    for _ in 0..20 {
        assert_eq!(send(&system, new_question("llama")).await.status, 200);
    }
    wait_until("the stream to be told", SOON, async || {
        metric(&system, "kthena_connected").await > 0
    })
    .await
    .unwrap();
    system.kill(Part::Controller).unwrap();
    wait_until("the loss to be told", SOON, async || {
        metric(&system, "kthena_connected").await == 0
    })
    .await
    .unwrap();
    assert!(metric(&system, "kthena_synced").await > 0);
    for _ in 0..50 {
        assert_eq!(send(&system, new_question("llama")).await.status, 200);
    }
    system.restart(Part::Controller).await.unwrap();
    let more = model_route("second", "llama-2", "llama");
    system.manifests().write("more.yaml", &[more]).unwrap();
    let mut good = 0;
    wait_until("the new model at every worker", SOON, async || {
        let answer = Client::http1(system.address()).send(new_question("llama-2")).await;
        good = if answer.is_ok_and(|answer| answer.status == 200) {
            good + 1
        } else {
            0
        };
        good >= 12
    })
    .await
    .unwrap();
    wait_in_flight(&system, 3, 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_controller_requests_are_held_up_to_a_bound_and_served_when_it_comes() {
    // No multiple of the second after which the filter tells what it holds: else it may tell each time just after both were answered.
    let configuration = json!({"explain": true, "state_wait_ms": 1_700, "max_held": 3, "shared_state_bytes": 0});
    let mut system = start(Options {
        filter: Filter::Wasm(configuration),
        workers: 1,
        ..llama(2)
    })
    .await;
    system.kill(Part::Controller).unwrap();
    system.restart(Part::Envoy).await.unwrap();

    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = Client::http1(system.address());
        asked.spawn(async move { client.send(new_question("llama")).await });
    }
    while let Some(answer) = asked.join_next().await {
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.json().unwrap()["error"]["code"], "no_state");
        assert_eq!(answer.header("retry-after"), "1");
    }

    // A small question, and one whose body comes in many pieces and is rewritten at its end once the state is there.
    let long = json!({
        "messages": [{"role": "user", "content": "word ".repeat(100_000)}], "max_tokens": 2, "model": "llama",
    });
    let mut asks = vec![new_question("llama"), Ask::post(CHAT, long.to_string())];
    let mut held = tokio::task::JoinSet::new();
    for ask in &mut asks {
        ask.within = Duration::from_secs(30);
        let (client, ask) = (Client::http1(system.address()), ask.clone());
        held.spawn(async move {
            // Those that ran out of time ask again, as a client would.
            loop {
                let answer = client.send(ask.clone()).await.unwrap();
                if answer.status != 503 {
                    return answer;
                }
            }
        });
    }
    wait_until("requests to be held", SOON, async || {
        metric(&system, "kthena_held").await == 2
    })
    .await
    .unwrap();
    system.restart(Part::Controller).await.unwrap();
    while let Some(answer) = held.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    for received in system.fleet().received(0).await.unwrap().iter().rev().take(2) {
        let body = system.fleet().body(received.number).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["model"], "meta/llama");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_replaces_another_while_the_controller_is_away_serves_what_was_left() {
    let mut system = start(dynamic(llama(2))).await;
    let ask = || new_question("llama").header("x-kthena-explain", "1");
    assert_ne!(send(&system, ask()).await.header("x-kthena-explanation"), "");
    wait_until("the state to be left", SOON, async || {
        metric(&system, "kthena_state_kept_total").await > 0
    })
    .await
    .unwrap();
    system.kill(Part::Controller).unwrap();
    for is_new_code in [false, true] {
        let configuration = json!({"explain": is_new_code, "state_wait_ms": 0});
        change_plugin(&system, &configuration, is_new_code).await;
        let client = Client::http1(system.address());
        wait_until("an answer under the new configuration", SOON, async || {
            let answer = client.send(ask()).await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.header("x-kthena-explanation").is_empty() != is_new_code
        })
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_operator_wants_it_requests_without_state_go_on_to_a_route_of_his_own() {
    let own_route = |configuration: &mut Value| {
        let routes = format!("{}/route_config/virtual_hosts/0/routes", MANAGER);
        let routes = place(configuration, &routes).unwrap().as_array_mut().unwrap();
        routes.last_mut().unwrap()["route"] = json!({"cluster_header": "x-my-own"});
    };
    let mut system = start(Options {
        filter: Filter::Wasm(json!({"state_wait_ms": 300, "when_no_state": "pass", "shared_state_bytes": 0})),
        change_envoy: Change::new(own_route),
        workers: 1,
        ..llama(1)
    })
    .await;
    system.kill(Part::Controller).unwrap();
    system.restart(Part::Envoy).await.unwrap();
    let own = system.cluster("llama");
    let ask = new_question("meta/llama")
        .header("x-my-own", &own)
        .header("x-kthena-cluster", "forged");
    let answer = Client::http1(system.address()).send(ask.clone()).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let received = last_received(&system).await;
    assert_eq!(received.header("x-kthena-cluster"), "");
    assert_eq!(system.fleet().body(received.number).await.unwrap(), ask.body);
    wait_until("the metric", SOON, async || {
        metric(&system, "kthena_undecided_total").await == 1
    })
    .await
    .unwrap();
    let log = std::fs::read_to_string(system.folder().join("envoy.log")).unwrap();
    assert!(log.contains("requests go on undecided"), "{log}");
}
