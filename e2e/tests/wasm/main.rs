//! Stories of the wasm filter on a real Envoy. Those of the whole path and of bad input are the very ones that the ext_proc server has to
//! live up to, told again with the filter in its place; the others are about what only a filter can get wrong.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

mod agree;
#[path = "../path/answers.rs"]
mod answers;
mod by_head;
#[path = "../faults/control_headers.rs"]
mod control_headers;
mod controller;
mod counts;
mod crowd;
mod document;
#[path = "../faults/documented.rs"]
#[allow(dead_code, reason = "what Envoy answers by itself is a story of `faults` alone")]
mod documented;
mod drained;
mod ends;
#[path = "../faults/hang.rs"]
mod hang;
mod host;
#[path = "../faults/hot_restart.rs"]
mod hot_restart;
mod large_state;
#[path = "../path/manifests.rs"]
mod manifests;
#[path = "../faults/manifests.rs"]
mod many_manifests;
#[path = "../faults/refusals.rs"]
mod refusals;
mod residency;
#[path = "../faults/retries.rs"]
mod retries;
#[path = "../path/routing.rs"]
mod routing;
mod saturated;
#[path = "../path/spans.rs"]
mod spans;
mod traces;

use kthena_e2e::client::Client;
use kthena_e2e::process::wait_until;
pub(crate) use kthena_e2e::system::story::{
    CHAT, SOON, fill, group_of, last_received, llama, log_line, new_question, one_at_a_time, pods, question, send, who,
};
use kthena_e2e::system::{Filter, Options, Part, System};
use serde_json::{Value, json};

/// Starts a system that decides by the wasm filter. There are ext_proc servers, which nobody asks: they learn from the controller what all
/// deciders have in flight, and where they placed prompts, and have pages that show it.
async fn start(options: Options) -> System {
    let filter = match options.filter {
        Filter::ExtProc => Filter::Wasm(json!({"explain": true})),
        chosen => chosen,
    };
    kthena_e2e::system::story::start(Options { filter, ..options }).await
}

/// Requests in flight over all deciders, as the ext_proc server that looks on knows them; `None` while it does not know all pods.
async fn in_flight(system: &System, endpoints: usize) -> Option<f64> {
    let page = system.debug(Part::ExtProc(0), "/debug/config_dump/pods").await.ok()?;
    let page: Value = serde_json::from_str(&page).ok()?;
    let pods = page["pods"].as_array().filter(|pods| pods.len() == endpoints)?;
    Some(pods.iter().filter_map(|pod| pod["inFlight"].as_f64()).sum())
}

/// Waits until an ext_proc server knows these many pods and counts nothing in flight at any.
async fn wait_idle(system: &System, _: usize, endpoints: usize) {
    wait_in_flight(system, endpoints, 0.0).await;
}

/// Waits until Envoy has whom it asks: the filter is in it.
async fn wait_deciders(_: &System) {}

/// Waits until a question to the model is answered by this status many times in a row, hence by every worker.
async fn wait_status(system: &System, model: &str, status: u16) {
    let mut in_a_row = 0;
    wait_until(&format!("{status} from {model}"), SOON, async || {
        let answer = Client::http1(system.address()).send(new_question(model)).await.unwrap();
        in_a_row = if answer.status == status { in_a_row + 1 } else { 0 };
        in_a_row >= 8
    })
    .await
    .unwrap();
}

/// Waits until so many requests are in flight.
async fn wait_in_flight(system: &System, endpoints: usize, wanted: f64) {
    let mut seen = None;
    wait_until(&format!("{wanted} in flight"), SOON, async || {
        seen = in_flight(system, endpoints).await;
        seen == Some(wanted)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen:?}"));
}

/// A metric of the filter, summed over the workers.
async fn metric(system: &System, name: &str) -> u64 {
    let name = format!("wasmcustom.{name}");
    let stats = system.envoy().unwrap().stats(&name).await.unwrap_or_default();
    stats.get(&name).copied().unwrap_or(0)
}
