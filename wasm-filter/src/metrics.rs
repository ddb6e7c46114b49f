//! The filter's health in the host's own metrics.
//!
//! The ABI has no labels, and all VMs of a host share a metric by its name, so everything here is a sum over VMs: a VM
//! adds what changed since it last told. What must always hold: a VM that ends takes its part of the gauges back.

use crate::host::{Host, MetricId, MetricKind};

/// What a VM tells of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// VMs that have state to decide on.
    pub synced: u64,
    /// VMs whose stream to the controller stands.
    pub connected: u64,
    /// Requests that wait for state.
    pub held: u64,
    /// Requests that are known.
    pub requests: u64,
    /// Memory of the VM, bytes.
    pub memory_bytes: u64,
    /// VMs that decide by header and path alone.
    pub hold_off: u64,
    /// Requests that were sent on.
    pub dispatched: u64,
    /// Requests that the filter answered.
    pub answered: u64,
    /// Requests refused because the host does not show bodies while heads are held.
    pub unheld: u64,
    /// Requests that went on without a decision, as there was no state.
    pub undecided: u64,
    /// Streams to a controller begun.
    pub state_streams: u64,
    /// Messages of a controller.
    pub state_messages: u64,
    /// Messages of a controller that could not be read.
    pub state_malformed: u64,
    /// Resources refused.
    pub state_refused: u64,
    /// Times that the state was left for the next plugin.
    pub state_kept: u64,
    /// Times that the state could not be left, as it is too large.
    pub state_not_kept: u64,
    /// Placements dropped for want of room or of bytes a second.
    pub placements_dropped: u64,
    /// Placements of endpoints not known here.
    pub placements_unknown: u64,
    /// Requests counted under other labels for want of room.
    pub series_overflowed: u64,
}

const GAUGES: usize = 6;

const NAMES: [&str; 19] = [
    "kthena_synced",
    "kthena_connected",
    "kthena_held",
    "kthena_requests",
    "kthena_memory_bytes",
    "kthena_hold_off",
    "kthena_dispatched_total",
    "kthena_answered_total",
    "kthena_unheld_total",
    "kthena_undecided_total",
    "kthena_state_streams_total",
    "kthena_state_messages_total",
    "kthena_state_malformed_total",
    "kthena_state_refused_total",
    "kthena_state_kept_total",
    "kthena_state_not_kept_total",
    "kthena_placements_dropped_total",
    "kthena_placements_unknown_total",
    "kthena_series_overflowed_total",
];

impl Reading {
    fn values(&self) -> [u64; NAMES.len()] {
        [
            self.synced,
            self.connected,
            self.held,
            self.requests,
            self.memory_bytes,
            self.hold_off,
            self.dispatched,
            self.answered,
            self.unheld,
            self.undecided,
            self.state_streams,
            self.state_messages,
            self.state_malformed,
            self.state_refused,
            self.state_kept,
            self.state_not_kept,
            self.placements_dropped,
            self.placements_unknown,
            self.series_overflowed,
        ]
    }
}

/// The metrics of one VM.
#[derive(Debug)]
pub struct Metrics {
    ids: [MetricId; NAMES.len()],
    told: [u64; NAMES.len()],
}

impl Metrics {
    /// Declares them.
    pub fn new(host: &impl Host) -> Self {
        let kind = |at| {
            if at < GAUGES {
                MetricKind::Gauge
            } else {
                MetricKind::Counter
            }
        };
        Self {
            ids: std::array::from_fn(|at| host.define(kind(at), NAMES[at])),
            told: [0; NAMES.len()],
        }
    }

    /// Tells what changed.
    pub fn tell(&mut self, host: &impl Host, reading: &Reading) {
        let values = reading.values();
        for ((id, told), value) in self.ids.iter().zip(&mut self.told).zip(values) {
            let before = std::mem::replace(told, value);
            if before != value {
                host.add(*id, signed(value) - signed(before));
            }
        }
    }

    /// The VM ends: its part of the gauges goes.
    pub fn end(&mut self, host: &impl Host) {
        for (id, told) in self.ids.iter().zip(&mut self.told).take(GAUGES) {
            let before = std::mem::take(told);
            if before != 0 {
                host.add(*id, -signed(before));
            }
        }
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
