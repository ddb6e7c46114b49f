//! The state protocol: its messages, and their validated translation into snapshot, load and residency.
//!
//! What must always hold: nothing past this folder has seen a protobuf message; a resource that cannot be translated is
//! refused by name, with a reason, and leaves the rest untouched.

/// The messages of `proto/state.proto`, generated.
#[allow(missing_docs, clippy::all, rustdoc::all)]
#[rustfmt::skip]
pub mod proto;

pub mod counts;
mod endpoints;
mod loads;
mod outbox;
mod parts;
#[cfg(test)]
mod properties;
mod reports;
pub mod residency;
mod resources;
pub mod store;
#[cfg(test)]
mod stories;
pub mod subscriber;
#[cfg(test)]
mod testing;
mod translate;

/// The version of the protocol that filters and controllers of this build speak; one may be one off the other either way.
pub const PROTOCOL_MINOR: u32 = 0;

pub use outbox::OutboxLimits;
pub use store::{Applied, Counters, Limits, Store};
pub use subscriber::{Subscriber, SubscriberConfig};

/// Whether a namespace can have this name: an RFC 1123 label.
pub fn is_namespace(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = !name.starts_with('-') && !name.ends_with('-');
    (1..=63).contains(&name.len()) && ends && name.bytes().all(allowed)
}
