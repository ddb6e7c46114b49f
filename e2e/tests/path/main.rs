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

use std::net::Ipv4Addr;
use std::time::Duration;

use kthena_e2e::client::{Answer, Ask};
use kthena_e2e::system::fleet::Received;
use kthena_e2e::system::{Options, System};
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";

/// Patience for what takes milliseconds, on a machine that does much else.
const SOON: Duration = Duration::from_secs(20);

async fn start(options: Options) -> System {
    System::start(options).await.unwrap_or_else(|error| panic!("{error:#}"))
}

/// A short question to a model.
fn question(model: &str) -> Ask {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "Who is there?"}], "max_tokens": 2});
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
