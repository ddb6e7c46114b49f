//! Leases whose end is told by another signal than the stream they were opened on.
//!
//! A host whose stream ends before the answer does, or another replica's access log, names a lease by its number. What
//! must always hold: a number is settled at most once; what is open is bounded, and so is what is remembered of ended
//! requests for the correction of their trail. It fails open: beyond the bound a lease is settled at once and counted.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::lease::{Lease, Trail};

const SHARDS: usize = 16;

/// A request whose end is still to be told.
#[derive(Debug)]
pub struct Ticket {
    /// Counted while it is here; `None` when the request has ended and only its trail is kept.
    pub lease: Option<Lease>,
    /// What was believed about caches; `None` when the answer's head has told already.
    pub trail: Option<Trail>,
}

/// Open and lately ended requests by number.
#[derive(Debug)]
pub struct LeaseTable {
    shards: [Mutex<Shard>; SHARDS],
    next: AtomicU64,
    overflows: AtomicU64,
    open_per_shard: usize,
    ended_per_shard: usize,
}

#[derive(Debug, Default)]
struct Shard {
    tickets: HashMap<u64, Ticket>,
    open: usize,
    ended: VecDeque<u64>,
}

impl LeaseTable {
    /// Room for `max_open` leases and the trails of `max_ended` requests.
    pub fn new(max_open: usize, max_ended: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            next: AtomicU64::new(1),
            overflows: AtomicU64::new(0),
            open_per_shard: max_open.div_ceil(SHARDS),
            ended_per_shard: max_ended.div_ceil(SHARDS),
        }
    }

    /// A number for the next request.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Relaxed)
    }

    fn shard(&self, number: u64) -> std::sync::MutexGuard<'_, Shard> {
        let at = (number % SHARDS as u64) as usize;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a request until [`LeaseTable::settle`]: its lease where it is still in flight, its trail in any case.
    pub fn keep(&self, number: u64, ticket: Ticket) {
        let mut shard = self.shard(number);
        if ticket.lease.is_some() {
            if shard.open >= self.open_per_shard {
                self.overflows.fetch_add(1, Relaxed);
                return;
            }
            shard.open += 1;
        } else {
            if shard.ended.len() >= self.ended_per_shard
                && let Some(oldest) = shard.ended.pop_front()
            {
                shard.tickets.remove(&oldest);
            }
            shard.ended.push_back(number);
        }
        shard.tickets.insert(number, ticket);
    }

    /// Takes out a request whose end was told; `None` when it was settled before, or never kept.
    pub fn settle(&self, number: u64) -> Option<Ticket> {
        let mut shard = self.shard(number);
        let ticket = shard.tickets.remove(&number)?;
        match ticket.lease {
            Some(_) => shard.open -= 1,
            None => shard.ended.retain(|ended| *ended != number),
        }
        Some(ticket)
    }

    /// Settles every open lease: nobody is left who could tell of their end.
    pub fn abandon(&self) -> usize {
        let mut count = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.tickets.retain(|_, ticket| ticket.lease.is_none());
            count += std::mem::take(&mut shard.open);
        }
        count
    }

    /// Leases that wait for their end.
    pub fn open(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).open)
            .sum()
    }

    /// Leases that found no room.
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Relaxed)
    }
}
