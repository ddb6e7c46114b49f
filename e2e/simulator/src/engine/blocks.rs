//! The KV cache: a fixed number of blocks, found again by the hash of the prefix that they hold.
//!
//! A block is either held by at least one sequence, or it waits in the eviction list, oldest first, still holding what
//! it held. Taking a block means evicting the oldest waiting one. What must always hold: a held block is never evicted;
//! `free()` is the length of the eviction list; a hash leads to a block that carries that hash. Two blocks may hold the
//! same content (both were being computed at once); then only the first can be found.

use std::collections::HashMap;

use super::prompt::BlockHash;

/// The index of a block in the pool.
pub(crate) type BlockId = u32;

/// End of the eviction list.
const NONE: BlockId = BlockId::MAX;

#[derive(Debug, Clone)]
struct Block {
    hash: Option<BlockHash>,
    holders: u32,
    older: BlockId,
    newer: BlockId,
}

/// All blocks of one engine.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    by_hash: HashMap<BlockHash, BlockId>,
    oldest: BlockId,
    newest: BlockId,
    free: u32,
}

impl BlockPool {
    /// An empty cache of `capacity` blocks.
    pub(crate) fn new(capacity: u32) -> Self {
        let mut pool = Self {
            blocks: vec![
                Block {
                    hash: None,
                    holders: 0,
                    older: NONE,
                    newer: NONE
                };
                capacity as usize
            ],
            by_hash: HashMap::new(),
            oldest: NONE,
            newest: NONE,
            free: 0,
        };
        for id in 0..capacity {
            pool.enqueue(id);
        }
        pool
    }

    /// How many blocks nobody holds (they may still hold content that can be found).
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// How many blocks there are.
    pub(crate) fn capacity(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// How many of the leading `hashes` are in the cache.
    pub(crate) fn hits(&self, hashes: &[BlockHash]) -> usize {
        hashes.iter().take_while(|hash| self.by_hash.contains_key(hash)).count()
    }

    /// How many of the blocks of `hashes`, all of them in the cache, nobody holds: holding them costs that many.
    pub(crate) fn unheld(&self, hashes: &[BlockHash]) -> u32 {
        let unheld = |hash: &&BlockHash| {
            self.by_hash
                .get(hash)
                .is_some_and(|id| self.blocks[*id as usize].holders == 0)
        };
        hashes.iter().filter(unheld).count() as u32
    }

    /// Holds the cached block of `hash`.
    pub(crate) fn hold_cached(&mut self, hash: BlockHash) -> Option<BlockId> {
        let id = *self.by_hash.get(&hash)?;
        if self.blocks[id as usize].holders == 0 {
            self.dequeue(id);
        }
        self.blocks[id as usize].holders += 1;
        Some(id)
    }

    /// Evicts the oldest block and holds it, empty. `None` when all blocks are held.
    pub(crate) fn hold_new(&mut self) -> Option<BlockId> {
        if self.oldest == NONE {
            return None;
        }
        let id = self.oldest;
        self.dequeue(id);
        let block = &mut self.blocks[id as usize];
        block.holders = 1;
        if let Some(hash) = block.hash.take() {
            self.by_hash.remove(&hash);
        }
        Some(id)
    }

    /// Makes the content of a held block findable. A hash that is already known stays with its block.
    pub(crate) fn publish(&mut self, id: BlockId, hash: BlockHash) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.by_hash.entry(hash) {
            entry.insert(id);
            self.blocks[id as usize].hash = Some(hash);
        }
    }

    /// Lets go of the blocks of one sequence. Its last block is evicted first, since a prefix is of use without its
    /// continuation and not the other way round.
    pub(crate) fn release(&mut self, ids: &[BlockId]) {
        for &id in ids.iter().rev() {
            let block = &mut self.blocks[id as usize];
            block.holders -= 1;
            if block.holders == 0 {
                self.enqueue(id);
            }
        }
    }

    fn enqueue(&mut self, id: BlockId) {
        let previous = self.newest;
        let block = &mut self.blocks[id as usize];
        block.older = previous;
        block.newer = NONE;
        match previous {
            NONE => self.oldest = id,
            _ => self.blocks[previous as usize].newer = id,
        }
        self.newest = id;
        self.free += 1;
    }

    fn dequeue(&mut self, id: BlockId) {
        let Block { older, newer, .. } = self.blocks[id as usize];
        match older {
            NONE => self.oldest = newer,
            _ => self.blocks[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.blocks[newer as usize].older = older,
        }
        self.free -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(pool: &mut BlockPool, hashes: &[BlockHash]) -> Vec<BlockId> {
        let ids: Vec<_> = hashes.iter().map(|_| pool.hold_new().unwrap()).collect();
        for (id, hash) in ids.iter().zip(hashes) {
            pool.publish(*id, *hash);
        }
        ids
    }

    #[test]
    fn released_blocks_are_found_until_they_are_evicted_tail_first() {
        let mut pool = BlockPool::new(4);
        let ids = fill(&mut pool, &[1, 2, 3]);
        pool.release(&ids);
        assert_eq!(pool.hits(&[1, 2, 3]), 3);
        assert_eq!(pool.free(), 4);
        pool.hold_new().unwrap();
        assert_eq!(pool.hits(&[1, 2, 3]), 3, "the block that was never used is older");
        pool.hold_new().unwrap();
        assert_eq!(pool.hits(&[1, 2, 3]), 2, "the tail goes before the head");
    }

    #[test]
    fn held_blocks_are_never_evicted() {
        let mut pool = BlockPool::new(2);
        let ids = fill(&mut pool, &[1, 2]);
        assert_eq!(pool.hold_new(), None);
        pool.hold_cached(1).unwrap();
        pool.release(&ids);
        assert!(pool.hold_new().is_some());
        assert_eq!(pool.hold_new(), None, "block 1 has another holder");
        assert_eq!(pool.hits(&[1, 2]), 1);
    }

    #[test]
    fn a_second_block_of_the_same_content_does_not_replace_the_first() {
        let mut pool = BlockPool::new(2);
        let ids = fill(&mut pool, &[7, 7]);
        pool.release(&ids[1..]);
        pool.hold_new().unwrap();
        assert_eq!(pool.hits(&[7]), 1);
    }

    #[test]
    fn touching_a_block_makes_it_the_newest() {
        let mut pool = BlockPool::new(2);
        let ids = fill(&mut pool, &[1, 2]);
        pool.release(&ids);
        let touched = pool.hold_cached(2).unwrap();
        pool.release(&[touched]);
        pool.hold_new().unwrap();
        assert_eq!((pool.hits(&[1]), pool.hits(&[2])), (0, 1));
    }
}
