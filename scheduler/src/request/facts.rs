//! What a request says, as far as a decision and the bytes we change need it.
//!
//! Spans are byte ranges of the body as it arrived; they stay right as long as nothing was spliced yet.

use std::ops::Range;

use super::ApiForm;
use crate::prefix::chain::BlockChain;

/// The facts of one scanned request body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFacts {
    /// The API the body was read as.
    pub form: ApiForm,
    /// The model that the client asks for.
    pub model: ModelField,
    /// The client wants a stream of events. `null` counts as false.
    pub stream: bool,
    /// `stream_options` as it stands in the body.
    pub stream_options: StreamOptions,
    /// The offset just after the `{` that opens the body, where a new field can be inserted (with a comma behind it: the
    /// object holds at least `model`).
    pub object_start: u64,
    /// The bound on generated tokens: `max_completion_tokens`, else `max_output_tokens`, else `max_tokens`. What is not
    /// an integer in range is left to the engine to refuse and is `None` here.
    pub max_tokens: Option<u64>,
    /// `cache_salt`: prompts with different salts share no cache.
    pub cache_salt: Option<Box<str>>,
    /// The prompt, reduced.
    pub prompt: Prompt,
    /// The length of the body, in bytes.
    pub body_bytes: u64,
}

/// The `model` field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelField {
    /// The name, decoded.
    pub name: Box<str>,
    /// The JSON string in the body, quotes included.
    pub span: Range<u64>,
}

/// The prompt, as far as a decision needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Decoded bytes of text: all that went into the chain but separators and token ids.
    pub text_bytes: u64,
    /// How many token ids the prompt holds, where it is given in ids.
    pub token_ids: Option<u64>,
    /// The base chain over the whole prompt.
    pub chain: BlockChain,
}

/// `stream_options` in the body, with what is needed to ask for usage without losing what the client set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamOptions {
    /// The field is not there.
    Absent,
    /// The field is `null`, at this span.
    Null(Range<u64>),
    /// The field is an object.
    Object {
        /// The offset just after its `{`.
        insert_at: u64,
        /// It has no fields.
        empty: bool,
        /// Its `include_usage`, where there is one.
        include_usage: Option<IncludeUsage>,
    },
    /// The field is of another type; the engine will say so.
    Invalid,
}

/// `stream_options.include_usage` in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncludeUsage {
    /// Where its value stands.
    pub span: Range<u64>,
    /// It is `true`.
    pub on: bool,
}
