//! Why a body is refused. Every one of these is the client's to mend and becomes a 400.

use crate::json::JsonError;

/// Why a request body is refused; offsets are in bytes from the start of the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not JSON (RFC 8259).
    #[error("the body is not valid JSON: expected {expected} at byte {offset}")]
    Malformed {
        /// Where the first wrong byte is, or the length of the body where it ends too early.
        offset: u64,
        /// What could have stood there.
        expected: &'static str,
    },
    /// A second value, or anything else but white space, after the first.
    #[error("the body holds more than one JSON value: unexpected data at byte {offset}")]
    Trailing {
        /// Where the first byte too many is.
        offset: u64,
    },
    /// Containers nested deeper than the scanner follows.
    #[error("the body nests objects and lists deeper than {limit} levels at byte {offset}")]
    TooDeep {
        /// Where the container that is one too many opens.
        offset: u64,
        /// How many levels are allowed.
        limit: u32,
    },
    /// Bytes that are not UTF-8.
    #[error("the body is not valid UTF-8 at byte {offset}")]
    InvalidUtf8 {
        /// Where the invalid sequence starts.
        offset: u64,
    },
    /// The top value is a list, a string or another scalar.
    #[error("the body must be a JSON object")]
    NotAnObject,
    /// There is no `model` at the top level.
    #[error("`model` is missing")]
    ModelMissing,
    /// `model` is not a string.
    #[error("`model` must be a string")]
    ModelNotAString,
    /// `model` is empty or white space.
    #[error("`model` must not be blank")]
    ModelBlank,
    /// `model` stands there twice: parsers disagree which one counts, so it could be routed by one and served as the other.
    #[error("`model` is given twice, the second time at byte {offset}")]
    ModelTwice {
        /// Where the value of the second one starts.
        offset: u64,
    },
    /// A field that we read has a type that its API does not allow.
    #[error("`{field}` must be {expected}, see byte {offset}")]
    WrongType {
        /// The field at the top level.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// Where the wrong value starts.
        offset: u64,
    },
    /// The field that carries the prompt is missing, or holds neither text nor token ids.
    #[error("`{field}` is missing or empty")]
    EmptyPrompt {
        /// The field that should carry the prompt.
        field: &'static str,
    },
}

impl From<JsonError> for BodyError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Malformed { offset, expected } => Self::Malformed { offset, expected },
            JsonError::Trailing { offset } => Self::Trailing { offset },
            JsonError::TooDeep { offset, limit } => Self::TooDeep { offset, limit },
            JsonError::InvalidUtf8 { offset } => Self::InvalidUtf8 { offset },
        }
    }
}
