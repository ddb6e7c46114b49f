//! One part of the prefix index: entries in a slab, chained by their keys, evicted by second chance.
//!
//! What must always hold: the chains lead to exactly the occupied places of the slab; the bytes counted are an upper
//! bound of what entries take, and stay within the shard's share. Whether a holder is still good is the index' to say:
//! it is asked through a function.
//!
//! A full shard drops an entry for each that it takes, for as long as the process runs. `HashMap` marks what was removed and doubles when the
//! marks are too many, long after the last entry for which there was room; chains are as they would be had the entry never been there.

/// Bits of a [`Held`] that are the stamp; those above name the slot, so that holders sort by slot.
const STAMP_BITS: u32 = 44;

/// The most slots an index can tell apart.
pub(super) const MAX_SLOTS: u32 = 1 << (u64::BITS - STAMP_BITS);

/// An endpoint that holds an entry, and since when by its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held(u64);

/// Most entries are held by one endpoint; a system prompt by all.
#[derive(Debug)]
enum Holders {
    One(Held),
    /// Sorted by slot.
    Many(Vec<Held>),
}

#[derive(Debug)]
struct Entry {
    key: u64,
    /// Place of the next entry of the same chain, or [`END`].
    next: u32,
    /// Placed again since the hand last passed.
    used: bool,
    holders: Holders,
}

/// Bytes of an entry: its place in the slab, and its share of heads and of a free list that are just past doubling.
const ENTRY_BYTES: usize = size_of::<Option<Entry>>() + 4 * size_of::<u32>();

/// The place after the last of a chain: no slab is that long.
const END: u32 = u32::MAX;

/// A part of the index.
#[derive(Debug)]
pub(super) struct Shard {
    /// The first place of each chain. Keys are well-mixed hashes already: their low bits say which. As many as a power of two.
    heads: Vec<u32>,
    slab: Vec<Option<Entry>>,
    free: Vec<u32>,
    hand: usize,
    spilled: usize,
    max_bytes: usize,
    evictions: u64,
}

// === impl Held ===

impl Held {
    pub(super) fn new(slot: u32, stamp: u64) -> Self {
        Self((u64::from(slot) << STAMP_BITS) | (stamp & ((1 << STAMP_BITS) - 1)))
    }

    pub(super) fn slot(self) -> u32 {
        (self.0 >> STAMP_BITS) as u32
    }

    pub(super) fn stamp(self) -> u64 {
        self.0 & ((1 << STAMP_BITS) - 1)
    }
}

// === impl Holders ===

impl Holders {
    fn as_slice(&self) -> &[Held] {
        match self {
            Self::One(held) => std::slice::from_ref(held),
            Self::Many(held) => held,
        }
    }

    fn spilled(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Many(held) => held.capacity() * size_of::<Held>(),
        }
    }

    fn find(&self, slot: u32) -> Option<Held> {
        let all = self.as_slice();
        let at = all.binary_search_by_key(&slot, |held| held.slot()).ok()?;
        all.get(at).copied()
    }

    /// Puts `held` in the place of its slot's former entry; that entry.
    fn put(&mut self, held: Held, good: impl Fn(Held) -> bool) -> Option<Held> {
        match self {
            Self::One(old) if old.slot() == held.slot() => Some(std::mem::replace(old, held)),
            Self::One(old) if !good(*old) => {
                *old = held;
                None
            }
            Self::One(old) => {
                let (low, high) = if old.slot() < held.slot() {
                    (*old, held)
                } else {
                    (held, *old)
                };
                *self = Self::Many(vec![low, high]);
                None
            }
            Self::Many(all) => match all.binary_search_by_key(&held.slot(), |old| old.slot()) {
                Ok(at) => Some(std::mem::replace(&mut all[at], held)),
                Err(_) => {
                    // Looking at all of them only when the list would grow keeps a long list cheap.
                    if all.len() == all.capacity() {
                        all.retain(|old| good(*old));
                    }
                    let at = all.partition_point(|old| old.slot() < held.slot());
                    all.insert(at, held);
                    None
                }
            },
        }
    }
}

