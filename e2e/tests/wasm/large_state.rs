//! A state of 5 MB with a bad resource in it: all but the bad one serves, within the memory that a VM has, and also by a worker that begins
//! without a controller.

use kthena_e2e::client::Client;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Filter, Options, Part, System};
use serde_json::{Value, json};

use crate::{SOON, llama, metric, new_question, send, start};

const ROUTES: usize = 700;
/// The whole of it, bytes.
const STATE: usize = 5_000_000;
/// What a VM may use.
const MEMORY: u64 = 32 << 20;
const WORKERS: u32 = 2;

/// A route whose rules have long conditions that no request fulfils, and a last one that leads to the model.
fn large_route(number: usize) -> Value {
    let name = format!("large-{number}");
    let mut route = model_route(&name, &name, "llama");
    let target = route["spec"]["rules"][0].clone();
    let long = "nobody sends a header like this one, ".repeat(12);
    let rules = (0..15).map(|rule| {
        let mut unfulfilled = target.clone();
        unfulfilled["name"] = json!(format!("rule-{rule}"));
        unfulfilled["modelMatch"] =
            json!({"headers": {format!("x-{number}-{rule}"): {"exact": format!("{long}{rule}")}}});
        unfulfilled
    });
    route["spec"]["rules"] = rules.chain([target.clone()]).collect();
    route
}

/// What the controller takes and the filter's engine for regular expressions does not.
fn bad_route() -> Value {
    let mut route = model_route("bad", "bad", "llama");
    route["spec"]["rules"][0]["modelMatch"] = json!({"headers": {"x-name": {"regex": r"^\p{Greek}+$"}}});
    route
}

async fn serves(system: &System, model: &str) -> bool {
    let answer = Client::http1(system.address()).send(new_question(model)).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_megabytes_with_a_bad_resource_serve_within_a_vms_memory() {
    let system = start(Options {
        filter: Filter::Wasm(json!({"shared_state_bytes": 16 << 20, "state_wait_ms": 10_000})),
        workers: WORKERS,
        ..llama(2)
    })
    .await;
    let routes: Vec<Value> = (0..ROUTES).map(large_route).collect();
    let size: usize = routes.iter().map(|route| route.to_string().len()).sum();
    assert!(size > STATE, "{size}");
    system.manifests().write("bad.yaml", &[bad_route()]).unwrap();
    system.manifests().write("large.yaml", &routes).unwrap();
    let last = format!("large-{}", ROUTES - 1);
    // A row of good answers on connections of their own: every worker has it.
    let mut good = 0;
    wait_until("the last route at every worker", SOON, async || {
        good = if serves(&system, &last).await { good + 1 } else { 0 };
        good >= 8
    })
    .await
    .unwrap();
    assert_eq!(
        send(&system, new_question("bad")).await.status,
        404,
        "it has no last good version"
    );
    assert_eq!(send(&system, new_question("llama")).await.status, 200);
    wait_until("the refusal to be told", SOON, async || {
        metric(&system, "kthena_state_refused_total").await > 0
    })
    .await
    .unwrap();
    let status = system.debug(Part::Controller, "/debug/status").await.unwrap();
    assert!(
        status.contains("default/bad") || status.contains("\"bad\""),
        "the object's status names it"
    );

    // The whole again and again, as routes change.
    let kept = metric(&system, "kthena_state_kept_total").await;
    for round in 0..3 {
        let changed: Vec<Value> = (0..ROUTES)
            .map(|number| {
                let mut route = large_route(number);
                route["spec"]["rules"][0]["name"] = json!(format!("changed-{round}"));
                route
            })
            .collect();
        system.manifests().write("large.yaml", &changed).unwrap();
        wait_until("the change to be left for others", SOON, async || {
            metric(&system, "kthena_state_kept_total").await > kept + round
        })
        .await
        .unwrap();
    }
    assert!(serves(&system, &last).await);
    let memory = metric(&system, "kthena_memory_bytes").await;
    eprintln!("memory of {WORKERS} VMs and the one that serves nobody: {memory} bytes, of {size} bytes of state");
    assert!(memory <= MEMORY * u64::from(WORKERS), "{memory}");
    assert_eq!(metric(&system, "kthena_state_not_kept_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vm_has_no_memory_for_is_refused_by_name_and_the_rest_serves() {
    let configuration = json!({"memory_bytes": 8 << 20, "prefix_index_bytes": 4 << 20});
    let system = start(Options {
        filter: Filter::Wasm(configuration),
        workers: 1,
        ..llama(1)
    })
    .await;
    let routes: Vec<Value> = (0..ROUTES).map(large_route).collect();
    system.manifests().write("large.yaml", &routes).unwrap();
    wait_until("refusals", SOON, async || {
        metric(&system, "kthena_state_refused_total").await > 0
    })
    .await
    .unwrap();
    assert!(serves(&system, "llama").await, "what was there before stays");
    assert!(
        metric(&system, "kthena_state_refused_total").await < ROUTES as u64,
        "what there is room for is taken"
    );
    let memory = metric(&system, "kthena_memory_bytes").await;
    assert!(memory <= 16 << 20, "of this and the VM that serves nobody: {memory}");
    let log = std::fs::read_to_string(system.folder().join("envoy.log")).unwrap();
    assert!(
        log.contains("no room: all resources would have"),
        "{}",
        &log[log.len().saturating_sub(2_000)..]
    );
}
