//! SGLang's metrics, after its documentation of production metrics; not compared with a recording.

use std::fmt::Write;

use crate::endpoint::Snapshot;
use crate::engine::stats::Histogram;
use crate::settings::ModelServer;

/// The metrics of one incarnation.
pub(super) fn render(server: &ModelServer, snapshot: &Snapshot) -> String {
    let mut page = Page {
        out: String::with_capacity(16 << 10),
        model: &server.model,
    };
    let (load, stats) = (&snapshot.load, &snapshot.stats);
    let hit_rate = stats.prefix_hits as f64 / (stats.prefix_queries.max(1)) as f64;
    let used = load.kv_usage * f64::from(server.engine.blocks) * f64::from(server.engine.block_size);
    page.single(
        "prompt_tokens_total",
        "counter",
        "Number of prefill tokens processed.",
        stats.prompt_tokens as f64,
    );
    let generated = stats.generation_tokens as f64;
    page.single(
        "generation_tokens_total",
        "counter",
        "Number of generation tokens processed.",
        generated,
    );
    page.single(
        "cached_tokens_total",
        "counter",
        "Number of cached prompt tokens.",
        stats.cached_tokens as f64,
    );
    let finished = stats.stopped + stats.reached_length;
    page.single(
        "num_requests_total",
        "counter",
        "Number of requests processed.",
        finished as f64,
    );
    page.single(
        "num_running_reqs",
        "gauge",
        "The number of running requests.",
        load.running as f64,
    );
    page.single(
        "num_queue_reqs",
        "gauge",
        "The number of requests in the waiting queue.",
        load.waiting as f64,
    );
    page.single("num_used_tokens", "gauge", "The number of used tokens.", used);
    page.single("token_usage", "gauge", "The token usage.", load.kv_usage);
    page.single("cache_hit_rate", "gauge", "The prefix cache hit rate.", hit_rate);
    page.histogram(
        "time_to_first_token_seconds",
        "Histogram of time to first token in seconds.",
        &stats.first_token,
    );
    page.histogram(
        "inter_token_latency_seconds",
        "Histogram of inter-token latency in seconds.",
        &stats.inter_token,
    );
    page.histogram(
        "e2e_request_latency_seconds",
        "Histogram of End-to-end request latency in seconds",
        &stats.end_to_end,
    );
    page.out
}

struct Page<'a> {
    out: String,
    model: &'a str,
}

// Writing to a string cannot fail.
impl Page<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.out, "# HELP sglang:{name} {help}\n# TYPE sglang:{name} {kind}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        let _ = writeln!(self.out, "sglang:{name}{{model_name={:?}}} {value:?}", self.model);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let _ = writeln!(
            self.out,
            "sglang:{name}_sum{{model_name={:?}}} {:?}",
            self.model,
            histogram.sum()
        );
        let bounds = histogram
            .bounds()
            .iter()
            .map(|bound| format!("{bound:?}"))
            .chain(["+Inf".to_owned()]);
        for (index, bound) in bounds.enumerate() {
            let count = histogram.at_most(index) as f64;
            let _ = writeln!(
                self.out,
                "sglang:{name}_bucket{{le=\"{bound}\",model_name={:?}}} {count:?}",
                self.model
            );
        }
        let _ = writeln!(
            self.out,
            "sglang:{name}_count{{model_name={:?}}} {:?}",
            self.model,
            histogram.count() as f64
        );
    }
}
