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
mod controller;
mod document;
#[path = "../faults/documented.rs"]
#[allow(dead_code, reason = "what Envoy answers by itself is a story of `faults` alone")]
mod documented;
mod ends;
mod host;
#[path = "../faults/hot_restart.rs"]
mod hot_restart;
#[path = "../faults/load.rs"]
#[allow(dead_code, reason = "when requests were lost is looked at in `faults` alone")]
mod load;
#[path = "../path/manifests.rs"]
mod manifests;
#[path = "../faults/refusals.rs"]
mod refusals;
#[path = "../faults/retries.rs"]
mod retries;
#[path = "../path/routing.rs"]
mod routing;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use kthena_e2e::client::{Answer, Ask};
use kthena_e2e::process::wait_until;
use kthena_e2e::system::fleet::{Group, Received};
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Filter, Options, Part, System};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// Patience for what takes milliseconds, on a machine that does much else.
const SOON: Duration = Duration::from_secs(20);

/// Starts a system that decides by the wasm filter. There are ext_proc servers, which nobody asks: they learn from the controller what all
/// deciders have in flight, and where they placed prompts, and have pages that show it.
async fn start(options: Options) -> System {
    let filter = match options.filter {
        Filter::ExtProc => Filter::Wasm(json!({"explain": true})),
        chosen => chosen,
    };
    let options = Options { filter, ..options };
    System::start(options).await.unwrap_or_else(|error| panic!("{error:#}"))
}

/// The model `llama` on this many model servers, whose answers take some 20 ms.
fn llama(endpoints: u8) -> Options {
    let group = Group {
        figures: "profile=test-nodelay,step_ms=5".to_owned(),
        ..Group::instant("llama", "meta/llama", endpoints)
    };
    Options {
        groups: vec![group],
        routes: vec![model_route("llama", "llama", "llama")],
        ..Options::default()
    }
}

/// A short question to a model.
fn question(model: &str) -> Ask {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "Who is there?"}], "max_tokens": 2});
    Ask::post(CHAT, body.to_string())
}

/// A question that nobody has asked before, and so has no home yet.
fn new_question(model: &str) -> Ask {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let number = ASKED.fetch_add(1, Relaxed);
    let prompt = format!("Question {number} of its own kind. ").repeat(100);
    let body = json!({"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 4});
    Ask::post(CHAT, body.to_string())
}

async fn send(system: &System, ask: Ask) -> Answer {
    system
        .client()
        .send(ask)
        .await
        .unwrap_or_else(|error| panic!("{error:#}"))
}

/// The address of the model server that answered.
fn who(answer: &Answer) -> Ipv4Addr {
    let endpoint = answer.header("x-simulator-endpoint");
    let address = endpoint.split(':').next().unwrap_or_default();
    address
        .parse()
        .unwrap_or_else(|_| panic!("{}: {}", answer.status, answer.text()))
}

/// Asks a model, and tells which group of the fleet answered.
async fn group_of(system: &System, ask: Ask) -> String {
    let address = who(&send(system, ask).await);
    let groups = system.fleet().groups().iter();
    let mut found = groups.filter(|group| system.fleet().addresses(&group.name).contains(&address));
    found.next().unwrap().name.clone()
}

/// The newest request that a model server received.
async fn last_received(system: &System) -> Received {
    system.fleet().received(0).await.unwrap().pop().unwrap()
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

/// The access-log line of a request; Envoy writes lines after the answer.
async fn log_line(system: &System, answer: &Answer) -> Value {
    let id = answer.header("x-request-id");
    let mut found = None;
    wait_until(&format!("the access-log line of {id}"), SOON, async || {
        let lines = system.envoy().unwrap().access_log().await.unwrap_or_default();
        found = lines.into_iter().find(|line| line["request_id"] == id);
        found.is_some()
    })
    .await
    .unwrap();
    found.unwrap()
}
