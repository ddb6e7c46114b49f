//! The controller's own metrics, in one registry that is handed in, not global.
//!
//! Label values come from fixed sets or from configuration, never from what a client or an engine sends.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// One label from a fixed set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// What is counted.
    pub kind: &'static str,
}

/// The label `model_server`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ModelServer {
    /// `namespace/name`.
    pub model_server: String,
}

/// Metrics of the state service.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Connected subscribers.
    pub subscribers: Gauge,
    /// Subscriptions refused, by reason.
    pub rejected: Family<Kind, Counter>,
    /// New files of certificates, by what became of them.
    pub certificates: Family<Kind, Counter>,
    /// Subscriptions that were ended by us, by reason.
    pub ended: Family<Kind, Counter>,
    /// Messages sent, by kind.
    pub messages: Family<Kind, Counter>,
    /// Bytes of the messages sent.
    pub bytes: Counter,
    /// Time from a new configuration to a filter's acknowledgement, seconds.
    pub lag: Histogram,
    /// Resources refused by filters, by type.
    pub refusals: Family<Kind, Counter>,
    /// Reports received, by outcome.
    pub reports: Family<Kind, Counter>,
    /// Messages about requests that are over, by outcome.
    pub counts: Family<Kind, Counter>,
    /// Origins whose counts are merged.
    pub origins: Gauge,
    /// Requests that filters hold for want of an endpoint.
    pub waiting: Family<ModelServer, Gauge>,
    /// Placements that were not relayed, by reason.
    pub placements_dropped: Family<Kind, Counter>,
    /// Bytes of placements kept for new subscribers.
    pub placements_bytes: Gauge,
    /// Settlements that were not relayed, by reason.
    pub settlements_dropped: Family<Kind, Counter>,
    /// Endpoints whose last observation is another controller's.
    pub of_others: Gauge,
    /// Of other controllers.
    pub peers: Peers,
}

/// Metrics of what controllers tell each other.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// Addresses where a controller may be, this one's own among them.
    pub known: Gauge,
    /// Addresses left out because as many as are allowed are known.
    pub refused: Gauge,
    /// Controllers that this one follows.
    pub followed: Gauge,
    /// Controllers that follow this one.
    pub followers: Gauge,
    /// Streams that could not be had, or broke off, by reason.
    pub failures: Family<Kind, Counter>,
    /// Messages from other controllers, by kind.
    pub messages: Family<Kind, Counter>,
    /// What other controllers told and there was no room for, by what it was.
    pub dropped: Family<Kind, Counter>,
}

/// Metrics of observation.
#[derive(Clone, Debug)]
pub struct Observe {
    /// Endpoints observed.
    pub targets: Gauge,
    /// Endpoints that are down.
    pub down: Gauge,
    /// Time of a scrape, seconds.
    pub duration: Histogram,
    /// Scrapes that failed, by reason.
    pub failures: Family<Kind, Counter>,
    /// Scrapes that had to wait because as many as are allowed were in flight.
    pub throttled: Counter,
    /// Targets left out because as many as are allowed are observed.
    pub targets_refused: Gauge,
}

/// Metrics of the way from objects to files and filters.
#[derive(Clone, Debug)]
pub struct Compile {
    /// Time of a compilation, seconds.
    pub duration: Histogram,
    /// Documents that cannot be read or are not accepted now.
    pub bad_documents: Gauge,
    /// Objects known, by kind.
    pub objects: Family<Kind, Gauge>,
    /// Resources in force, by type.
    pub resources: Family<Kind, Gauge>,
    /// Envoy files written.
    pub envoy_writes: Counter,
    /// Writes of Envoy's files that failed.
    pub envoy_write_failures: Counter,
    /// Removals that did not wait any longer for the filters' acknowledgement.
    pub removals_unacknowledged: Counter,
}

/// Metrics of the watches of an API server.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Lists begun, by kind: one at the start of each watch, further ones where a watch expired.
    pub lists: Family<Kind, Counter>,
    /// Lists and watches that failed or broke off, by kind.
    pub failures: Family<Kind, Counter>,
    /// Namespaces whose pods are watched.
    pub pod_namespaces: Gauge,
    /// Objects left out because as many as are allowed are known.
    pub objects_refused: Counter,
    /// Reports of watches that wait to be taken in.
    pub reports_waiting: Gauge,
    /// Batches of events that wait for the main loop.
    pub batches_waiting: Gauge,
}

