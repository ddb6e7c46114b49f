//! Stories of what goes wrong, on the whole real system: bad input, and parts that die, hang or come back while requests are served.
//! Each file is one story; each test has a system of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

mod agree;
mod control_headers;
mod controller_killed;
mod documented;
mod drained;
mod ext_proc_killed;
mod hang;
mod health;
mod hot_restart;
mod load;
mod manifests;
mod older_filter;
mod refusals;
mod retries;
mod tls;
mod unavailable;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use kthena_e2e::client::{Answer, Ask};
use kthena_e2e::process::wait_until;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Options, Part, System};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// Patience for what takes milliseconds, on a machine that does much else.
const SOON: Duration = Duration::from_secs(20);

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

async fn start(options: Options) -> System {
    System::start(options).await.unwrap_or_else(|error| panic!("{error:#}"))
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

/// The pods as an ext_proc server sees them.
async fn pods(system: &System, replica: usize) -> Vec<Value> {
    let page = system.debug(Part::ExtProc(replica), "/debug/config_dump/pods").await;
    let page: Value = page
        .ok()
        .and_then(|page| serde_json::from_str(&page).ok())
        .unwrap_or_default();
    page["pods"].as_array().cloned().unwrap_or_default()
}

/// A gauge or counter without labels of an ext_proc server.
async fn gauge(system: &mut System, replica: usize, name: &str) -> Option<f64> {
    let page = system.ext_proc(replica).unwrap().page("/metrics").await.ok()?;
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    page.lines().find_map(value)
}

/// Waits until an ext_proc server knows these many pods and counts nothing in flight at any, neither itself nor from others.
async fn wait_idle(system: &System, replica: usize, endpoints: usize) {
    let mut seen = Vec::new();
    wait_until("no request in flight", SOON, async || {
        seen = pods(system, replica).await;
        let idle = |pod: &Value| pod["inFlight"].as_f64() == Some(0.0) && pod["inFlightOwn"].as_f64() == Some(0.0);
        seen.len() == endpoints && seen.iter().all(idle)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen:?}"));
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
