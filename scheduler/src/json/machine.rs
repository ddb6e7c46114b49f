//! Where a scan stands: the states that the parts of the scanner share.

use super::utf8::CutSequence;
use super::{JsonError, Kind, Want};

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// A value must begin.
    Value,
    /// A list has just opened: a value, or its end.
    FirstElement,
    /// An object has just opened: a key, or its end.
    FirstKey,
    /// After a comma in an object.
    Key,
    Colon,
    /// A value has ended within a container.
    After,
    InString {
        key: bool,
    },
    InNumber(Number),
    InLiteral {
        kind: Kind,
        seen: u8,
    },
    /// The top value has ended.
    End,
}

/// The resumable scanner.
#[derive(Debug, Clone)]
pub(crate) struct JsonScan {
    pub(super) state: State,
    /// Containers open.
    pub(super) depth: u32,
    /// Bit `i` is set if the container at level `i` is an object; bits from `depth` up are clear.
    pub(super) objects: u128,
    /// Bytes scanned before the slice at hand.
    pub(super) base: u64,
    pub(super) want: Want,
    pub(super) escape: Escape,
    /// The offset before which ids are read one by one.
    pub(super) ids_again_at: u64,
    pub(super) cut: CutSequence,
    /// Room to gather text in that has escapes; none before the first one.
    pub(super) gathered: Vec<u8>,
}

/// How far a number has come; named for what was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Start,
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigit,
}

impl Number {
    pub(super) fn may_end(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigit)
    }

    /// The state after `byte`, if the number goes on with it.
    #[inline]
    pub(super) fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Start, b'-') => Self::Minus,
            (Self::Start | Self::Minus, b'0') => Self::Zero,
            (Self::Start | Self::Minus, b'1'..=b'9') => Self::Integer,
            (Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::Exponent,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Exponent, b'+' | b'-') => Self::ExponentSign,
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigit, b'0'..=b'9') => Self::ExponentDigit,
            _ => return None,
        })
    }
}

/// How far an escape has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// Not in an escape.
    None,
    /// After `\`.
    Start,
    /// Within the digits of `\u`: how many were read, and their value. `high` is the surrogate before it, if it is the
    /// second escape of a pair.
    Hex { digits: u8, value: u16, high: Option<u16> },
    /// After `\u` and a high surrogate: a low one may follow.
    High(u16),
    /// The same, and a `\`.
    HighStart(u16),
}

pub(super) fn malformed(offset: u64, expected: &'static str) -> JsonError {
    JsonError::Malformed { offset, expected }
}
