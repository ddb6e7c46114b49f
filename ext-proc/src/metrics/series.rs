//! The time series of requests: found once by what a request was, then counted without making a string.
//!
//! What must always hold: the number of series is bounded by a setting; what goes beyond it is counted under `other`
//! labels, so that sums stay right, and the metric of the bound says so.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use kthena_scheduler::tally::Request;
use kthena_scheduler::tally::names::{self, NONE, OTHER};
use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Label names and values in the order shown.
pub(super) type Labels = Vec<(&'static str, String)>;
pub(super) type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// What tells series of requests apart, all values bounded but the resources' names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key<'a> {
    model: &'a str,
    path: &'static str,
    route: &'a str,
    server: &'a str,
    upstream_model: &'a str,
    status: u16,
    error_type: &'static str,
}

/// The handles of one series.
#[derive(Debug)]
pub(super) struct Series {
    key: [Box<str>; 4],
    path: &'static str,
    status: u16,
    error_type: &'static str,
    requests: Counter,
    seconds: Histogram,
    input: Counter,
    output: Counter,
    server_seconds: Histogram,
    first_token: Histogram,
    input_tokens: Histogram,
    output_tokens: Histogram,
}

/// All series of requests.
#[derive(Debug)]
pub(super) struct RequestSeries {
    families: Families,
    hasher: RandomState,
    series: RwLock<HashMap<u64, Vec<Arc<Series>>>>,
    /// Guards the count, so that the bound holds when many requests are the first of their kind.
    count: Mutex<usize>,
    max: usize,
    /// Requests counted under `other` for want of room.
    pub(super) overflowed: Counter<u64, AtomicU64>,
}

#[derive(Debug)]
struct Families {
    requests: Family<Labels, Counter>,
    seconds: Histograms,
    tokens: Family<Labels, Counter>,
    server_seconds: Histograms,
    first_token: Histograms,
    token_usage: Histograms,
}

fn request_seconds() -> Histogram {
    Histogram::new(names::REQUEST_SECONDS)
}

fn server_seconds() -> Histogram {
    Histogram::new(names::SERVER_SECONDS)
}

fn first_token() -> Histogram {
    Histogram::new(names::FIRST_TOKEN_SECONDS)
}

fn token_usage() -> Histogram {
    Histogram::new(names::TOKENS)
}

/// A metric by model alone, found without making a string.
#[derive(Debug)]
pub(super) struct ByModel<M> {
    pub(super) family: Family<Labels, M, fn() -> M>,
    found: RwLock<HashMap<Box<str>, M>>,
    max: usize,
}

// === impl ByModel ===

impl<M: Clone> ByModel<M> {
    /// At most `max` models are told apart; each has what `make` makes.
    pub(super) fn new(max: usize, make: fn() -> M) -> Self {
        Self {
            family: Family::new_with_constructor(make),
            found: RwLock::default(),
            max,
        }
    }

    /// The metric of a model.
    pub(super) fn of(&self, model: &str) -> M {
        if let Some(metric) = self.found.read().get(model) {
            return metric.clone();
        }
        let mut found = self.found.write();
        let model = if found.len() < self.max { model } else { OTHER };
        let made = self.family.get_or_create_owned(&vec![("model", model.to_owned())]);
        found.insert(model.into(), made.clone());
        made
    }
}

// === impl Families ===

