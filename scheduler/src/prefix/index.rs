//! The prefix index: which endpoints hold which beginnings of prompts, bounded in bytes.
//!
//! It is learnt from dispatches (here and in other replicas) and corrected by the endpoint that served, so it is a guess
//! of what the engines' caches hold, and ages as they do: each endpoint has a clock that counts the prompt blocks placed
//! there, and a beginning is believed to be held until as many blocks as the endpoint has room for were placed after it.
//! A block placed again moves the clock by the share of the room that was filled since it was last used, as that is the
//! part of the cache that it overtakes in a least-recently-used order. The end of a prompt counts as older than its
//! beginning by the blocks between them: engines drop the end first.
//!
//! What must always hold:
//! - An endpoint that is gone holds nothing, even when its slot is another's by now: [`PrefixIndex::forget`] turns the
//!   clock on by more than any capacity, which ages out everything that was there.
//! - The bytes of all entries stay within the bound: an entry that is not used any more gives way (second chance, in
//!   order of place, so that nothing depends on the order of a map), and is counted.
//! - Entries are spread over shards by their hash, each with its own lock, held for one entry at a time.
//!
//! Nothing fails: what does not fit is not remembered, and a decision without it is a cold one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use super::keys::Key;
use super::overlap::Overlap;
use super::shard::{Held, MAX_SLOTS, Shard};

/// Locks are many so that workers seldom meet at one.
const SHARDS: usize = 32;

/// Blocks that any endpoint can hold at most, and that a prompt can be long.
const MAX_BLOCKS: u32 = 1 << 24;

/// Where clocks start: later than the longest prompt, so that the age of its end can be told.
const START: u64 = 2 * MAX_BLOCKS as u64;

/// Sizes of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexConfig {
    /// Bytes that entries may take, all together.
    pub max_bytes: u64,
    /// Endpoints there is room for: every slot index is below it.
    pub max_endpoints: u32,
}

/// Where a prompt is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The slot index of the endpoint.
    pub slot: u32,
    /// Blocks that its cache has room for.
    pub capacity: u32,
}

/// How full the index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Beginnings remembered.
    pub entries: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Entries that gave way to others while they were still good, since the start.
    pub evictions: u64,
}

/// Which endpoints hold which beginnings of prompts.
#[derive(Debug)]
pub struct PrefixIndex {
    shards: Box<[RwLock<Shard>]>,
    endpoints: Box<[Clock]>,
}

#[derive(Debug)]
struct Clock {
    blocks: AtomicU64,
    capacity: AtomicU64,
}

// === impl PrefixIndex ===

impl PrefixIndex {
    /// An empty index.
    pub fn new(config: IndexConfig) -> Self {
        let share = usize::try_from(config.max_bytes).unwrap_or(usize::MAX) / SHARDS;
        Self {
            shards: (0..SHARDS).map(|_| RwLock::new(Shard::new(share))).collect(),
            endpoints: (0..config.max_endpoints.min(MAX_SLOTS)).map(|_| Clock::new()).collect(),
        }
    }

    /// Credits every endpoint admitted to `overlap` with the longest beginning that it holds, longest first; ends after
    /// the length at which `top` endpoints or more were found. All that hold this length are found alike, so that
    /// nothing depends on the order in which they came to hold it.
    pub fn look_up(&self, keys: &[Key], top: u32, overlap: &mut Overlap) {
        let mut blocks = keys.iter().fold(0u32, |sum, key| sum.saturating_add(key.span));
        let wanted = top.min(overlap.admitted());
        let mut found = 0;
        for key in keys.iter().rev() {
            if found >= wanted {
                return;
            }
            let shard = self.shard(key.hash).read().unwrap_or_else(PoisonError::into_inner);
            for held in shard.holders(key.hash) {
                if self.good(*held) && overlap.credit(held.slot(), blocks) {
                    found += 1;
                }
            }
            drop(shard);
            blocks = blocks.saturating_sub(key.span);
        }
    }