/// Metrics of what is written to the API server.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// 1 while this controller leads.
    pub leading: Gauge,
    /// Writes of a status, by outcome.
    pub writes: Family<Kind, Counter>,
    /// Statuses that wait to be written.
    pub waiting: Gauge,
    /// Events, by outcome.
    pub events: Family<Kind, Counter>,
}

/// All metrics.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Of the state service.
    pub publish: Publish,
    /// Of observation.
    pub observe: Observe,
    /// Of compilation.
    pub compile: Compile,
    /// Of the watches of an API server.
    pub watch: Watch,
    /// Of what is written to it.
    pub status: Status,
}

/// A label value of a fixed set.
pub fn kind(kind: &'static str) -> Kind {
    Kind { kind }
}

// === impl Metrics ===

impl Metrics {
    /// Registers everything under `kthena_controller_`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("kthena_controller");
        self.publish.register(registry);
        self.observe.register(registry);
        self.compile.register(registry);
        self.watch.register(registry);
        self.status.register(registry);
    }
}

// === impl Publish ===

impl Publish {
    fn register(&self, r: &mut Registry) {
        r.register("subscribers", "Connected filters", self.subscribers.clone());
        r.register(
            "subscriptions_rejected",
            "Subscriptions refused, by reason",
            self.rejected.clone(),
        );
        r.register(
            "state_certificates",
            "New files of the state service's certificates: taken up, or refused and those before kept",
            self.certificates.clone(),
        );
        r.register(
            "subscriptions_ended",
            "Subscriptions ended by the controller, by reason",
            self.ended.clone(),
        );
        r.register("pushes", "Messages pushed to filters, by kind", self.messages.clone());
        r.register("pushed_bytes", "Bytes pushed to filters", self.bytes.clone());
        r.register(
            "push_lag_seconds",
            "Time from a new configuration to its acknowledgement by a filter",
            self.lag.clone(),
        );
        r.register(
            "refusals",
            "Resources refused by filters, by type",
            self.refusals.clone(),
        );
        r.register(
            "reports",
            "Reports received from filters, by outcome",
            self.reports.clone(),
        );
        r.register(
            "filter_counts",
            "Messages of filters about requests that are over, by outcome",
            self.counts.clone(),
        );
        r.register("origins", "Deciders whose counts are merged", self.origins.clone());
        r.register(
            "waiting_requests",
            "Requests that filters hold for want of an endpoint",
            self.waiting.clone(),
        );
        r.register(
            "placements_dropped",
            "Placements that were not relayed, by reason",
            self.placements_dropped.clone(),
        );
        r.register(
            "placements_kept_bytes",
            "Bytes of placements kept for new filters",
            self.placements_bytes.clone(),
        );
        r.register(
            "settlements_dropped",
            "Settlements that were not relayed, by reason",
            self.settlements_dropped.clone(),
        );
        r.register(
            "scrape_targets_of_others",
            "Endpoints whose last observation is another controller's",
            self.of_others.clone(),
        );
        self.peers.register(r);
    }
}

// === impl Peers ===

impl Peers {
    fn register(&self, r: &mut Registry) {
        r.register(
            "peer_addresses",
            "Addresses where a controller may be, this one's own among them",
            self.known.clone(),
        );
        r.register(
            "peer_addresses_refused",
            "Addresses left out because the bound is reached",
            self.refused.clone(),
        );
        r.register(
            "peers",
            "Controllers that tell this one what they know",
            self.followed.clone(),
        );
        r.register(
            "peer_followers",
            "Controllers that this one tells what it knows",
            self.followers.clone(),
        );
        r.register(
            "peer_failures",
            "Streams from other controllers that could not be had or broke off, by reason",
            self.failures.clone(),
        );
        r.register(
            "peer_messages",
            "Messages from other controllers, by kind",
            self.messages.clone(),
        );
        r.register(
            "peer_dropped",
            "What other controllers told and there was no room for, by kind",
            self.dropped.clone(),
        );
    }
}

