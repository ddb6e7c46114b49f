//! From scores to an order: which candidate is first, and which four stand by.
//!
//! Many deciders act on one picture that is some 200 ms old. If each took the best, all would take the same one until
//! the picture changes. So the choice is drawn among candidates that are nearly as good, the better the likelier; and a
//! prompt that nobody holds goes to the place that its head hashes to, which every decider computes alike.
//! What must always hold: the result depends on the arguments alone, and names each candidate once.

use super::scratch::Scratch;
use crate::draws::{Draws, mix};
use crate::float::larger;
use crate::snapshot::ModelServer;

/// The most endpoints that a decision names: the first, and four to retry at.
pub const MAX_ENDPOINTS: usize = 5;

/// Candidates within this many points of the best are as good as the best, for a profile with scores of weight 1.
const NEAR: f32 = 10.0;

/// A cold prompt may go to any candidate that is at most this many points worse than the average.
const COLD: f32 = 5.0;

/// Positions among the endpoints of a ModelServer, best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    at: [u32; MAX_ENDPOINTS],
    len: u8,
}

impl Order {
    /// The positions.
    pub fn as_slice(&self) -> &[u32] {
        &self.at[..usize::from(self.len)]
    }

    fn push(&mut self, at: u32) {
        if let Some(place) = self.at.get_mut(usize::from(self.len)) {
            *place = at;
            self.len += 1;
        }
    }

    fn is_full(&self) -> bool {
        usize::from(self.len) == MAX_ENDPOINTS
    }
}

impl std::ops::Deref for Order {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        self.as_slice()
    }
}

/// Orders the candidates by their totals; nearly equal ones by a draw from `seed`. `unit` is the average weight of the
/// profile's scores.
pub(super) fn by_score(scratch: &mut Scratch, unit: f32, seed: u64) -> Order {
    let best = scratch.totals.iter().copied().fold(f32::NEG_INFINITY, larger);
    let bar = best - NEAR * unit;
    let mut room = 0.0;
    for (candidate, total) in scratch.totals.iter().enumerate() {
        if *total >= bar {
            scratch.near.push((candidate as u32, total - bar));
            room += total - bar;
        }
    }
    let mut order = Order::default();
    let mut draws = Draws::new(seed);
    while !order.is_full() && !scratch.near.is_empty() {
        let chosen = draw(&scratch.near, draws.unit() * room);
        let (candidate, taken) = scratch.near.swap_remove(chosen);
        room -= taken;
        order.push(scratch.at[candidate as usize]);
    }
    fill(scratch, bar, order)
}

/// The place in `near` that a point falls on, where each has as much room as it is above the bar.
fn draw(near: &[(u32, f32)], point: f32) -> usize {
    let mut rest = point;
    // In strides, as adding up one by one waits for each addition before the next.
    let stride = near.chunks(16).position(|stride| {
        let room: f32 = stride.iter().map(|(_, room)| room).sum();
        let within = rest < room;
        rest -= if within { 0.0 } else { room };
        within
    });
    let start = stride.map_or(near.len(), |stride| stride * 16);
    let chosen = near[start..].iter().position(|(_, room)| {
        rest -= room;
        rest < 0.0
    });
    // Rounding, or all of them at the bar: any will do, the last one is one.
    chosen.map_or(near.len() - 1, |at| start + at)
}

/// Fills the order with the best of the candidates below the bar.
fn fill(scratch: &Scratch, bar: f32, mut order: Order) -> Order {
    let mut below = f32::INFINITY;
    while !order.is_full() {
        // Strictly below the last one taken: equals are taken together, in order of position.
        let next = scratch
            .totals
            .iter()
            .copied()
            .filter(|total| *total < bar && *total < below);
        let next = next.fold(f32::NEG_INFINITY, larger);
        if next == f32::NEG_INFINITY {
            break;
        }
        for (candidate, total) in scratch.totals.iter().enumerate() {
            if *total == next {
                order.push(scratch.at[candidate]);
            }
        }
        below = next;
    }
    order
}

/// Orders the candidates that are not much worse than the average by rendezvous: the highest hash of `head` and identity
/// first. All deciders that see about the same picture agree, and where a place is overloaded they agree on the next.
pub(super) fn by_head(server: &ModelServer, scratch: &mut Scratch, unit: f32, head: u64) -> Order {
    let mean = scratch.totals.iter().sum::<f32>() / scratch.totals.len().max(1) as f32;
    let bar = mean - COLD * unit;
    let mut top = [(0u64, 0u32); MAX_ENDPOINTS];
    let mut len = 0;
    for (candidate, total) in scratch.totals.iter().enumerate() {
        if *total < bar {
            continue;
        }
        let at = scratch.at[candidate];
        let rank = mix(head, server.endpoints[at as usize].id.0);
        if len < MAX_ENDPOINTS {
            len += 1;
        } else if rank <= top[len - 1].0 {
            continue;
        }
        let place = top[..len - 1].partition_point(|(higher, _)| *higher > rank);
        top[place..len].rotate_right(1);
        top[place] = (rank, at);
    }
    let mut order = Order::default();
    for (_, at) in &top[..len] {
        order.push(*at);
    }
    fill(scratch, bar, order)
}
