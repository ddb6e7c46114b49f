//! Stories of the controller on a real Kubernetes API server, with a real Envoy and a simulated fleet: what is applied is routed, what goes
//! wrong loses no request, and what broke is told. Each file is one story; each test has an API server of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

mod api_server_killed;
mod churn;
mod clocks;
mod containers;
mod controller_killed;
mod first_request;
mod kthena;
mod leader;
mod malformed;
mod namespaces;
mod peers;
mod pools;
mod readiness;
mod recreated;
mod rights;
mod status;

use std::net::Ipv4Addr;
use std::time::Duration;

use kthena_e2e::cluster;
use kthena_e2e::process::wait_until;
pub(crate) use kthena_e2e::system::story::{llama, new_question, question, send, start, who};
use kthena_e2e::system::{Options, Part, System};
use serde_json::Value;

/// What an API server and its watches take seconds for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The model `llama` on this many model servers, described by objects of an API server.
fn on_a_cluster(endpoints: u8) -> Options {
    Options {
        cluster: Some(cluster::Options::default()),
        ..llama(endpoints)
    }
}

/// The endpoints of all ModelServers as an ext_proc server knows them, sorted.
async fn known(system: &System, replica: usize) -> Vec<String> {
    let page = system.debug(Part::ExtProc(replica), "/debug/config_dump/pods").await;
    let page: Value = page
        .ok()
        .and_then(|page| serde_json::from_str(&page).ok())
        .unwrap_or_default();
    let pods = page["pods"].as_array().cloned().unwrap_or_default();
    let mut addresses: Vec<String> = pods
        .iter()
        .map(|pod| pod["address"].as_str().unwrap_or_default().to_owned())
        .collect();
    addresses.sort();
    addresses
}

/// Waits until both ext_proc servers know exactly these endpoints.
async fn wait_known(system: &System, addresses: &[Ipv4Addr]) {
    let port = system.fleet().port();
    let mut wanted: Vec<String> = addresses.iter().map(|ip| format!("{ip}:{port}")).collect();
    wanted.sort();
    let mut seen = Vec::new();
    wait_until(&format!("both filters to know {wanted:?}"), PATIENCE, async || {
        seen = vec![known(system, 0).await, known(system, 1).await];
        seen.iter().all(|one| *one == wanted)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen:?}"));
}

/// A metric of the controller, summed over its labels.
async fn metric(system: &mut System, name: &str) -> f64 {
    let page = system.controller().page("/metrics").await.unwrap();
    kthena_e2e::exposition::sum(&page, name).unwrap_or_default()
}

/// Everything that the controller has logged.
fn log(system: &mut System) -> String {
    let process = system.controller().process().unwrap();
    std::fs::read_to_string(process.log()).unwrap()
}
