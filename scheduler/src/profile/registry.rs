//! The plugins there are: one line each.
//!
//! What must always hold: names are unique and sorted, as they travel in this order when a filter says what it can run.

use serde_json::{Map, Value};

use super::plugin::{Filter, Refusal, Score};
use super::{gpu_usage, least_latency, least_request, lora_affinity, prefix_cache, random};

/// Makes one kind of plugin from its arguments.
type Make<P> = Option<fn(&Map<String, Value>) -> Result<Box<P>, Refusal>>;

/// How one plugin is made: as a filter, as a score, or as either.
pub(super) struct Registered {
    pub(super) name: &'static str,
    pub(super) filter: Make<dyn Filter>,
    pub(super) score: Make<dyn Score>,
}

#[rustfmt::skip]
pub(super) const PLUGINS: &[Registered] = &[
    Registered { name: "gpu-usage", filter: None, score: Some(gpu_usage::score) },
    Registered { name: "least-latency", filter: None, score: Some(least_latency::score) },
    Registered { name: "least-request", filter: Some(least_request::filter), score: Some(least_request::score) },
    Registered { name: "lora-affinity", filter: Some(lora_affinity::filter), score: None },
    Registered { name: "prefix-cache", filter: None, score: Some(prefix_cache::score) },
    Registered { name: "random", filter: None, score: Some(random::score) },
];

/// Plugins of Kthena that are known by name and not built here.
pub(super) const NOT_BUILT: &[&str] = &["kvcache-aware"];

/// The plugin of this name.
pub(super) fn find(name: &str) -> Option<&'static Registered> {
    PLUGINS.iter().find(|plugin| plugin.name == name)
}