// === impl Shard ===

impl Shard {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            heads: Vec::new(),
            slab: Vec::new(),
            free: Vec::new(),
            hand: 0,
            spilled: 0,
            max_bytes,
            evictions: 0,
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.slab.len() - self.free.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.slab.len() * ENTRY_BYTES + self.spilled
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Who holds `key`, whether still good or not.
    pub(super) fn holders(&self, key: u64) -> &[Held] {
        self.search(key).map_or(&[], |(_, entry)| entry.holders.as_slice())
    }

    /// What is known of `slot` holding `key`, whether still good or not.
    pub(super) fn find(&self, key: u64, slot: u32) -> Option<Held> {
        self.search(key)?.1.holders.find(slot)
    }

    /// Notes that `held` holds `key`; what was known of its slot before.
    pub(super) fn put(&mut self, key: u64, held: Held, good: impl Fn(Held) -> bool + Copy) -> Option<Held> {
        let known = self.search(key).map(|(place, _)| place);
        if let Some(entry) = known.and_then(|place| self.slab.get_mut(place as usize)?.as_mut()) {
            let before = entry.holders.spilled();
            entry.used = true;
            let former = entry.holders.put(held, good);
            self.spilled = self.spilled + entry.holders.spilled() - before;
            self.shrink(good);
            return former;
        }
        let entry = Entry {
            key,
            next: END,
            used: false,
            holders: Holders::One(held),
        };
        if let Some(place) = self.place(good) {
            self.slab[place as usize] = Some(entry);
            self.link(place);
        }
        None
    }

    /// Notes that `slot` does not hold `key`.
    pub(super) fn take(&mut self, key: u64, slot: u32) {
        let Some((place, _)) = self.search(key) else {
            return;
        };
        let Some(entry) = self.slab[place as usize].as_mut() else {
            return;
        };
        let empty = match &mut entry.holders {
            Holders::One(held) => held.slot() == slot,
            Holders::Many(all) => {
                all.retain(|held| held.slot() != slot);
                all.is_empty()
            }
        };
        if empty {
            self.drop_entry(place);
        }
    }

    /// A free place, made by eviction when the shard is full; `None` when it has no room for a single entry.
    fn place(&mut self, good: impl Fn(Held) -> bool + Copy) -> Option<u32> {
        if self.free.is_empty() && self.bytes() + ENTRY_BYTES <= self.max_bytes {
            // Growing by a quarter keeps what a doubling would leave unused small, and no more is taken than can be used.
            if self.slab.len() == self.slab.capacity() {
                let room = (self.max_bytes - self.bytes()) / ENTRY_BYTES;
                self.slab.reserve_exact(room.min(self.slab.len() / 4 + 16));
            }
            self.slab.push(None);
            return u32::try_from(self.slab.len() - 1).ok();
        }
        if self.free.is_empty() {
            self.evict(good);
        }
        self.free.pop()
    }

    /// Makes entries give way until lists of holders that grew are within the bound again.
    fn shrink(&mut self, good: impl Fn(Held) -> bool + Copy) {
        while self.bytes() > self.max_bytes && self.entries() > 0 {
            self.evict(good);
            while self.slab.last().is_some_and(Option::is_none) {
                self.slab.pop();
            }
            let len = self.slab.len();
            self.free.retain(|place| (*place as usize) < len);
        }
    }

    /// Frees one place: the first from the hand on that nobody holds any more or that was not placed again.
    fn evict(&mut self, good: impl Fn(Held) -> bool) {
        for _ in 0..2 * self.slab.len() {
            self.hand = (self.hand + 1) % self.slab.len();
            let Some(entry) = &mut self.slab[self.hand] else {
                continue;
            };
            let held = entry.holders.as_slice().iter().any(|held| good(*held));
            if held && entry.used {
                entry.used = false;
                continue;
            }
            self.evictions += u64::from(held);
            self.drop_entry(self.hand as u32);
            return;
        }
    }

    fn drop_entry(&mut self, place: u32) {
        if let Some(entry) = self.slab.get_mut(place as usize).and_then(Option::take) {
            self.spilled -= entry.holders.spilled();
            self.unlink(place, &entry);
            self.free.push(place);
        }
    }

