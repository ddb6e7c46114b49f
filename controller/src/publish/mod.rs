//! The state service: every filter's one source of configuration, endpoints and load, and the place where their reports
//! meet.
//!
//! Semantics of delta xDS over one stream a subscriber (`scheduler/proto/state.proto` says them field by field). What must
//! always hold: a body is serialised once for all; nothing is queued for a subscriber, what it misses is worked out when it
//! can take more, so a slow one skips to the newest and costs no memory; nothing in flight counts twice. It fails towards
//! one subscriber at a time: a refusal concerns one resource, a stream that breaks the rules is ended with a reason.
//!
//! Several controllers are one to their filters: `follower` and `following` tell the others what filters say here, `peer` takes what others tell.

mod access;
mod answered;
mod certificates;
mod changes;
mod followed;
mod follower;
mod following;
mod hub;
mod load;
mod merge;
mod peer;
mod placements;
mod progress;
mod resource;
mod scope;
mod service;
mod subscriber;
mod subscription;
mod view;

/// The gRPC server stub, generated.
#[allow(missing_docs, unreachable_pub, clippy::all, rustdoc::all)]
#[rustfmt::skip]
mod stub;

pub use crate::compile::{Key, Resource, Resources, by_key};
pub use access::{Access, AccessError, Address};
pub use certificates::{CertificateError, Tls};
pub use hub::{Hub, PeerBounds, Settings};
pub use merge::Bounds;
pub use peer::Peer;
pub use resource::MAX_MESSAGE;
pub use scope::{Namespaces, Rule, RuleError};
pub use service::{Server, Timeouts};
pub use view::{Acceptance, Answered, PeerView, SubscriberView};