impl Default for Publish {
    fn default() -> Self {
        Self {
            subscribers: Gauge::default(),
            rejected: Family::default(),
            certificates: Family::default(),
            ended: Family::default(),
            messages: Family::default(),
            bytes: Counter::default(),
            lag: Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0]),
            refusals: Family::default(),
            reports: Family::default(),
            counts: Family::default(),
            origins: Gauge::default(),
            waiting: Family::default(),
            placements_dropped: Family::default(),
            placements_bytes: Gauge::default(),
            settlements_dropped: Family::default(),
            of_others: Gauge::default(),
            peers: Peers::default(),
        }
    }
}

// === impl Watch ===

impl Watch {
    fn register(&self, r: &mut Registry) {
        r.register(
            "watch_lists",
            "Lists of the API server begun, by kind",
            self.lists.clone(),
        );
        r.register(
            "watch_failures",
            "Lists and watches of the API server that failed or broke off, by kind",
            self.failures.clone(),
        );
        r.register(
            "watched_pod_namespaces",
            "Namespaces whose pods are watched",
            self.pod_namespaces.clone(),
        );
        r.register(
            "watch_objects_refused",
            "Objects left out because the bound is reached",
            self.objects_refused.clone(),
        );
        r.register(
            "watch_reports_waiting",
            "Reports of watches that wait to be taken in",
            self.reports_waiting.clone(),
        );
        r.register(
            "source_batches_waiting",
            "Batches of events that wait to be compiled",
            self.batches_waiting.clone(),
        );
    }
}

// === impl Status ===

impl Status {
    fn register(&self, r: &mut Registry) {
        r.register("leading", "1 while this controller leads", self.leading.clone());
        r.register("status_writes", "Writes of a status, by outcome", self.writes.clone());
        r.register(
            "status_waiting",
            "Statuses that wait to be written",
            self.waiting.clone(),
        );
        r.register("events", "Kubernetes events, by outcome", self.events.clone());
    }
}

// === impl Observe ===

impl Observe {
    fn register(&self, r: &mut Registry) {
        r.register("scrape_targets", "Endpoints observed", self.targets.clone());
        r.register(
            "endpoints_down",
            "Endpoints observed to be unable to serve",
            self.down.clone(),
        );
        r.register("scrape_duration_seconds", "Time of a scrape", self.duration.clone());
        r.register(
            "scrape_failures",
            "Scrapes that failed, by reason",
            self.failures.clone(),
        );
        r.register(
            "scrapes_throttled",
            "Scrapes that waited for one of the allowed number to end",
            self.throttled.clone(),
        );
        r.register(
            "scrape_targets_refused",
            "Endpoints not observed because the bound is reached",
            self.targets_refused.clone(),
        );
    }
}

impl Default for Observe {
    fn default() -> Self {
        Self {
            targets: Gauge::default(),
            down: Gauge::default(),
            duration: Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]),
            failures: Family::default(),
            throttled: Counter::default(),
            targets_refused: Gauge::default(),
        }
    }
}

// === impl Compile ===

impl Compile {
    fn register(&self, r: &mut Registry) {
        r.register(
            "compile_duration_seconds",
            "Time of a compilation",
            self.duration.clone(),
        );
        r.register(
            "bad_documents",
            "Documents that cannot be read or are not accepted",
            self.bad_documents.clone(),
        );
        r.register("objects", "Objects known, by kind", self.objects.clone());
        r.register(
            "resources",
            "Compiled resources in force, by type",
            self.resources.clone(),
        );
        r.register("envoy_writes", "Envoy files written", self.envoy_writes.clone());
        r.register(
            "envoy_write_failures",
            "Writes of Envoy files that failed",
            self.envoy_write_failures.clone(),
        );
        r.register(
            "removals_unacknowledged",
            "Removals from Envoy that did not wait for every filter",
            self.removals_unacknowledged.clone(),
        );
    }
}

impl Default for Compile {
    fn default() -> Self {
        Self {
            duration: Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0]),
            bad_documents: Gauge::default(),
            objects: Family::default(),
            resources: Family::default(),
            envoy_writes: Counter::default(),
            envoy_write_failures: Counter::default(),
            removals_unacknowledged: Counter::default(),
        }
    }
}
