//! The base chain: a prompt as a list of block hashes, thinned to checkpoints.
//!
//! # The format, shared between processes and therefore stable
//!
//! The text stream of a prompt is cut into blocks of `block_bytes` bytes (default 64); the last block may be shorter and
//! counts. Position `p` (in blocks, from 1) is a checkpoint if `p < 32`, or if `p` is a multiple of
//! `2^(floor(log2 p) - 4)`, that is 16 in each octave, at distances that grow with the position; the final position is
//! one always. A prompt of 400 kB has 6,250 blocks and about 150 checkpoints, and a match found at one of them
//! understates the shared length by at most 1/16.
//!
//! What lies between two checkpoints is hashed in units of as many blocks as fit into `UNIT_BYTES` (1,024), at most the whole
//! distance, at least one block: a power of two, so that each checkpoint but the final one ends a unit. With `h_0 = 0`,
//! `h_n = XXH3_64(seed = h_(n-1), bytes of unit n)`, where the last unit may be cut short by the end of the prompt. So the
//! hash at a checkpoint stands for everything up to it, and two prompts that share their first `n` bytes share all
//! checkpoints within them. Units longer than a block are for speed alone: XXH3 is at its best from 256 bytes on, and
//! below that needs products of 128 bits, which WebAssembly lacks. The chain knows neither model nor adapter nor salt:
//! they are mixed in at look-up, because `model` may come last in a body.
//!
//! What must hold: the chain depends on the bytes pushed alone, never on how they were cut. Nothing fails.

use std::num::NonZeroU32;

/// Bytes in a block where nothing else is configured: what an engine block of 16 tokens holds, at four bytes a token.
pub const DEFAULT_BLOCK_BYTES: NonZeroU32 = NonZeroU32::MIN.saturating_add(63);

/// Positions below this one (in blocks) are all checkpoints.
const DENSE_BLOCKS: u32 = 32;

/// Blocks that make up the head of a prompt: 512 bytes at the default block size.
const HEAD_BLOCKS: u32 = 8;

/// Bytes that are hashed at once, at most, where a block is not longer.
const UNIT_BYTES: u32 = 1_024;

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

/// The distance from position `blocks` to the next checkpoint, leaving the end of the prompt aside.
fn distance(blocks: u32) -> u32 {
    if blocks < DENSE_BLOCKS {
        1
    } else {
        1 << (blocks.ilog2() - 4)
    }
}

/// XXH3 of a unit.
#[cfg(not(target_family = "wasm"))]
#[inline]
fn hash(seed: u64, unit: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot_with_seed(seed, unit)
}

/// The same, by the library that uses vector instructions of WebAssembly, for which the other one has none. That one in turn finds out
/// what the CPU at hand can do, which this one leaves to the build.
#[cfg(target_family = "wasm")]
#[inline]
fn hash(seed: u64, unit: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(unit, seed)
}

/// Builds the chain of a text that arrives in pieces.
#[derive(Debug, Clone)]
pub struct ChainBuilder {
    block_bytes: NonZeroU32,
    /// The most blocks in a unit, a power of two.
    most_blocks: u32,
    /// Room for a unit, and as large as the longest one so far; of the one at hand, the first `filled` bytes have arrived.
    unit: Vec<u8>,
    filled: usize,
    /// Bytes of the unit at hand.
    wanted: usize,
    hash: u64,
    blocks: u32,
    /// The next checkpoint.
    next: u32,
    checkpoints: Vec<Checkpoint>,
}

impl ChainBuilder {
    /// A builder for blocks of `block_bytes` bytes. Its memory is one unit and the checkpoints.
    pub fn new(block_bytes: NonZeroU32) -> Self {
        let most_blocks = 1 << (UNIT_BYTES / block_bytes).checked_ilog2().unwrap_or(0);
        Self {
            block_bytes,
            most_blocks,
            unit: vec![0; block_bytes.get() as usize],
            filled: 0,
            wanted: block_bytes.get() as usize,
            hash: 0,
            blocks: 0,
            next: 1,
            checkpoints: Vec::new(),
        }
    }

    /// Appends text. Whole units within `text` are hashed where they lie.
    #[inline]
    pub fn push(&mut self, text: &[u8]) {
        if text.len() < self.wanted - self.filled {
            copy(text, &mut self.unit[self.filled..]);
            self.filled += text.len();
        } else {
            self.push_ending(text);
        }
    }

