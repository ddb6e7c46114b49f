//! Which endpoint already holds the beginning of a prompt.
//!
//! A prompt is reduced to a chain of block hashes while it passes (`chain`). Chains of the same text are equal in every
//! process, whatever the JSON around the text looked like. Mixed with what else makes a prompt differ (`keys`), its
//! checkpoints are what the `index` remembers of each endpoint. Nothing here fails: a short or empty prompt gives a short
//! or empty chain, and what the index does not know is a cold prompt.

pub mod chain;
mod index;
mod keys;
mod overlap;
mod shard;

pub use index::{Holder, IndexConfig, IndexStats, PrefixIndex};
pub use keys::{Key, keys};
pub use overlap::Overlap;
