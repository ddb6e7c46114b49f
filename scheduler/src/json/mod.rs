//! A JSON scanner that can stop after any byte and go on with the next chunk.
//!
//! It knows the grammar (RFC 8259) and nothing of meaning: a [`Visit`] is told of every value and says what it wants to
//! hear of it. No tree is built, nothing is buffered but a cut UTF-8 sequence, nesting is an explicit stack of bits.
//! What must hold: the events depend on the bytes alone, never on how they were cut, except that text arrives in pieces.
//! It fails at the first byte that no valid continuation could follow; after an error it must not be fed again.

mod bits;
mod escape;
mod ids;
mod machine;
mod number;
mod scan;
mod string;
mod utf8;

pub(crate) use machine::JsonScan;

/// How many containers may be open at once.
pub(crate) const MAX_DEPTH: u32 = 128;

/// Why bytes are not one JSON value; offsets count from the first byte fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JsonError {
    Malformed { offset: u64, expected: &'static str },
    Trailing { offset: u64 },
    TooDeep { offset: u64, limit: u32 },
    InvalidUtf8 { offset: u64 },
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The name of an object's field; the next value is the field's.
    Key,
    String,
    Number,
    True,
    False,
    Null,
    Object,
    Array,
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    /// Containers open around it: 0 for the top value.
    pub(crate) depth: u32,
    /// No object is open around it but the top one: it is a field's value, or lies in lists within one.
    pub(crate) in_lists: bool,
    /// Its first byte when it begins, the byte after it when it ends.
    pub(crate) offset: u64,
}

/// What a visitor wants to hear of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// Its end.
    End,
    /// Its text too: a string decoded, a number as it is spelled.
    Text,
    /// For a number in a list: it and its successors may come as [`Visit::ids`]; those that do neither begin nor end.
    /// Where they do not, its text.
    Ids,
}

/// Told of the values of a document, in its order.
pub(crate) trait Visit {
    type Error: From<JsonError>;

    /// A value begins.
    fn begin(&mut self, kind: Kind, at: At) -> Result<Want, Self::Error>;

    /// A piece of the text that was wanted; pieces may be empty and may cut characters.
    fn text(&mut self, piece: &[u8]);

    /// Integers of a list that fit `u32`, four little-endian bytes each.
    fn ids(&mut self, little_endian: &[u8]);

    /// A value ended.
    fn end(&mut self, kind: Kind, at: At) -> Result<(), Self::Error>;
}
