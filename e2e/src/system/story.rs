//! What stories about a [`System`] say again and again. A story's helper fails the story: it panics, and says why.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story's helper fails by panicking")]

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use super::{Options, System};
use crate::client::{Answer, Ask};
use crate::process::wait_until;

/// The path of chat completions.
pub const CHAT: &str = "/v1/chat/completions";

/// Patience for what takes milliseconds, on a machine that does much else.
pub const SOON: Duration = Duration::from_secs(20);

/// Starts a system.
///
/// # Panics
/// When it does not start.
pub async fn start(options: Options) -> System {
    System::start(options).await.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Sends a request through Envoy.
///
/// # Panics
/// When there is no whole answer.
pub async fn send(system: &System, ask: Ask) -> Answer {
    let answer = system.client().send(ask).await;
    answer.unwrap_or_else(|error| panic!("{error:#}"))
}

/// The address of the model server that answered.
///
/// # Panics
/// When none did.
#[must_use]
pub fn who(answer: &Answer) -> Ipv4Addr {
    let endpoint = answer.header("x-simulator-endpoint");
    let address = endpoint.split(':').next().unwrap_or_default();
    address
        .parse()
        .unwrap_or_else(|_| panic!("{}: {}", answer.status, answer.text()))
}

/// The access-log line of a request, by its `x-request-id`; Envoy writes lines after the answer.
///
/// # Panics
/// When none is written in time.
pub async fn log_line(system: &System, request_id: &str) -> Value {
    let mut found = None;
    wait_until(&format!("the access-log line of {request_id}"), SOON, async || {
        let lines = system.envoy().unwrap().access_log().await.unwrap_or_default();
        found = lines.into_iter().find(|line| line["request_id"] == request_id);
        found.is_some()
    })
    .await
    .unwrap();
    found.unwrap_or_default()
}
