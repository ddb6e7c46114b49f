//! How a profile uses the prefix index. Values only; checked where the plugin's arguments are.

use std::num::NonZeroU32;

/// Bytes that a token stands for on average, to translate an engine's capacity into blocks.
const BYTES_PER_TOKEN: u64 = 4;

/// How a profile keeps and asks the prefix index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residency {
    /// Bytes in a block.
    pub block_bytes: NonZeroU32,
    /// Blocks of a prompt that are looked at; `None` = all.
    pub max_blocks: Option<NonZeroU32>,
    /// Blocks remembered of one endpoint.
    pub capacity: NonZeroU32,
    /// Endpoints after which the search for shorter matches ends.
    pub top: NonZeroU32,
}

impl Residency {
    /// Blocks that an endpoint can hold: what its KV cache has room for, at most what is to be remembered.
    pub fn capacity_of(&self, kv_capacity_tokens: Option<u64>) -> u32 {
        let blocks = kv_capacity_tokens
            .map(|tokens| tokens.saturating_mul(BYTES_PER_TOKEN) / u64::from(self.block_bytes.get()))
            .unwrap_or(u64::MAX);
        u32::try_from(blocks).unwrap_or(u32::MAX).min(self.capacity.get())
    }
}
