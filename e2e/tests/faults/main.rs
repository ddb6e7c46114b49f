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
mod refusals;
mod retries;
mod scope;
mod tls;
mod unavailable;

use kthena_e2e::process::wait_until;
use kthena_e2e::system::System;
pub(crate) use kthena_e2e::system::story::{
    CHAT, SOON, fill, gauge, llama, log_line, new_question, one_at_a_time, pods, send, start, wait_idle, who,
};

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
