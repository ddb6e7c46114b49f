//! What is counted, and the page that shows it.
//!
//! What must always hold: a request costs a look-up and a few additions, never a formatted string; the number of series
//! is bounded; nothing is counted that is not known (tokens that no engine told are not estimated). Names are Kthena's
//! where it has one, with its labels and buckets, OpenTelemetry's for generative AI, and our own.

mod plugins;
mod scrape;
mod series;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use kthena_scheduler::exchange::Record;
use kthena_scheduler::lease::LeaseTable;
use kthena_scheduler::tally::names;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use kthena_scheduler::tally::{Request, operation};
pub use plugins::PluginTimes;
pub use scrape::Readings;

use crate::state::State;
use scrape::Scrape;
use series::{ByModel, RequestSeries};

/// A request counts as active from its decision until this is dropped.
#[derive(Debug)]
pub struct Active(Gauge);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    readings: Arc<Readings>,
    requests: RequestSeries,
    match_ratio: ByModel<Histogram>,
    downstream: ByModel<Gauge>,
    /// Of a sample of decisions.
    pub plugins: PluginTimes,
    decisions: Histogram,
    over_limit: Counter<u64, AtomicU64>,
    certificates: Family<[(&'static str, &'static str); 2], Counter>,
    saturated: Counter<u64, AtomicU64>,
}

impl Metrics {
    /// Metrics of a process that reads this state and counts these leases; at most `max_series` kinds of requests are
    /// told apart.
    pub fn new(state: Arc<State>, leases: Arc<LeaseTable>, max_series: usize) -> Self {
        let mut registry = Registry::default();
        let readings = Arc::new(Readings::default());
        let requests = RequestSeries::register(&mut registry, max_series);
        let scrape = Scrape {
            state,
            leases,
            readings: Arc::clone(&readings),
        };
        registry.register_collector(Box::new(scrape));
        let metrics = Self {
            readings,
            requests,
            match_ratio: ByModel::new(max_series, || Histogram::new(names::MATCH_RATIO)),
            downstream: ByModel::new(max_series, Gauge::default),
            plugins: PluginTimes::new(max_series),
            decisions: Histogram::new(names::DECISION_SECONDS),
            over_limit: Counter::default(),
            certificates: Family::default(),
            saturated: Counter::default(),
            registry: Registry::default(),
        };
        metrics.register(registry)
    }

    fn register(self, mut registry: Registry) -> Self {
        registry.register(
            "kthena_router_prefix_cache_match_ratio",
            "Part of a prompt that the chosen endpoint was believed to hold",
            self.match_ratio.family.clone(),
        );
        registry.register(
            "kthena_router_active_downstream_requests",
            "Requests that were decided and whose ext_proc stream is open",
            self.downstream.family.clone(),
        );
        self.plugins.register(&mut registry);
        let own = registry.sub_registry_with_prefix("kthena_ext_proc");
        own.register(
            "decision_seconds",
            "Time that a step of a request's state machine with a decision takes",
            self.decisions.clone(),
        );
        own.register(
            "requests_over_body_limit",
            "Requests refused because their body is too large",
            self.over_limit.clone(),
        );
        own.register(
            "certificates",
            "New files of certificates, by whom they are shown to: taken up, or refused and those before kept",
            self.certificates.clone(),
        );
        own.register(
            "saturated_decisions",
            "Decisions for which the filters had left no endpoint",
            self.saturated.clone(),
        );
        own.register(
            "series_overflowed",
            "Requests counted under other labels, since there are too many series",
            self.requests.overflowed.clone(),
        );
        Self { registry, ..self }
    }

    /// Numbers kept by other parts and shown here.
    pub fn readings(&self) -> &Readings {
        &self.readings
    }

    /// New files of the certificates that are shown to Envoy, or the controller, were `taken` or `refused`.
    pub fn certificates(&self, to: &'static str, outcome: &'static str) {
        self.certificates
            .get_or_create(&[("to", to), ("outcome", outcome)])
            .inc();
    }

    /// An ext_proc stream began.
    pub fn stream_opened(&self) {
        self.readings.streams.fetch_add(1, Relaxed);
    }

    /// An ext_proc stream ended.
    pub fn stream_closed(&self) {
        self.readings.streams.fetch_sub(1, Relaxed);
    }

