//! The base chain: a prompt as a list of block hashes, thinned to checkpoints.
//!
//! # The format, shared between processes and therefore stable
//!
//! The text stream of a prompt is cut into blocks of `block_bytes` bytes (default 64); the last block may be shorter and
//! counts. With `h_0 = 0`, `h_i = XXH3_64(seed = h_(i-1), bytes of block i)`. So `h_i` stands for everything up to block
//! `i`, and two prompts that share their first `n` bytes share `h_i` for every `i <= n / block_bytes`. The chain knows
//! neither model nor adapter nor salt: they are mixed in at look-up, because `model` may come last in a body.
//!
//! Only checkpoints are kept. Position `p` (in blocks, from 1) is one if `p < 32`, or if `p` is a multiple of
//! `2^(floor(log2 p) - 4)`, that is 16 in each octave, at distances that grow with the position; the final position is
//! one always. A prompt of 400 kB has 6,250 blocks and about 150 checkpoints, and a match found at one of them
//! understates the shared length by at most 1/16.
//!
//! What must hold: the chain depends on the bytes pushed alone, never on how they were cut. Nothing fails.

use std::num::NonZeroU32;

use twox_hash::XxHash3_64;

/// Bytes in a block where nothing else is configured: what an engine block of 16 tokens holds, at four bytes a token.
pub const DEFAULT_BLOCK_BYTES: NonZeroU32 = NonZeroU32::MIN.saturating_add(63);

/// Positions below this one (in blocks) are all checkpoints.
const DENSE_BLOCKS: u32 = 32;

/// Blocks that make up the head of a prompt: 512 bytes at the default block size.
const HEAD_BLOCKS: u32 = 8;

/// The hash of everything up to one position of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The position: how many blocks this hash covers, counted from 1.
    pub blocks: u32,
    /// `h_i` of that position.
    pub hash: u64,
}

/// The chain of one prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockChain {
    /// Bytes in a block; chains of different block sizes have nothing in common.
    pub block_bytes: u32,
    /// Blocks in the prompt; a last, partial block counts.
    pub blocks: u32,
    /// The checkpoints in ascending order; the last one covers all `blocks`. Empty for an empty prompt.
    pub checkpoints: Vec<Checkpoint>,
}

impl BlockChain {
    /// The hash of the first `min(blocks, 8)` blocks, which names the beginning of the prompt before anybody has seen it;
    /// `None` for an empty prompt. The position is below 32 and so always a checkpoint. A prompt shorter than eight
    /// blocks is its own head, partial block included.
    pub fn head(&self) -> Option<u64> {
        let index = self.blocks.min(HEAD_BLOCKS).checked_sub(1)?;
        self.checkpoints.get(index as usize).map(|checkpoint| checkpoint.hash)
    }
}

/// The checkpoint that follows position `blocks`, leaving the end of the prompt aside.
fn next_checkpoint(blocks: u32) -> u32 {
    let distance = if blocks < DENSE_BLOCKS {
        1
    } else {
        1 << (blocks.ilog2() - 4)
    };
    blocks.saturating_add(distance)
}

/// Builds the chain of a text that arrives in pieces.
#[derive(Debug, Clone)]
pub struct ChainBuilder {
    block_bytes: NonZeroU32,
    /// The beginning of a block whose end has not arrived; always shorter than a block.
    partial: Vec<u8>,
    hash: u64,
    blocks: u32,
    next: u32,
    checkpoints: Vec<Checkpoint>,
}

impl ChainBuilder {
    /// A builder for blocks of `block_bytes` bytes. Its memory is one block and the checkpoints.
    pub fn new(block_bytes: NonZeroU32) -> Self {
        Self {
            block_bytes,
            partial: Vec::new(),
            hash: 0,
            blocks: 0,
            next: 1,
            checkpoints: Vec::new(),
        }
    }

    /// Appends text. Whole blocks within `text` are hashed where they lie.
    pub fn push(&mut self, text: &[u8]) {
        let block_bytes = self.block_bytes.get() as usize;
        let mut rest = text;
        if !self.partial.is_empty() {
            let missing = block_bytes - self.partial.len();
            let Some((end, after)) = rest.split_at_checked(missing) else {
                self.partial.extend_from_slice(rest);
                return;
            };
            self.partial.extend_from_slice(end);
            let block = std::mem::take(&mut self.partial);
            self.close_block(&block);
            self.partial = block;
            self.partial.clear();
            rest = after;
        }
        let mut whole = rest.chunks_exact(block_bytes);
        for block in whole.by_ref() {
            self.close_block(block);
        }
        self.partial.extend_from_slice(whole.remainder());
    }

    /// Ends the chain.
    pub fn finish(mut self) -> BlockChain {
        if !self.partial.is_empty() {
            let block = std::mem::take(&mut self.partial);
            self.close_block(&block);
        }
        let tail = Checkpoint {
            blocks: self.blocks,
            hash: self.hash,
        };
        if self.blocks > 0 && self.checkpoints.last() != Some(&tail) {
            self.checkpoints.push(tail);
        }
        BlockChain {
            block_bytes: self.block_bytes.get(),
            blocks: self.blocks,
            checkpoints: self.checkpoints,
        }
    }