    /// Notes that a prompt is placed at an endpoint. What other replicas should hear of is appended to `news`: keys that
    /// the endpoint did not hold, and those that it would soon be believed to have dropped.
    pub fn insert(&self, holder: Holder, keys: &[Key], news: &mut Vec<Key>) {
        let Some(clock) = self.endpoints.get(holder.slot as usize) else {
            return;
        };
        let capacity = u64::from(holder.capacity.clamp(1, MAX_BLOCKS));
        clock.capacity.store(capacity, Relaxed);
        let now = clock.blocks.load(Relaxed);
        let length: u64 = keys.iter().map(|key| u64::from(key.span)).sum();
        let end = now + length.min(u64::from(MAX_BLOCKS)) - self.held_blocks(holder.slot, keys);
        let mut depth = 0u64;
        let mut overtaken_blocks = 0u64;
        for key in keys {
            let age = self.place(
                key.hash,
                Held::new(holder.slot, end.saturating_sub(depth)),
                now,
                capacity,
            );
            // Blocks of the same prompt do not overtake each other, so the depth does not count as age.
            let overtaken = age.saturating_sub(depth).min(capacity);
            overtaken_blocks += u64::from(key.span) * overtaken;
            if age > capacity / 2 {
                news.push(*key);
            }
            depth = (depth + u64::from(key.span)).min(u64::from(MAX_BLOCKS));
        }
        clock.blocks.fetch_add(overtaken_blocks / capacity, Relaxed);
    }

    /// Notes that an endpoint does not hold these keys after all.
    pub fn remove(&self, slot: u32, keys: impl IntoIterator<Item = u64>) {
        for key in keys {
            let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
            shard.take(key, slot);
        }
    }

    /// Notes that the endpoint of this slot is gone: to be called when a slot is claimed (what it held belongs to the
    /// former owner) and when an engine loses its cache.
    pub fn forget(&self, slot: u32) {
        if let Some(clock) = self.endpoints.get(slot as usize) {
            clock.blocks.fetch_add(START, Relaxed);
        }
    }

    /// How full the index is.
    pub fn stats(&self) -> IndexStats {
        let mut stats = IndexStats::default();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            stats.entries += shard.entries() as u64;
            stats.bytes += shard.bytes() as u64;
            stats.evictions += shard.evictions();
        }
        stats
    }

    /// Stores one key; how old the former placement at this endpoint was, more than the capacity when there was none.
    fn place(&self, key: u64, held: Held, now: u64, capacity: u64) -> u64 {
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        let former = shard.put(key, held, |other| self.good(other));
        let age = former.map_or(u64::MAX, |former| now.saturating_sub(former.stamp()));
        if age <= capacity { age } else { u64::MAX }
    }

    /// How many blocks of this prompt the endpoint holds, by bisection: a beginning is held if a longer one is.
    fn held_blocks(&self, slot: u32, keys: &[Key]) -> u64 {
        let held = keys.partition_point(|key| {
            let shard = self.shard(key.hash).read().unwrap_or_else(PoisonError::into_inner);
            shard.find(key.hash, slot).is_some_and(|held| self.good(held))
        });
        keys[..held]
            .iter()
            .map(|key| u64::from(key.span))
            .sum::<u64>()
            .min(u64::from(MAX_BLOCKS))
    }

    fn good(&self, held: Held) -> bool {
        self.endpoints.get(held.slot() as usize).is_some_and(|clock| {
            let age = clock.blocks.load(Relaxed).saturating_sub(held.stamp());
            age <= clock.capacity.load(Relaxed)
        })
    }

    fn shard(&self, key: u64) -> &RwLock<Shard> {
        // The high bits: the map inside the shard spreads by the low ones.
        &self.shards[(key >> 32) as usize % SHARDS]
    }
}

