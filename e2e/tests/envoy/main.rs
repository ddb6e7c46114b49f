//! What the reference configuration makes of a real Envoy, shown with a processor that decides nothing by itself and with model servers
//! that do as they are told. Each file is one story.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

mod access_log;
mod body_sizes;
mod configuration;
mod control_headers;
mod local_replies;
mod processors;
mod retries;
mod rig;
