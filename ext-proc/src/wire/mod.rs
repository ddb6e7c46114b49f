//! The only place that knows Envoy's protobuf types: messages in become events, what is decided becomes replies.
//!
//! What must always hold: every field that we act on is read here, and nothing of `envoy-types` appears in another
//! module's interface but the opaque message types that go through tonic. A message that means nothing to us becomes
//! [`Event::Other`].

mod body;
mod decode;
mod encode;
mod fields;
mod frames;
pub mod log;
pub(crate) mod message;
mod modes;
mod service;

pub use body::Body;
pub use decode::{Event, decode};
pub use encode::{Change, Direction, Replies, To};
pub use frames::{Messages, Pieces, Sent};
pub use message::{ProcessingRequest, ProcessingResponse};
pub use modes::{BodyMode, Modes};
pub use service::{Method, Process, StreamAccessLogs, Streams};