impl Families {
    fn register(registry: &mut Registry) -> Self {
        let families = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(request_seconds),
            tokens: Family::default(),
            server_seconds: Family::new_with_constructor(server_seconds),
            first_token: Family::new_with_constructor(first_token),
            token_usage: Family::new_with_constructor(token_usage),
        };
        let kthena = registry.sub_registry_with_prefix("kthena_router");
        kthena.register("requests", "Requests that are over", families.requests.clone());
        kthena.register(
            "request_duration_seconds",
            "From the first byte of a request to the last of its answer",
            families.seconds.clone(),
        );
        kthena.register("tokens", "Tokens as the engines counted them", families.tokens.clone());
        registry.register(
            "gen_ai_server_request_duration_seconds",
            "Duration of requests (OpenTelemetry gen_ai.server.request.duration)",
            families.server_seconds.clone(),
        );
        registry.register(
            "gen_ai_server_time_to_first_token_seconds",
            "Time to the first byte of answers without error (OpenTelemetry gen_ai.server.time_to_first_token)",
            families.first_token.clone(),
        );
        registry.register(
            "gen_ai_client_token_usage",
            "Tokens of requests (OpenTelemetry gen_ai.client.token.usage)",
            families.token_usage.clone(),
        );
        families
    }

    fn series(&self, key: &Key<'_>) -> Series {
        let destination = |labels: &mut Labels| {
            let backend = if key.server == NONE { NONE } else { "model_server" };
            let values = [
                ("model_route", key.route),
                ("backend_type", backend),
                ("backend_name", key.server),
                ("upstream_model", key.upstream_model),
            ];
            labels.extend(values.map(|(name, value)| (name, value.to_owned())));
        };
        let labels = |extra: &[(&'static str, &str)]| {
            let mut labels: Labels = vec![("model", key.model.to_owned()), ("path", key.path.to_owned())];
            labels.extend(extra.iter().map(|(name, value)| (*name, (*value).to_owned())));
            destination(&mut labels);
            labels
        };
        let status = if key.status == 0 {
            String::new()
        } else {
            key.status.to_string()
        };
        let gen_ai = |extra: &[(&'static str, &str)]| {
            let mut labels: Labels = vec![
                ("gen_ai_operation_name", names::operation(key.path).to_owned()),
                ("gen_ai_request_model", key.model.to_owned()),
            ];
            labels.extend(extra.iter().map(|(name, value)| (*name, (*value).to_owned())));
            labels
        };
        let usage = |kind| {
            self.token_usage
                .get_or_create_owned(&gen_ai(&[("gen_ai_token_type", kind)]))
        };
        let outcome = [("status_code", status.as_str()), ("error_type", key.error_type)];
        Series {
            key: [key.model, key.route, key.server, key.upstream_model].map(Into::into),
            path: key.path,
            status: key.status,
            error_type: key.error_type,
            requests: self.requests.get_or_create_owned(&labels(&outcome)),
            seconds: self.seconds.get_or_create_owned(&labels(&outcome[..1])),
            input: self.tokens.get_or_create_owned(&labels(&[("token_type", "input")])),
            output: self.tokens.get_or_create_owned(&labels(&[("token_type", "output")])),
            server_seconds: self
                .server_seconds
                .get_or_create_owned(&gen_ai(&[("error_type", key.error_type)])),
            first_token: self.first_token.get_or_create_owned(&gen_ai(&[])),
            input_tokens: usage("input"),
            output_tokens: usage("output"),
        }
    }
}

// === impl RequestSeries ===

impl RequestSeries {
    pub(super) fn register(registry: &mut Registry, max: usize) -> Self {
        Self {
            families: Families::register(registry),
            hasher: RandomState::new(),
            series: RwLock::default(),
            count: Mutex::new(0),
            max,
            overflowed: Counter::default(),
        }
    }

    /// Counts a request that is over.
    pub(super) fn count(&self, request: &Request<'_>) {
        let key = Key {
            model: request.model.unwrap_or("unknown"),
            path: names::path(request.path),
            route: request.route.unwrap_or(NONE),
            server: request.server.unwrap_or(NONE),
            upstream_model: request.upstream_model.or(request.model).unwrap_or(NONE),
            status: request.status.unwrap_or(0),
            error_type: names::error_type(request.error_type),
        };
        self.find(&key).count(request);
    }

    fn find(&self, key: &Key<'_>) -> Arc<Series> {
        let hash = self.hasher.hash_one(key);
        let of_hash = |all: &HashMap<u64, Vec<Arc<Series>>>| {
            let found = all.get(&hash)?.iter().find(|series| series.is(key));
            found.map(Arc::clone)
        };
        if let Some(series) = of_hash(&self.series.read()) {
            return series;
        }
        let mut count = self.count.lock();
        if let Some(series) = of_hash(&self.series.read()) {
            return series;
        }
        // One more than the bound: the series that stands for the rest.
        if *count >= self.max && key.model != OTHER {
            drop(count);
            self.overflowed.inc();
            let rest = Key {
                model: OTHER,
                path: OTHER,
                route: OTHER,
                server: OTHER,
                upstream_model: OTHER,
                status: key.status / 100 * 100,
                error_type: "",
            };
            return self.find(&rest);
        }
        *count += 1;
        let series = Arc::new(self.families.series(key));
        self.series.write().entry(hash).or_default().push(Arc::clone(&series));
        series
    }
}

// === impl Series ===

impl Series {
    fn is(&self, key: &Key<'_>) -> bool {
        let [model, route, server, upstream_model] = &self.key;
        **model == *key.model
            && self.path == key.path
            && **route == *key.route
            && **server == *key.server
            && **upstream_model == *key.upstream_model
            && self.status == key.status
            && self.error_type == key.error_type
    }

    fn count(&self, request: &Request<'_>) {
        self.requests.inc();
        if let Some(seconds) = request.duration_s {
            self.seconds.observe(seconds);
            self.server_seconds.observe(seconds);
        }
        let served = request.error_type.is_none() && request.status.is_some_and(|status| status < 400);
        if let Some(seconds) = request.first_byte_s.filter(|_| served) {
            self.first_token.observe(seconds);
        }
        if let Some(tokens) = request.input_tokens {
            self.input.inc_by(tokens);
            self.input_tokens.observe(tokens as f64);
        }
        if let Some(tokens) = request.output_tokens {
            self.output.inc_by(tokens);
            self.output_tokens.observe(tokens as f64);
        }
    }
}
