//! Stories of two controllers, each with filters of its own: filters decide on one picture, whichever controller they are connected to, and move on
//! when one goes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

/// What two ext_proc servers of one controller agree on, those of two controllers do.
#[path = "../faults/agree.rs"]
mod agree;
mod mixed;
mod moved;
mod observed;
#[path = "../faults/processor.rs"]
mod processor;

use kthena_e2e::process::wait_until;
pub(crate) use kthena_e2e::system::story::{CHAT, SOON, llama, new_question, send, who};
use kthena_e2e::system::{Options, Part, System};
use serde_json::Value;

/// Starts a system of two controllers, which follow each other; each has one of the ext_proc servers.
async fn start(options: Options) -> System {
    let mut system = kthena_e2e::system::story::start(Options {
        controllers: 2,
        ..options
    })
    .await;
    for number in 0..2 {
        wait_metric(&mut system, number, "kthena_controller_peers", |peers| peers == 1.0).await;
    }
    system
}

/// A metric of a controller, summed over its labels.
async fn metric(system: &mut System, controller: usize, name: &str) -> f64 {
    let page = system.one_controller(controller).unwrap().page("/metrics").await;
    kthena_e2e::exposition::sum(&page.unwrap_or_default(), name).unwrap_or_default()
}

async fn wait_metric(system: &mut System, controller: usize, name: &str, is_right: impl Fn(f64) -> bool) {
    let mut seen = 0.0;
    wait_until(&format!("{name} of controller {controller}"), SOON, async || {
        seen = metric(system, controller, name).await;
        is_right(seen)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen}"));
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

/// Waits until a question to the model is answered by 200 many times in a row, hence by every decider.
async fn wait_served(system: &System, model: &str) {
    let mut in_a_row = 0;
    wait_until(&format!("{model} to be served"), SOON, async || {
        let client = kthena_e2e::client::Client::http1(system.address());
        let served = client.send(new_question(model)).await;
        let served = served.is_ok_and(|answer| answer.status == 200);
        in_a_row = if served { in_a_row + 1 } else { 0 };
        in_a_row >= 8
    })
    .await
    .unwrap();
}
