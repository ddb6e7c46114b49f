//! Stories of what goes wrong, on the whole real system: bad input, and parts that die, hang or come back while requests are served.
//! Each file is one story; each test has a system of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

mod agree;
mod certificates;
mod control_headers;
mod controller_killed;
mod documented;
mod drained;
mod ext_proc_killed;
mod fail_open;
mod hang;
mod health;
mod hot_restart;
mod manifests;
mod older_filter;
mod processor;
mod refusals;
mod retries;
mod scope;
mod tls;
mod unavailable;

use kthena_e2e::process::wait_until;
pub(crate) use kthena_e2e::system::story::{
    CHAT, SOON, fill, llama, log_line, new_question, one_at_a_time, send, start, who,
};
use kthena_e2e::system::{Part, System};
use serde_json::Value;

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

/// Waits until Envoy has whom it asks.
async fn wait_deciders(system: &System) {
    system
        .wait_for_cluster("kthena-ext-proc", "membership_healthy", 2)
        .await
        .unwrap();
}

/// Waits until a question to the model is answered by this status four times in a row, hence by both ext_proc servers.
async fn wait_status(system: &System, model: &str, status: u16) {
    let mut in_a_row = 0;
    wait_until(&format!("{status} from {model}"), SOON, async || {
        let answer = send(system, new_question(model)).await;
        in_a_row = if answer.status == status { in_a_row + 1 } else { 0 };
        in_a_row >= 4
    })
    .await
    .unwrap();
}
