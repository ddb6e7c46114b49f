//! One gRPC stream is one request.

mod conversation;
#[cfg(test)]
mod stories;

pub use conversation::{Conversation, News};