impl Clock {
    fn new() -> Self {
        Self {
            blocks: AtomicU64::new(START),
            capacity: AtomicU64::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::draws::mix;

    fn index(max_bytes: u64) -> PrefixIndex {
        PrefixIndex::new(IndexConfig {
            max_bytes,
            max_endpoints: 8,
        })
    }

    const ROOM: u64 = 1 << 24;

    /// A prompt of `blocks` keys, one block each.
    fn prompt(name: u64, blocks: u64) -> Vec<Key> {
        (0..blocks)
            .map(|at| Key {
                hash: mix(name, at),
                span: 1,
            })
            .collect()
    }

    fn at(slot: u32, capacity: u32) -> Holder {
        Holder { slot, capacity }
    }

    fn place(index: &PrefixIndex, holder: Holder, keys: &[Key]) -> usize {
        let mut news = Vec::new();
        index.insert(holder, keys, &mut news);
        news.len()
    }

    fn held(index: &PrefixIndex, keys: &[Key]) -> [u32; 4] {
        let mut overlap = Overlap::default();
        overlap.begin();
        (0..4).for_each(|slot| overlap.admit(slot));
        index.look_up(keys, 4, &mut overlap);
        [0, 1, 2, 3].map(|slot| overlap.blocks(slot))
    }

    #[test]
    fn each_endpoint_is_credited_with_the_longest_beginning_it_holds() {
        let index = index(ROOM);
        let long = prompt(1, 10);
        place(&index, at(0, 100), &long[..4]);
        place(&index, at(1, 100), &long);
        place(&index, at(2, 100), &prompt(2, 10));
        assert_eq!(held(&index, &long), [4, 10, 0, 0]);
        assert_eq!(held(&index, &prompt(3, 3)), [0; 4]);
    }

    #[test]
    fn a_hole_in_the_chain_does_not_hide_what_lies_beyond() {
        let index = index(ROOM);
        let keys = prompt(1, 10);
        place(&index, at(0, 100), &keys);
        index.remove(0, [keys[3].hash, keys[9].hash]);
        assert_eq!(held(&index, &keys)[0], 9);
    }

    #[test]
    fn only_candidates_count_towards_the_top() {
        let index = index(ROOM);
        let keys = prompt(1, 10);
        place(&index, at(0, 100), &keys);
        place(&index, at(1, 100), &keys[..5]);
        let mut overlap = Overlap::default();
        overlap.begin();
        overlap.admit(1);
        index.look_up(&keys, 1, &mut overlap);
        assert_eq!((overlap.blocks(0), overlap.blocks(1)), (0, 5));
    }

    #[test]
    fn the_search_ends_with_the_length_at_which_enough_are_found_and_finds_all_of_it() {
        let index = index(ROOM);
        let keys = prompt(1, 10);
        place(&index, at(0, 100), &keys);
        place(&index, at(1, 100), &keys);
        place(&index, at(2, 100), &keys[..5]);
        let mut overlap = Overlap::default();
        overlap.begin();
        (0..3).for_each(|slot| overlap.admit(slot));
        index.look_up(&keys, 1, &mut overlap);
        assert_eq!([0, 1, 2].map(|slot| overlap.blocks(slot)), [10, 10, 0]);
    }

    #[test]
    fn what_was_placed_last_pushes_out_what_was_not_used_since() {
        let index = index(ROOM);
        let [old, kept] = [prompt(1, 30), prompt(2, 30)];
        place(&index, at(0, 100), &old);
        place(&index, at(0, 100), &kept);
        place(&index, at(0, 100), &prompt(3, 30));
        place(&index, at(0, 100), &kept);
        place(&index, at(0, 100), &prompt(4, 30));
        assert!(
            held(&index, &old)[0] < 10,
            "120 blocks in a cache of 100: the oldest prompt goes, its end first"
        );
        assert_eq!(held(&index, &kept)[0], 30);
    }

    #[test]
    fn a_prompt_longer_than_the_cache_is_held_as_far_as_it_fits() {
        let index = index(ROOM);
        let keys = prompt(1, 300);
        place(&index, at(0, 100), &keys);
        assert!((99..=101).contains(&held(&index, &keys)[0]));
    }

    #[test]
    fn the_same_prompt_again_is_no_news_until_it_is_half_forgotten() {
        let index = index(ROOM);
        let keys = prompt(1, 20);
        assert_eq!(place(&index, at(0, 100), &keys), 20);
        assert_eq!(place(&index, at(0, 100), &keys), 0);
        assert_eq!(place(&index, at(0, 100), &[keys.clone(), prompt(9, 2)].concat()), 2);
        place(&index, at(0, 100), &prompt(2, 60));
        assert_eq!(place(&index, at(0, 100), &keys), 20, "other replicas would forget it");
    }

    #[test]
    fn the_same_prompt_again_and_again_makes_nothing_else_old() {
        let index = index(ROOM);
        let [other, hot] = [prompt(1, 20), prompt(2, 50)];
        place(&index, at(0, 100), &other);
        for _ in 0..1_000 {
            place(&index, at(0, 100), &hot);
        }
        assert_eq!(held(&index, &other)[0], 20);
    }

    #[test]
    fn an_endpoint_that_is_gone_leaves_nothing_to_the_next_in_its_slot() {
        let index = index(ROOM);
        let keys = prompt(1, 10);
        place(&index, at(0, 50_000), &keys);
        index.forget(0);
        assert_eq!(held(&index, &keys)[0], 0);
        place(&index, at(0, 50_000), &prompt(2, 10));
        assert_eq!(held(&index, &keys)[0], 0);
    }

    #[test]
    fn the_bound_in_bytes_holds_and_what_is_used_outlives_what_is_not() {
        let index = index(200_000);
        let hot = prompt(0, 20);
        for name in 1..500 {
            place(&index, at((name % 4) as u32, 1_000_000), &hot);
            place(&index, at((name % 4) as u32, 1_000_000), &prompt(name, 50));
            assert!(index.stats().bytes <= 200_000, "{:?}", index.stats());
        }
        assert!(index.stats().evictions > 10_000);
        assert_eq!(held(&index, &hot), [20; 4]);
        assert_eq!(held(&index, &prompt(1, 50)), [0; 4]);
    }

    #[test]
    fn no_room_at_all_means_nothing_is_remembered() {
        let index = index(0);
        place(&index, at(0, 100), &prompt(1, 10));
        assert_eq!((index.stats().entries, held(&index, &prompt(1, 10))), (0, [0; 4]));
    }

    #[test]
    fn a_slot_beyond_the_configured_ones_is_passed_over() {
        let index = index(ROOM);
        assert_eq!(place(&index, at(8, 100), &prompt(1, 10)), 0);
        index.forget(8);
        index.remove(8, [1]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Place { slot: u32, prompt: u64, blocks: u64 },
        Remove { slot: u32, prompt: u64, from: u64 },
        Forget { slot: u32 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let place =
            (0..4u32, 0..6u64, 1..40u64).prop_map(|(slot, prompt, blocks)| Step::Place { slot, prompt, blocks });
        let remove = (0..4u32, 0..6u64, 0..40u64).prop_map(|(slot, prompt, from)| Step::Remove { slot, prompt, from });
        let forget = (0..4u32).prop_map(|slot| Step::Forget { slot });
        proptest::collection::vec(prop_oneof![6 => place, 2 => remove, 1 => forget], 1..120)
    }

    proptest! {
        /// It may know less than what was placed, never more, and never takes more than its bytes.
        #[test]
        fn nothing_is_held_that_was_not_placed(steps in steps(), max_bytes in 0u64..60_000, capacity in 1u32..80) {
            let index = index(max_bytes);
            let mut placed = [[0u64; 6]; 4];
            for step in steps {
                match step {
                    Step::Place { slot, prompt: name, blocks } => {
                        place(&index, at(slot, capacity), &prompt(name, blocks));
                        let longest = &mut placed[slot as usize][name as usize];
                        *longest = blocks.max(*longest);
                    }
                    Step::Remove { slot, prompt: name, from } => {
                        index.remove(slot, prompt(name, 40).iter().skip(from as usize).map(|key| key.hash));
                        let longest = &mut placed[slot as usize][name as usize];
                        *longest = from.min(*longest);
                    }
                    Step::Forget { slot } => {
                        index.forget(slot);
                        placed[slot as usize] = [0; 6];
                    }
                }
                prop_assert!(index.stats().bytes <= max_bytes);
                for name in 0..6 {
                    let held = held(&index, &prompt(name, 40));
                    for slot in 0..4 {
                        prop_assert!(u64::from(held[slot]) <= placed[slot][name as usize]);
                    }
                }
            }
        }
    }
}
