//! Prefix keys: what the index and the replicas call the beginning of a prompt.
//!
//! A key is a checkpoint of the base chain mixed with a context (ModelServer, adapter, salt), so that equal text under
//! two models is two prefixes. Keys travel between processes (`Placement`): the mixing is part of the protocol.

use super::chain::BlockChain;
use crate::draws::mix;

/// The beginning of a prompt, in one context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// What it is called, everywhere.
    pub hash: u64,
    /// Blocks since the key before it in the same prompt; summed up to here, the length of the beginning.
    pub span: u32,
}

/// The keys of a prompt, shortest beginning first, as far as `max_blocks` blocks.
pub fn keys(chain: &BlockChain, context: u64, max_blocks: u32) -> impl Iterator<Item = Key> {
    let mut before = 0;
    chain
        .checkpoints
        .iter()
        .take_while(move |checkpoint| checkpoint.blocks <= max_blocks)
        .map(move |checkpoint| {
            let span = checkpoint.blocks.saturating_sub(before);
            before = checkpoint.blocks;
            Key {
                hash: mix(context, checkpoint.hash),
                span,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::chain::Checkpoint;

    fn chain() -> BlockChain {
        let at = |blocks| Checkpoint {
            blocks,
            hash: u64::from(blocks),
        };
        BlockChain {
            block_bytes: 64,
            blocks: 7,
            checkpoints: vec![at(1), at(2), at(4), at(7)],
        }
    }

    #[test]
    fn spans_add_up_to_the_prompt_and_stop_at_the_bound() {
        let spans = |max| keys(&chain(), 0, max).map(|key| key.span).collect::<Vec<_>>();
        assert_eq!(spans(u32::MAX), [1, 1, 2, 3]);
        assert_eq!(spans(5), [1, 1, 2]);
    }

    #[test]
    fn another_context_is_another_prefix() {
        let in_context = |context| {
            keys(&chain(), context, u32::MAX)
                .map(|key| key.hash)
                .collect::<Vec<_>>()
        };
        assert!(in_context(1).iter().all(|key| !in_context(2).contains(key)));
    }

    #[test]
    fn the_mixing_is_pinned_as_replicas_of_other_versions_compute_it_too() {
        assert_eq!(mix(0x1234, 0x5678), PINNED);
    }

    const PINNED: u64 = 13_894_894_292_558_364_334;
}
