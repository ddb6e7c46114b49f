//! What is known of one endpoint, whoever looked at it.

use std::sync::Arc;

use kthena_scheduler::load::{Latency, Sample};
use kthena_scheduler::time::Time;

use crate::compile::Fact;

/// What is known of one endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The last sample.
    pub sample: Sample,
    /// When it was read; `None` = never.
    pub sampled_at: Option<Time>,
    /// The last latency known.
    pub latency: Latency,
    /// When the interval behind the latency ended: the later of the two, where they differ.
    pub latency_at: Time,
    /// What makes the endpoint, not its load.
    pub fact: Arc<Fact>,
    /// True after several failures in a row.
    pub down: bool,
}