    /// The entry of `key`, and its place.
    fn search(&self, key: u64) -> Option<(u32, &Entry)> {
        let mut place = *self.heads.get(self.chain(key))?;
        while let Some(Some(entry)) = self.slab.get(place as usize) {
            if entry.key == key {
                return Some((place, entry));
            }
            place = entry.next;
        }
        None
    }

    /// Puts the entry at `place` into its chain. There are as many chains as places or more, so that they stay short.
    fn link(&mut self, place: u32) {
        let mut unlinked = place..place + 1;
        if self.heads.len() < self.slab.len() {
            self.heads = vec![END; self.slab.len().next_power_of_two()];
            unlinked = 0..self.slab.len() as u32;
        }
        for place in unlinked {
            let Some(key) = self.slab[place as usize].as_ref().map(|entry| entry.key) else {
                continue;
            };
            let chain = self.chain(key);
            let next = std::mem::replace(&mut self.heads[chain], place);
            if let Some(entry) = &mut self.slab[place as usize] {
                entry.next = next;
            }
        }
    }

    /// Takes what was at `place` out of its chain.
    fn unlink(&mut self, place: u32, entry: &Entry) {
        let chain = self.chain(entry.key);
        let mut at = &mut self.heads[chain];
        while *at != place {
            let before = *at as usize;
            let Some(Some(before)) = self.slab.get_mut(before) else {
                return;
            };
            at = &mut before.next;
        }
        *at = entry.next;
    }

    fn chain(&self, key: u64) -> usize {
        key as usize & self.heads.len().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::draws::mix;

    /// Bytes that it has of the allocator.
    fn taken(shard: &Shard) -> usize {
        let places = shard.heads.capacity() + shard.free.capacity();
        places * size_of::<u32>() + shard.slab.capacity() * size_of::<Option<Entry>>() + shard.spilled
    }

    #[test]
    fn a_full_shard_has_what_memory_it_will_ever_have_and_no_more_than_its_share() {
        for max_bytes in [0, 1_000, 50_000, 100_000, 131_072, 150_000] {
            let mut shard = Shard::new(max_bytes);
            let mut full = None;
            for stamp in 0..50_000 {
                shard.put(mix(1, stamp), Held::new(0, stamp), |_| true);
                assert!(taken(&shard) <= max_bytes, "{} of {max_bytes}", taken(&shard));
                if shard.evictions() > 0 {
                    assert_eq!(*full.get_or_insert(taken(&shard)), taken(&shard), "{stamp}");
                }
            }
        }
    }

    const KEYS: u64 = 24;
    const AMPLE: usize = 1 << 20;

    /// Keys that meet in few chains.
    fn key(number: u64) -> u64 {
        number << 4
    }

    proptest! {
        #[test]
        fn what_was_put_is_found_until_it_is_taken_or_gives_way(
            steps in proptest::collection::vec((0..KEYS, 0..3u32, 0..3u8), 1..200),
            max_bytes in prop_oneof![0..2_000usize, Just(AMPLE)],
        ) {
            let mut shard = Shard::new(max_bytes);
            let mut put = BTreeMap::<u64, BTreeSet<u32>>::new();
            for (stamp, (number, slot, step)) in (0..).zip(steps) {
                let slots = put.entry(number).or_default();
                if step == 0 {
                    shard.take(key(number), slot);
                    slots.remove(&slot);
                } else {
                    shard.put(key(number), Held::new(slot, stamp), |_| true);
                    slots.insert(slot);
                }
                prop_assert!(shard.bytes() <= max_bytes);
                let found = |number| -> BTreeSet<u32> {
                    shard.holders(key(number)).iter().map(|held| held.slot()).collect()
                };
                prop_assert_eq!((0..KEYS).filter(|number| !found(*number).is_empty()).count(), shard.entries());
                for (number, slots) in &put {
                    prop_assert!(found(*number).is_subset(slots));
                    prop_assert!(max_bytes < AMPLE || found(*number) == *slots);
                }
            }
        }
    }
}