    /// Appends text that ends the unit at hand.
    fn push_ending(&mut self, text: &[u8]) {
        let mut rest = text;
        if self.filled > 0 {
            let (end, after) = rest.split_at(self.wanted - self.filled);
            copy(end, &mut self.unit[self.filled..]);
            self.hash = hash(self.hash, &self.unit[..self.wanted]);
            self.close_unit();
            rest = after;
        }
        while let Some((unit, after)) = rest.split_at_checked(self.wanted) {
            self.hash = hash(self.hash, unit);
            self.close_unit();
            rest = after;
        }
        copy(rest, &mut self.unit);
        self.filled = rest.len();
    }

    /// Ends the chain.
    pub fn finish(mut self) -> BlockChain {
        let block_bytes = self.block_bytes.get();
        if self.filled > 0 {
            self.hash = hash(self.hash, &self.unit[..self.filled]);
            let blocks = self.filled.div_ceil(block_bytes as usize);
            self.blocks = self.blocks.saturating_add(u32::try_from(blocks).unwrap_or(u32::MAX));
        }
        let tail = Checkpoint {
            blocks: self.blocks,
            hash: self.hash,
        };
        if self.blocks > 0 && self.checkpoints.last() != Some(&tail) {
            self.checkpoints.push(tail);
        }
        BlockChain {
            block_bytes,
            blocks: self.blocks,
            checkpoints: self.checkpoints,
        }
    }

    /// A unit was hashed: notes the checkpoint that it ends, if it does, and opens the next one.
    #[inline]
    fn close_unit(&mut self) {
        let block_bytes = self.block_bytes.get() as usize;
        self.filled = 0;
        self.blocks = self.blocks.saturating_add((self.wanted / block_bytes) as u32);
        if self.blocks >= self.next {
            self.checkpoints.push(Checkpoint {
                blocks: self.blocks,
                hash: self.hash,
            });
            let distance = distance(self.blocks);
            self.next = self.blocks.saturating_add(distance);
            self.wanted = distance.min(self.most_blocks) as usize * block_bytes;
            if self.unit.len() < self.wanted {
                self.unit.resize(self.wanted, 0);
            }
        }
    }
}

/// Copies bytes to the beginning of a place that has room for them. Between escapes pieces are short, and a call that
/// copies any number of bytes costs more than these do.
#[inline]
fn copy(from: &[u8], to: &mut [u8]) {
    let (pieces, rest) = from.as_chunks::<16>();
    let (places, _) = to[..from.len()].as_chunks_mut::<16>();
    for (place, piece) in places.iter_mut().zip(pieces) {
        *place = *piece;
    }
    let done = from.len() - rest.len();
    for (place, byte) in to[done..].iter_mut().zip(rest) {
        *place = *byte;
    }
}

#[cfg(test)]
mod tests {
    use twox_hash::XxHash3_64;

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

    #[test]
    fn a_unit_has_the_same_hash_in_every_build() {
        let text: Vec<u8> = (0..2_048_u32).map(|n| (n * 131 % 251) as u8).collect();
        for length in 0..text.len() {
            let (seed, unit) = ((length as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), &text[..length]);
            assert_eq!(
                hash(seed, unit),
                xxhash_rust::xxh3::xxh3_64_with_seed(unit, seed),
                "{length} bytes"
            );
        }
    }

    /// The definition, word for word: the checkpoints of a prompt that is at hand as a whole.
    fn by_definition(bytes: usize, text: &[u8]) -> Vec<Checkpoint> {
        let (mut at, mut hash) = (0, 0);
        let mut checkpoints = Vec::new();
        while at < text.len() {
            let from = u32::try_from(at / bytes).unwrap();
            let most = (1..=1_024 / bytes.min(1_024))
                .filter(|n| n.is_power_of_two())
                .max()
                .unwrap();
            let to = (from + 1..).find(|blocks| is_checkpoint(*blocks)).unwrap();
            let unit = (to - from).min(u32::try_from(most).unwrap()) as usize * bytes;
            let end = text.len().min(at + unit);
            hash = XxHash3_64::oneshot_with_seed(hash, &text[at..end]);
            at = end;
            let blocks = u32::try_from(at.div_ceil(bytes)).unwrap();
            if at == text.len() || is_checkpoint(blocks) {
                checkpoints.push(Checkpoint { blocks, hash });
            }
        }
        checkpoints
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
            text in proptest::collection::vec(any::<u8>(), 0..6_000),
            bytes in prop_oneof![1u32..80, 500u32..1_100],
            cuts in proptest::collection::vec(0usize..6_000, 0..8),
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
            prop_assert_eq!(built.blocks as usize, text.len().div_ceil(bytes as usize));
            prop_assert_eq!(built.checkpoints, by_definition(bytes as usize, &text));
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
