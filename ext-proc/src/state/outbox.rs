//! What requests leave for the subscription to carry to the controller.
//!
//! What must always hold: leaving something never waits and never grows without bound: the oldest placements go first,
//! as they are the first to be learnt anew; a settlement that does not fit is counted, its lease then ends with its
//! owner's own signal or with its owner.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kthena_scheduler::state::proto;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Below the protocol's 256 KiB a message, with room for its frame.
const MAX_MESSAGE_BYTES: usize = 200 << 10;

/// Placements and settlements on their way out.
#[derive(Debug)]
pub struct Outbox {
    placements: Mutex<VecDeque<proto::Placement>>,
    settlements: Mutex<VecDeque<proto::Settlement>>,
    settled: Notify,
    capacity: usize,
    dropped_placements: AtomicU64,
    dropped_settlements: AtomicU64,
}

impl Outbox {
    /// Keeps at most `capacity` of each kind.
    pub fn new(capacity: usize) -> Self {
        Self {
            placements: Mutex::new(VecDeque::new()),
            settlements: Mutex::new(VecDeque::new()),
            settled: Notify::new(),
            capacity: capacity.max(1),
            dropped_placements: AtomicU64::new(0),
            dropped_settlements: AtomicU64::new(0),
        }
    }

    /// Tells other replicas what an endpoint now holds, or turned out not to hold. Sent within a flush interval.
    pub fn place(&self, placement: proto::Placement) {
        let mut queue = self.placements.lock();
        if queue.len() >= self.capacity {
            queue.pop_front();
            self.dropped_placements.fetch_add(1, Relaxed);
        }
        queue.push_back(placement);
    }

    /// Tells the owner of a lease that it ended. Sent at once.
    pub fn settle(&self, settlement: proto::Settlement) {
        let mut queue = self.settlements.lock();
        if queue.len() >= self.capacity {
            self.dropped_settlements.fetch_add(1, Relaxed);
            return;
        }
        queue.push_back(settlement);
        drop(queue);
        self.settled.notify_one();
    }

    /// Placements and settlements dropped since the start, for want of room.
    pub fn dropped(&self) -> (u64, u64) {
        (
            self.dropped_placements.load(Relaxed),
            self.dropped_settlements.load(Relaxed),
        )
    }

    /// Returns when there is a settlement to send.
    pub(super) async fn settled(&self) {
        self.settled.notified().await;
    }

    /// The next message of placements; `None` when there are none.
    pub(super) fn placements(&self) -> Option<proto::Placements> {
        let placements = drain(&mut self.placements.lock(), |placement: &proto::Placement| {
            32 + 8 * placement.keys.len() + 5 * placement.blocks.len()
        });
        (!placements.is_empty()).then_some(proto::Placements { placements })
    }

    /// The next message of settlements; `None` when there are none.
    pub(super) fn settlements(&self) -> Option<proto::Settlements> {
        let settlements = drain(&mut self.settlements.lock(), |settlement: &proto::Settlement| {
            32 + settlement.owner.len() + settlement.served.len()
        });
        (!settlements.is_empty()).then_some(proto::Settlements { settlements })
    }
}

fn drain<T>(queue: &mut VecDeque<T>, size: impl Fn(&T) -> usize) -> Vec<T> {
    let mut bytes = 0;
    let fits = queue
        .iter()
        .take_while(|item| {
            bytes += size(item);
            bytes <= MAX_MESSAGE_BYTES
        })
        .count();
    // One item that is too large by itself goes alone rather than blocking the queue for ever.
    let count = if fits == 0 { queue.len().min(1) } else { fits };
    queue.drain(..count).collect()
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

    #[test]
    fn the_oldest_placements_make_room_and_are_counted() {
        let outbox = Outbox::new(2);
        (1..=3).for_each(|id| outbox.place(placement(id, 1)));
        let sent = outbox.placements().unwrap().placements;
        assert_eq!(sent.iter().map(|p| p.endpoint).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(outbox.dropped(), (1, 0));
        assert_eq!(outbox.placements(), None);
    }

    #[test]
    fn a_message_stays_below_its_bound() {
        let outbox = Outbox::new(100);
        (0..3).for_each(|id| outbox.place(placement(id, 10_000)));
        assert_eq!(outbox.placements().unwrap().placements.len(), 1);
        outbox.place(placement(9, 100_000));
        let rest: Vec<usize> = std::iter::from_fn(|| outbox.placements())
            .map(|m| m.placements.len())
            .collect();
        assert_eq!(rest, [1, 1, 1]);
    }

    #[tokio::test]
    async fn a_settlement_wakes_the_subscription() {
        let outbox = Outbox::new(1);
        outbox.settle(proto::Settlement::default());
        outbox.settle(proto::Settlement::default());
        outbox.settled().await;
        assert_eq!(outbox.settlements().unwrap().settlements.len(), 1);
        assert_eq!(outbox.dropped(), (0, 1));
    }
}
