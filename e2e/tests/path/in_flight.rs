//! What is in flight is told by model and by adapter while it lasts, and gone when it is over; what deciding costs is told by plugin.

use kthena_e2e::process::wait_until;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Options, Part, System};
use serde_json::{Value, json};

use crate::{SOON, question, send, start};

/// A base model and an adapter on one model server, whose answers take seconds.
async fn base_and_adapter() -> System {
    let mut route = model_route("llama", "llama", "llama");
    route["spec"]["loraAdapters"] = json!(["sql"]);
    start(Options {
        groups: vec![Group {
            adapters: vec!["sql".to_owned()],
            figures: "profile=test-nodelay,step_ms=20".to_owned(),
            ..Group::instant("llama", "meta/llama", 1)
        }],
        routes: vec![route],
        ext_procs: 1,
        ..Options::default()
    })
    .await
}

/// The one pod, as the ext_proc server sees it.
async fn pod(system: &System) -> Value {
    let page = system.debug(Part::ExtProc(0), "/debug/config_dump/pods").await.unwrap();
    serde_json::from_str::<Value>(&page).unwrap()["pods"][0].clone()
}

/// Waits until a line of the ext_proc server's metrics is this.
async fn wait_line(system: &mut System, line: &str) {
    let program = system.ext_proc(0).unwrap();
    wait_until(line, SOON, async || {
        let page = program.page("/metrics").await.unwrap();
        page.lines().any(|shown| shown == line)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted_by_model_and_adapter_until_they_are_over() {
    let mut system = base_and_adapter().await;
    let asked = [("llama", 1), ("sql", 2)];
    let mut open = Vec::new();
    for (model, requests) in asked {
        for _ in 0..requests {
            let mut body: Value = serde_json::from_slice(&question(model).body).unwrap();
            body["max_tokens"] = json!(500);
            let ask = kthena_e2e::client::Ask::post(crate::CHAT, body.to_string());
            let client = system.client().clone();
            open.push(tokio::spawn(async move { client.send(ask).await }));
        }
    }
    wait_until("all in flight", SOON, async || pod(&system).await["inFlightOwn"] == 3)
        .await
        .unwrap();
    let seen = pod(&system).await;
    assert_eq!(seen["inFlightOwnByAdapter"], json!({"sql": 2}), "{seen}");
    for (model, requests) in asked {
        let line = format!(r#"kthena_router_active_downstream_requests{{model="{model}"}} {requests}"#);
        wait_line(&mut system, &line).await;
    }
    // The controller's sum has them once: it comes back as what all deciders have.
    wait_until("the sum", SOON, async || pod(&system).await["inFlight"] == 3)
        .await
        .unwrap();

    open.iter().for_each(tokio::task::JoinHandle::abort);
    wait_until("none in flight", SOON, async || pod(&system).await["inFlight"] == 0)
        .await
        .unwrap();
    assert_eq!(pod(&system).await["inFlightOwnByAdapter"], json!({}));
    for (model, _) in asked {
        wait_line(
            &mut system,
            &format!(r#"kthena_router_active_downstream_requests{{model="{model}"}} 0"#),
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_some_decisions_it_is_told_what_each_plugin_costs() {
    let mut system = base_and_adapter().await;
    assert_eq!(send(&system, question("llama")).await.status, 200);
    for (plugin, role) in [
        ("least-request", "filter"),
        ("least-request", "score"),
        ("prefix-cache", "score"),
    ] {
        let labels = format!(r#"{{model="llama",plugin="{plugin}",type="{role}"}}"#);
        wait_line(
            &mut system,
            &format!("kthena_router_scheduler_plugin_duration_seconds_count{labels} 1"),
        )
        .await;
    }
}
