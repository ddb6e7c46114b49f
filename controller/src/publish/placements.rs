//! Residency on its way between filters: a bounded ring of placements that each subscriber reads at its own pace.
//!
//! What must always hold: memory is bounded in bytes whatever subscribers do. One that falls behind the ring misses the
//! oldest placements, which is counted and costs only cache hits; a new one starts at the oldest. Placements at endpoints
//! that are gone are dropped.

use std::collections::{HashSet, VecDeque};

use kthena_scheduler::state::proto::{Placement, Placements};
use prost::Message;

use super::merge::Speaker;
use super::resource::MAX_MESSAGE;

/// The ring.
#[derive(Debug)]
pub(super) struct Ring {
    max_bytes: usize,
    bytes: usize,
    /// Number of the next placement.
    next: u64,
    /// Everything before this number has been pushed out.
    evicted: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    /// Who told of it: it is not sent back.
    from: Speaker,
    bytes: usize,
    placement: Placement,
}

/// What a subscriber reads next, and what it lost.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Read {
    pub(super) messages: Vec<Placements>,
    /// Placements that were pushed out of the ring before the subscriber read them.
    pub(super) missed: u64,
}

// === impl Ring ===

impl Ring {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            bytes: 0,
            next: 0,
            evicted: 0,
            entries: VecDeque::new(),
        }
    }

    /// Adds placements at endpoints that are known; returns how many were left out.
    pub(super) fn push(&mut self, from: Speaker, placements: Placements, known: impl Fn(u64) -> bool) -> u64 {
        let mut left_out = 0;
        for placement in placements.placements {
            let bytes = placement.encoded_len() + size_of::<Entry>();
            if !known(placement.endpoint) || bytes > self.max_bytes.min(MAX_MESSAGE / 2) {
                left_out += 1;
                continue;
            }
            self.bytes += bytes;
            self.entries.push_back(Entry {
                number: self.next,
                from,
                bytes,
                placement,
            });
            self.next += 1;
            while self.bytes > self.max_bytes
                && let Some(oldest) = self.entries.pop_front()
            {
                self.bytes -= oldest.bytes;
                self.evicted = oldest.number + 1;
            }
        }
        left_out
    }

    /// Drops the placements at endpoints that have gone.
    pub(super) fn forget(&mut self, gone: &HashSet<u64>) {
        self.entries.retain(|entry| !gone.contains(&entry.placement.endpoint));
        self.bytes = self.entries.iter().map(|entry| entry.bytes).sum();
    }

    /// Reads on from `cursor`, which a new reader starts at 0, what was told by those whom it wants to hear, of endpoints that it sees.
    pub(super) fn read(&self, cursor: &mut u64, wants: impl Fn(Speaker) -> bool, sees: impl Fn(u64) -> bool) -> Read {
        let mut read = Read {
            // A cursor of 0 has never read: what it did not see was not meant for it.
            missed: if *cursor == 0 {
                0
            } else {
                self.evicted.saturating_sub(*cursor)
            },
            messages: Vec::new(),
        };
        let from = self.entries.partition_point(|entry| entry.number < *cursor);
        let mut room = 0;
        let wanted = |entry: &&Entry| wants(entry.from) && sees(entry.placement.endpoint);
        for entry in self.entries.range(from..).filter(wanted) {
            if entry.bytes > room {
                read.messages.push(Placements::default());
                room = MAX_MESSAGE / 2;
            }
            room -= entry.bytes;
            if let Some(message) = read.messages.last_mut() {
                message.placements.push(entry.placement.clone());
            }
        }
        *cursor = self.next;
        read
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(endpoint: u64, keys: usize) -> Placements {
        Placements {
            placements: vec![Placement {
                endpoint,
                keys: vec![1; keys],
                blocks: vec![1; keys],
                gone: false,
            }],
        }
    }

    fn count(read: &Read) -> usize {
        read.messages.iter().map(|message| message.placements.len()).sum()
    }

    #[test]
    fn everyone_reads_what_others_placed_and_a_newcomer_reads_all() {
        let mut ring = Ring::new(1 << 20);
        let (mut one, mut two) = (0, 0);
        ring.push(Speaker::Filter(1), placed(7, 3), |_| true);
        ring.push(Speaker::Filter(2), placed(8, 3), |_| true);
        assert_eq!(
            count(&ring.read(&mut one, |from| from != Speaker::Filter(1), |_| true)),
            1
        );
        assert_eq!(
            count(&ring.read(&mut two, |from| from != Speaker::Filter(2), |_| true)),
            1
        );
        assert_eq!(
            ring.read(&mut one, |from| from != Speaker::Filter(1), |_| true),
            Read::default(),
            "nothing twice"
        );
        assert_eq!(
            count(&ring.read(&mut 0, |from| from != Speaker::Filter(3), |_| true)),
            2
        );
        ring.forget(&HashSet::from([7]));
        assert_eq!(
            count(&ring.read(&mut 0, |from| from != Speaker::Filter(3), |_| true)),
            1,
            "what was placed at a lost endpoint is gone"
        );
        assert_eq!(
            ring.push(Speaker::Filter(1), placed(7, 3), |endpoint| endpoint == 8),
            1,
            "unknown endpoint"
        );
    }

    #[test]
    fn a_slow_reader_misses_the_oldest_and_the_ring_never_grows() {
        let mut ring = Ring::new(4096);
        let mut slow = 0;
        ring.push(Speaker::Filter(1), placed(7, 1), |_| true);
        ring.read(&mut slow, |from| from != Speaker::Filter(2), |_| true);
        for _ in 0..1000 {
            ring.push(Speaker::Filter(1), placed(7, 10), |_| true);
            assert!(ring.bytes() <= 4096);
        }
        let read = ring.read(&mut slow, |from| from != Speaker::Filter(2), |_| true);
        assert_eq!(read.missed as usize + count(&read), 1000);
    }

    #[test]
    fn no_message_is_too_large() {
        let mut ring = Ring::new(8 << 20);
        for _ in 0..5000 {
            ring.push(Speaker::Filter(1), placed(7, 64), |_| true);
        }
        let read = ring.read(&mut 0, |from| from != Speaker::Filter(2), |_| true);
        assert_eq!(count(&read), 5000);
        assert!(read.messages.iter().all(|message| message.encoded_len() <= MAX_MESSAGE));
    }
}
