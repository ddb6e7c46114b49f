//! Objects from a Kubernetes API server: one watch a kind and namespace, and pods only where something selects them.
//!
//! What must always hold: what is known stays in force until the API server says otherwise: a watch that breaks, a right
//! that is taken away or a server that is restarted removes nothing; after each list, what it does not hold any more is
//! deleted. An object that cannot be read is named, keeps its last good version, and disturbs no other. A kind that the
//! server does not know is said once and awaited. It fails by waiting: every watch comes back by itself, with back-off.
//!
//! `watch` speaks to the server, one task a watch; `state` is told by all of them and decides what the events are, and
//! which namespaces' pods are to be watched. Nothing else is: no secrets, no pod of a namespace that selects none.

mod client;
mod definition;
mod pods;
mod report;
mod state;
mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kthena_gateway_api::{ExternalModelProvider, InferencePool, ModelRoute, ModelServer};
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use client::{ConnectError, Connection, Target};

use super::{Event, Kind, Object};
use crate::metrics;
use report::{Report, WatchId};
use state::State;
use watch::Watch;

/// Reports of all watches that may wait for the state; then the watches wait.
const REPORTS: usize = 1024;

/// Reports taken in at one time, at most: they become one batch of events.
const TAKEN_AT_ONCE: usize = 1024;

/// Batches that wait for the reader.
const BATCHES: usize = 16;

/// What is watched, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Only these namespaces; empty = all.
    pub namespaces: Vec<String>,
    /// Objects taken in; more are left out.
    pub max_objects: usize,
    /// Objects in one page of a list.
    pub page: u32,
    /// First and longest time between two tries of a watch that fails.
    pub retry: (Duration, Duration),
}

/// A watched API server; dropping it ends all watches.
#[derive(Debug)]
pub struct KubernetesSource {
    /// What changed. The first batches hold everything there is; [`Event::Synced`] comes after all of it.
    pub events: mpsc::Receiver<Vec<Event>>,
    _task: EndOnDrop,
}

/// A task that ends with what holds this.
#[derive(Debug)]
struct EndOnDrop(JoinHandle<()>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The watches that run, and what they tell.
struct Watches {
    client: Client,
    settings: Settings,
    metrics: metrics::Watch,
    state: State,
    running: BTreeMap<WatchId, EndOnDrop>,
    // Kept open: the last watch must not end the reading.
    report: mpsc::Sender<Report>,
}

// === impl KubernetesSource ===

impl KubernetesSource {
    /// Begins to watch.
    pub fn start(client: Client, settings: Settings, metrics: metrics::Watch) -> Self {
        let (events, receiver) = mpsc::channel(BATCHES);
        let (report, reports) = mpsc::channel(REPORTS);
        let watches = Watches {
            client,
            state: State::new(settings.max_objects),
            settings,
            metrics,
            running: BTreeMap::new(),
            report,
        };
        Self {
            events: receiver,
            _task: EndOnDrop(tokio::spawn(watches.run(reports, events))),
        }
    }
}

// === impl Watches ===

impl Watches {
    async fn run(mut self, mut reports: mpsc::Receiver<Report>, events: mpsc::Sender<Vec<Event>>) {
        for id in self.fixed() {
            self.begin(id);
        }
        let mut taken = Vec::with_capacity(TAKEN_AT_ONCE);
        while reports.recv_many(&mut taken, TAKEN_AT_ONCE).await > 0 {
            let mut batch = Vec::new();
            for report in taken.drain(..) {
                self.state.take(report, &mut batch);
            }
            self.follow_pods(&mut batch);
            self.state.settle(&mut batch);
            self.show_refused();
            self.metrics.reports_waiting.set(reports.len() as i64);
            if !batch.is_empty() && events.send(batch).await.is_err() {
                return;
            }
            let waiting = events.max_capacity() - events.capacity();
            self.metrics.batches_waiting.set(waiting as i64);
        }
    }

    fn show_refused(&self) {
        let refused = self.state.refused();
        let before = self.metrics.objects_refused.get();
        if refused > before {
            tracing::warn!(
                refused,
                max = self.settings.max_objects,
                "more objects than --watch-max-objects: the rest is left out until there is room and it changes"
            );
            self.metrics.objects_refused.inc_by(refused - before);
        }
    }

    /// What is watched from the beginning to the end.
    fn fixed(&self) -> Vec<WatchId> {
        let kinds = [
            Kind::ModelRoute,
            Kind::ModelServer,
            Kind::ExternalModelProvider,
            Kind::InferencePool,
        ];
        let namespaces: Vec<Option<String>> = match self.settings.namespaces.as_slice() {
            [] => vec![None],
            some => some.iter().cloned().map(Some).collect(),
        };
        kinds
            .into_iter()
            .flat_map(|kind| {
                namespaces
                    .iter()
                    .cloned()
                    .map(move |namespace| WatchId::new(kind, namespace))
            })
            .collect()
    }

    /// Watches pods where something selects them, and nowhere else.
    fn follow_pods(&mut self, batch: &mut Vec<Event>) {
        let change = self.state.pods_wanted();
        for id in change.begin {
            self.begin(id);
        }
        for id in change.end {
            self.running.remove(&id);
            self.state.end(&id, batch);
        }
        let pods = self.running.keys().filter(|id| id.kind() == Kind::Pod).count();
        self.metrics.pod_namespaces.set(pods as i64);
    }

    fn begin(&mut self, id: WatchId) {
        let epoch = self.state.begin(id.clone());
        let watch = Watch {
            client: self.client.clone(),
            id: id.clone(),
            epoch,
            page: self.settings.page,
            retry: self.settings.retry,
            metrics: self.metrics.clone(),
            report: self.report.clone(),
        };
        let task = match id.kind() {
            Kind::ModelRoute => tokio::spawn(watch.run::<ModelRoute>(Object::ModelRoute)),
            Kind::ModelServer => tokio::spawn(watch.run::<ModelServer>(Object::ModelServer)),
            Kind::ExternalModelProvider => {
                tokio::spawn(watch.run::<ExternalModelProvider>(Object::ExternalModelProvider))
            }
            Kind::InferencePool => tokio::spawn(watch.run::<InferencePool>(Object::InferencePool)),
            Kind::Pod => tokio::spawn(watch.run::<Pod>(|pod| Object::Pod(pods::trimmed(&pod)))),
        };
        self.running.insert(id, EndOnDrop(task));
    }
}
