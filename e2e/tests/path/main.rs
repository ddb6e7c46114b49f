//! Stories of the whole path: a client, a real Envoy, two ext_proc servers, the controller on a folder of YAML, simulated model servers.
//! Each file is one story; each test has a system of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

mod answers;
mod in_flight;
mod manifests;
mod routing;
mod traces;

use kthena_e2e::client::Ask;
use kthena_e2e::system::System;
use kthena_e2e::system::fleet::Received;
pub(crate) use kthena_e2e::system::story::{CHAT, SOON, log_line, send, start, who};
use serde_json::json;

/// A short question to a model.
fn question(model: &str) -> Ask {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "Who is there?"}], "max_tokens": 2});
    Ask::post(CHAT, body.to_string())
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