    #[inline]
    fn close_block(&mut self, block: &[u8]) {
        self.hash = XxHash3_64::oneshot_with_seed(self.hash, block);
        self.blocks = self.blocks.saturating_add(1);
        if self.blocks == self.next {
            self.checkpoints.push(Checkpoint {
                blocks: self.blocks,
                hash: self.hash,
            });
            self.next = next_checkpoint(self.blocks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(bytes: u32) -> NonZeroU32 {
        NonZeroU32::new(bytes).unwrap()
    }

    fn chain(bytes: u32, text: &[u8]) -> BlockChain {
        let mut builder = ChainBuilder::new(block(bytes));
        builder.push(text);
        builder.finish()
    }

    /// The definition, word for word, with no thinning.
    fn every_hash(bytes: usize, text: &[u8]) -> Vec<u64> {
        text.chunks(bytes)
            .scan(0, |hash, block| {
                *hash = XxHash3_64::oneshot_with_seed(*hash, block);
                Some(*hash)
            })
            .collect()
    }

    fn is_checkpoint(position: u32) -> bool {
        position < 32 || position.is_multiple_of(1 << (position.ilog2() - 4))
    }

    #[test]
    fn the_format_is_pinned_by_values_other_processes_compute_too() {
        let text: Vec<u8> = (0..150u8).collect();
        let chain = chain(64, &text);
        assert_eq!(chain.blocks, 3);
        assert_eq!(
            chain.checkpoints.iter().map(|c| (c.blocks, c.hash)).collect::<Vec<_>>(),
            PINNED.to_vec(),
            "a change of these values parts the replicas of a mixed fleet"
        );
    }

    const PINNED: [(u32, u64); 3] = [
        (1, 7_027_844_749_552_840_021),
        (2, 11_088_363_689_162_993_231),
        (3, 16_433_879_428_971_869_228),
    ];

    #[test]
    fn an_empty_prompt_has_no_head_and_no_checkpoint() {
        let chain = chain(64, b"");
        assert_eq!((chain.blocks, chain.head(), chain.checkpoints.len()), (0, None, 0));
    }

    #[test]
    fn the_head_covers_eight_blocks_or_all_of_a_short_prompt() {
        let long = chain(64, &[b'a'; 64 * 20]);
        assert_eq!(long.head(), Some(long.checkpoints[7].hash));
        let short = chain(64, &[b'a'; 70]);
        assert_eq!(short.head(), Some(short.checkpoints[1].hash));
    }

    #[test]
    fn distances_grow_with_the_position() {
        let chain = chain(1, &[0; 1000]);
        let positions: Vec<u32> = chain.checkpoints.iter().map(|c| c.blocks).collect();
        let expected: Vec<u32> = (1..=1000).filter(|p| is_checkpoint(*p) || *p == 1000).collect();
        assert_eq!(positions, expected);
        assert!(positions.len() < 120, "thinned, not listed: {}", positions.len());
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            text in proptest::collection::vec(any::<u8>(), 0..600),
            bytes in 1u32..80,
            cuts in proptest::collection::vec(0usize..600, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut builder = ChainBuilder::new(block(bytes));
            for pair in cuts.windows(2) {
                builder.push(&text[pair[0]..pair[1]]);
            }
            let built = builder.finish();
            prop_assert_eq!(&built, &chain(bytes, &text));
            let hashes = every_hash(bytes as usize, &text);
            prop_assert_eq!(built.blocks as usize, hashes.len());
            for checkpoint in &built.checkpoints {
                prop_assert_eq!(checkpoint.hash, hashes[checkpoint.blocks as usize - 1]);
            }
        }

        #[test]
        fn prompts_that_share_a_beginning_share_its_checkpoints_and_no_more(
            shared in proptest::collection::vec(any::<u8>(), 0..2000),
            left in proptest::collection::vec(any::<u8>(), 0..200),
            right in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = 8;
            let texts = [[shared.clone(), left].concat(), [shared, right].concat()];
            let same = texts[0].iter().zip(&texts[1]).take_while(|(a, b)| a == b).count();
            let chains = texts.map(|text| chain(bytes, &text));
            let whole = |chain: &BlockChain| chain.checkpoints.iter().copied()
                .filter(|c| c.blocks <= same as u32 / bytes && is_checkpoint(c.blocks)).collect::<Vec<_>>();
            prop_assert_eq!(whole(&chains[0]), whole(&chains[1]));
            let beyond = |chain: &BlockChain| chain.checkpoints.iter()
                .find(|c| c.blocks > same as u32 / bytes).map(|c| c.hash);
            if let (Some(a), Some(b)) = (beyond(&chains[0]), beyond(&chains[1])) {
                prop_assert!(a != b || chains[0] == chains[1]);
            }
        }
    }
}
