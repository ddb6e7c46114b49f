//! How Envoy sends bodies on a stream.

/// How Envoy sends one direction's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyMode {
    /// Not at all.
    None,
    /// Whole, once. What an Envoy too old to say uses.
    #[default]
    Buffered,
    /// Chunk by chunk, each answered in turn.
    Streamed,
    /// Chunk by chunk; what goes on is what we send.
    FullDuplex,
    /// Whole up to a limit: a body may be cut, so we cannot decide on it.
    Partial,
}

/// The body modes of a stream, as Envoy says them in its first message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Of the request.
    pub request: BodyMode,
    /// Of the response.
    pub response: BodyMode,
}
