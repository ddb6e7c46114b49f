//! How long scheduling plugins take: of one decision in [`SAMPLED`], whose plugins are run once more for it.
//!
//! What must always hold: a decision that is not of the sample pays one addition. The number of series is bounded.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use kthena_scheduler::exchange::Record;
use kthena_scheduler::load::Fleet;
use kthena_scheduler::pick::{Again, Role, Scratch, rehearse};
use kthena_scheduler::tally::names::{OTHER, PLUGIN_SECONDS};
use kthena_scheduler::time::Time;
use parking_lot::Mutex;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::model_of;

use super::series::Histograms;

/// One decision in so many is of the sample, the first among them.
const SAMPLED: u64 = 64;

/// Times of plugins.
#[derive(Debug)]
pub struct PluginTimes {
    family: Histograms,
    decisions: AtomicU64,
    models: Mutex<BTreeSet<Box<str>>>,
    max_models: usize,
}

impl PluginTimes {
    pub(super) fn new(max_models: usize) -> Self {
        Self {
            family: Family::new_with_constructor(|| Histogram::new(PLUGIN_SECONDS)),
            decisions: AtomicU64::new(0),
            models: Mutex::default(),
            max_models,
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "kthena_router_scheduler_plugin_duration_seconds",
            "Time that a plugin takes over all endpoints of a decision, of one decision in 64",
            self.family.clone(),
        );
    }

    /// Whether the decision that was just made is of the sample.
    pub fn is_due(&self) -> bool {
        self.decisions.fetch_add(1, Relaxed).is_multiple_of(SAMPLED)
    }

    /// Times the plugins of the decision that `scratch` remembers, made at `now` for the request of `record`.
    pub fn measure(&self, record: &Record, fleet: &Fleet, now: Time, scratch: &Scratch) {
        let Some(server) = &record.server else { return };
        let engine_model = record.upstream_model.as_deref().or(record.model.as_deref());
        let again = Again {
            server,
            fleet,
            model: engine_model.unwrap_or_default(),
            total_blocks: record.total_blocks,
            now,
        };
        let model = self.bounded(model_of(record));
        rehearse(&again, scratch, |name, role, plugin| {
            let begun = Instant::now();
            plugin();
            let took = begun.elapsed();
            let role = match role {
                Role::Filter => "filter",
                Role::Score => "score",
            };
            let labels = [("model", &*model), ("plugin", name), ("type", role)];
            let labels = labels.map(|(name, value)| (name, value.to_owned())).to_vec();
            self.family.get_or_create_owned(&labels).observe(took.as_secs_f64());
        });
    }

    fn bounded(&self, model: &str) -> Box<str> {
        let mut models = self.models.lock();
        if models.len() < self.max_models {
            models.insert(model.into());
        }
        if models.contains(model) { model } else { OTHER }.into()
    }
}
