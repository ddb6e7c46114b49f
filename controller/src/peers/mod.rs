//! The other controllers of the deployment: found by name, and followed, each over one stream (`proto/peers.proto` says what it carries).
//!
//! What must always hold: a controller does not follow itself, nor another one twice; every wait has a deadline; one that is silent for too long is
//! given up, and tried again for as long as its address is known. It fails by each controller being alone: its filters are served, its endpoints
//! observed, and what other filters do is not known.
//!
//! `publish` has the rest: what is told to those who follow, and what becomes of what others tell.

mod discover;
mod place;
mod session;

/// The messages of `proto/peers.proto` and the stubs, generated.
#[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
#[rustfmt::skip]
pub mod proto;

pub use discover::run;
pub use place::{Credentials, Place, Settings};