    /// A request was decided; the step that did it took so long. It is active until what is returned is dropped.
    pub fn decided(&self, record: &Record, took: Duration) -> Active {
        self.decisions.observe(took.as_secs_f64());
        if record.saturated {
            self.saturated.inc();
        }
        let model = model_of(record);
        if record.total_blocks > 0 {
            let ratio = f64::from(record.matched_blocks) / f64::from(record.total_blocks);
            self.match_ratio.of(model).observe(ratio);
        }
        let active = self.downstream.of(model);
        active.inc();
        Active(active)
    }

    /// A request is over.
    pub fn request_ended(&self, request: &Request<'_>) {
        if request.status == Some(413) && request.error_type.is_some() {
            self.over_limit.inc();
        }
        self.requests.count(request);
    }

    /// The page that Prometheus reads, in the OpenMetrics text format.
    ///
    /// # Errors
    /// When the text cannot be written, which does not happen to a string.
    pub fn page(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The model asked for, as a label's value.
fn model_of(record: &Record) -> &str {
    let known = record.model.as_deref().filter(|_| record.model_known);
    known.unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Sizes;

    fn metrics(max_series: usize) -> Metrics {
        let sizes = Sizes {
            max_endpoints: 4,
            prefix_index_bytes: 1 << 16,
            outbox: 4,
        };
        Metrics::new(State::new(&sizes), Arc::new(LeaseTable::new(1, 1)), max_series)
    }

    const CHAT: Request<'_> = Request {
        model: Some("m"),
        path: "/v1/chat/completions",
        status: Some(200),
        error_type: None,
        route: Some("a/r"),
        server: Some("a/s"),
        upstream_model: None,
        duration_s: Some(0.2),
        first_byte_s: Some(0.05),
        input_tokens: Some(7),
        output_tokens: None,
    };

    #[test]
    fn a_request_is_counted_under_kthenas_labels() {
        let metrics = metrics(10);
        metrics.request_ended(&CHAT);
        metrics.request_ended(&CHAT);
        let page = metrics.page().unwrap();
        let labels = r#"model="m",path="/v1/chat/completions""#;
        let to = r#"model_route="a/r",backend_type="model_server",backend_name="a/s",upstream_model="m""#;
        for line in [
            format!(r#"kthena_router_requests_total{{{labels},status_code="200",error_type="",{to}}} 2"#),
            format!(r#"kthena_router_request_duration_seconds_count{{{labels},status_code="200",{to}}} 2"#),
            format!(r#"kthena_router_tokens_total{{{labels},token_type="input",{to}}} 14"#),
            format!(r#"kthena_router_tokens_total{{{labels},token_type="output",{to}}} 0"#),
            "kthena_ext_proc_state_synced 0.0".to_owned(),
        ] {
            assert!(page.lines().any(|l| l == line), "no line `{line}` in:\n{page}");
        }
    }

    #[test]
    fn what_clients_choose_makes_no_series() {
        let metrics = metrics(3);
        for n in 0..100 {
            metrics.request_ended(&Request {
                model: None,
                path: &format!("/v1/{n}"),
                error_type: Some("made up"),
                ..CHAT
            });
        }
        let page = metrics.page().unwrap();
        let series = page
            .lines()
            .filter(|l| l.starts_with("kthena_router_requests_total"))
            .count();
        assert_eq!(series, 1, "{page}");
        assert!(page.contains(r#"model="unknown",path="other",status_code="200",error_type="other""#));
    }

    #[test]
    fn a_request_is_active_from_its_decision_to_its_end() {
        let metrics = metrics(10);
        let record = Record {
            model: Some("m".into()),
            model_known: true,
            ..Record::default()
        };
        let shown = |value: &str| {
            let line = format!(r#"kthena_router_active_downstream_requests{{model="m"}} {value}"#);
            metrics.page().unwrap().contains(&line)
        };
        let active = metrics.decided(&record, Duration::ZERO);
        assert!(shown("1"));
        drop(active);
        assert!(shown("0"));
    }

    #[test]
    fn series_beyond_the_bound_are_counted_together() {
        let metrics = metrics(2);
        let models: Vec<String> = (0..10).map(|n| format!("model-{n}")).collect();
        for model in &models {
            metrics.request_ended(&Request {
                model: Some(model),
                ..CHAT
            });
        }
        let page = metrics.page().unwrap();
        assert!(page.contains("kthena_ext_proc_series_overflowed_total 8"), "{page}");
        let rest = page
            .lines()
            .find(|l| l.contains("requests_total") && l.contains(r#"model="other""#));
        assert!(rest.is_some_and(|line| line.ends_with(" 8")), "{page}");
    }
}
