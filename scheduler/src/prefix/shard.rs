//! One part of the prefix index: entries in a slab, found by a map, evicted by second chance.
//!
//! What must always hold: the map points at exactly the occupied places of the slab; the bytes counted are an upper
//! bound of what entries take, and stay within the shard's share. Whether a holder is still good is the index' to say:
//! it is asked through a function.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

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
    /// Placed again since the hand last passed.
    used: bool,
    holders: Holders,
}

/// Bytes of an entry: its place in the slab, and its share of a map that is just past doubling.
const ENTRY_BYTES: usize = size_of::<Option<Entry>>() + 2 * (size_of::<(u64, u32)>() + 1) + 8;

/// Keys are well-mixed hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

/// A part of the index.
#[derive(Debug)]
pub(super) struct Shard {
    places: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    slab: Vec<Option<Entry>>,
    free: Vec<u32>,
    hand: usize,
    spilled: usize,
    max_bytes: usize,
    evictions: u64,
}

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
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
            places: HashMap::default(),
            slab: Vec::new(),
            free: Vec::new(),
            hand: 0,
            spilled: 0,
            max_bytes,
            evictions: 0,
        }
    }

    pub(super) fn entries(&self) -> usize {
        self.places.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.slab.len() * ENTRY_BYTES + self.spilled
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Who holds `key`, whether still good or not.
    pub(super) fn holders(&self, key: u64) -> &[Held] {
        self.places
            .get(&key)
            .and_then(|place| self.slab.get(*place as usize)?.as_ref())
            .map_or(&[], |entry| entry.holders.as_slice())
    }

    /// What is known of `slot` holding `key`, whether still good or not.
    pub(super) fn find(&self, key: u64, slot: u32) -> Option<Held> {
        let place = self.places.get(&key)?;
        self.slab.get(*place as usize)?.as_ref()?.holders.find(slot)
    }

    /// Notes that `held` holds `key`; what was known of its slot before.
    pub(super) fn put(&mut self, key: u64, held: Held, good: impl Fn(Held) -> bool + Copy) -> Option<Held> {
        let known = self
            .places
            .get(&key)
            .and_then(|place| self.slab.get_mut(*place as usize)?.as_mut());
        if let Some(entry) = known {
            let before = entry.holders.spilled();
            entry.used = true;
            let former = entry.holders.put(held, good);
            self.spilled = self.spilled + entry.holders.spilled() - before;
            self.shrink(good);
            return former;
        }
        let entry = Entry {
            key,
            used: false,
            holders: Holders::One(held),
        };
        if let Some(place) = self.place(good) {
            self.slab[place as usize] = Some(entry);
            self.places.insert(key, place);
        }
        None
    }

    /// Notes that `slot` does not hold `key`.
    pub(super) fn take(&mut self, key: u64, slot: u32) {
        let Some(place) = self.places.get(&key).copied() else {
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
            // Growing by a quarter keeps what a doubling would leave unused, and uncounted, small.
            if self.slab.len() == self.slab.capacity() {
                self.slab.reserve_exact(self.slab.len() / 4 + 16);
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
        while self.bytes() > self.max_bytes && !self.places.is_empty() {
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
            self.places.remove(&entry.key);
            self.free.push(place);
        }
    }
}
