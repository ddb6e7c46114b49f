//! The only place that knows Envoy's protobuf types: messages in become events, what is decided becomes replies.
//!
//! What must always hold: every field that we act on is read here, and nothing of `envoy-types` appears in another
//! module's interface but the opaque message types that tonic hands over. A message that means nothing to us becomes
//! [`Event::Other`].

mod decode;
mod encode;
pub mod log;
mod modes;

pub use decode::{Event, decode};
pub use encode::{Change, Direction, Replies, To};
pub use modes::{BodyMode, Modes};
