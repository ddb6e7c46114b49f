//! Placements on their way to the controller, bounded in number, and in bytes a second.
//!
//! What must always hold: leaving something here never waits and never grows without bound. The oldest go first, as they
//! are the first to be learnt anew; what goes is counted. A message stays below the protocol's 256 KiB.

use std::collections::VecDeque;

use super::proto;
use crate::time::Time;

/// Below the protocol's 256 KiB a message, with room for its frame.
const MAX_MESSAGE_BYTES: u64 = 200 << 10;

/// What may wait, and how fast it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Placements that wait.
    pub placements: usize,
    /// Bytes a second that are sent, with one second's worth at once after a pause.
    pub bytes_per_s: u64,
}

/// Placements that wait to be sent.
#[derive(Debug)]
pub(super) struct Outbox {
    limits: OutboxLimits,
    queue: VecDeque<proto::Placement>,
    /// Bytes that may be sent now; below zero after one message that was larger.
    allowance: i64,
    filled: Time,
    dropped: u64,
}

impl Outbox {
    pub(super) fn new(limits: OutboxLimits) -> Self {
        Self {
            queue: VecDeque::new(),
            allowance: signed(limits.bytes_per_s),
            filled: Time::default(),
            dropped: 0,
            limits: OutboxLimits {
                placements: limits.placements.max(1),
                bytes_per_s: limits.bytes_per_s.max(1),
            },
        }
    }

    /// Leaves a placement to be sent.
    pub(super) fn push(&mut self, placement: proto::Placement) {
        if self.queue.len() >= self.limits.placements {
            self.queue.pop_front();
            self.dropped += 1;
        }
        self.queue.push_back(placement);
    }

    /// The next message; `None` when nothing waits or the second's bytes are used up.
    pub(super) fn next(&mut self, now: Time) -> Option<proto::Placements> {
        let earned = now.since(self.filled).saturating_mul(self.limits.bytes_per_s) / 1_000;
        if earned > 0 {
            self.filled = now;
            let full = signed(self.limits.bytes_per_s);
            self.allowance = self.allowance.saturating_add(signed(earned)).min(full);
        }
        if self.allowance <= 0 {
            return None;
        }
        let mut bytes = 0;
        let mut placements = Vec::new();
        while let Some(placement) = self.queue.front() {
            let more = size(placement);
            // One that is too large by itself goes alone rather than blocking the queue for ever.
            if !placements.is_empty() && bytes + more > MAX_MESSAGE_BYTES {
                break;
            }
            bytes += more;
            placements.extend(self.queue.pop_front());
            if signed(bytes) >= self.allowance {
                break;
            }
        }
        self.allowance -= signed(bytes);
        (!placements.is_empty()).then_some(proto::Placements { placements })
    }

    /// Placements dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// An upper bound of its encoded length.
fn size(placement: &proto::Placement) -> u64 {
    32 + 8 * placement.keys.len() as u64 + 5 * placement.blocks.len() as u64
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(endpoint: u64, keys: usize) -> proto::Placement {
        proto::Placement {
            endpoint,
            keys: vec![7; keys],
            gone: false,
            blocks: vec![1; keys],
        }
    }

    fn outbox(placements: usize, bytes_per_s: u64) -> Outbox {
        Outbox::new(OutboxLimits {
            placements,
            bytes_per_s,
        })
    }

    fn sent(outbox: &mut Outbox, ms: u64) -> Vec<usize> {
        let next = || outbox.next(Time::from_millis(ms));
        std::iter::from_fn(next).map(|m| m.placements.len()).collect()
    }

    #[test]
    fn the_oldest_make_room_and_are_counted() {
        let mut outbox = outbox(2, 1 << 20);
        (1..=3).for_each(|id| outbox.push(placement(id, 1)));
        let message = outbox.next(Time::default()).unwrap();
        assert_eq!(
            message.placements.iter().map(|p| p.endpoint).collect::<Vec<_>>(),
            [2, 3]
        );
        assert_eq!(outbox.dropped(), 1);
        assert_eq!(outbox.next(Time::default()), None);
    }

    #[test]
    fn a_message_stays_below_its_bound() {
        let mut outbox = outbox(100, 10 << 20);
        (0..3).for_each(|id| outbox.push(placement(id, 10_000)));
        outbox.push(placement(9, 100_000));
        assert_eq!(sent(&mut outbox, 0), [1, 1, 1, 1]);
    }

    #[test]
    fn no_more_bytes_a_second_than_allowed() {
        // 45 bytes each: 23 of them use up the first second's worth.
        let mut outbox = outbox(1_000, 1_000);
        (0..100).for_each(|id| outbox.push(placement(id, 1)));
        assert_eq!(sent(&mut outbox, 0).iter().sum::<usize>(), 23);
        assert_eq!(sent(&mut outbox, 10), Vec::<usize>::new());
        let later: usize = (1..=100)
            .map(|tick| sent(&mut outbox, 10 + tick * 10).iter().sum::<usize>())
            .sum();
        assert!((21..=23).contains(&later), "{later} in the second after");
    }
}
