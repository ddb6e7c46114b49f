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
mod spans;
mod traces;

pub(crate) use kthena_e2e::system::story::{CHAT, SOON, group_of, last_received, log_line, question, send, start, who};
