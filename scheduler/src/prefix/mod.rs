//! Which endpoint already holds the beginning of a prompt.
//!
//! A prompt is reduced to a chain of block hashes while it passes (`chain`). Chains of the same text are equal in every
//! process, whatever the JSON around the text looked like. Nothing here fails: a short or empty prompt gives a short or
//! empty chain.

pub mod chain;
