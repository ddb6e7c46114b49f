//! What one changed pod costs from the event to the configuration that filters are compared with, among few objects and among many.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot begin ends")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use kthena_controller::clock::Clock;
use kthena_controller::compile::{Compiler, Facts, Resources, Settings, Touched};
use kthena_controller::envoy::{self, Rollout};
use kthena_controller::index::Index;
use kthena_controller::metrics::Metrics;
use kthena_controller::observe::Table;
use kthena_controller::publish::{self, Bounds, Hub, PeerBounds};
use kthena_controller::source::{Event, Object, OrderKey, Origin};
use serde_json::{Value, json};

const API: &str = "networking.serving.volcano.sh/v1alpha1";

/// Pods of each ModelServer.
const PODS: usize = 5;

fn apply(object: Object) -> Event {
    let name = object.key().name;
    let origin = Origin {
        place: String::new(),
        order: OrderKey::Created(0, "default".into(), name),
        warnings: Vec::new(),
    };
    Event::Apply(object, origin)
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pod(server: usize, number: usize, ready: bool) -> Object {
    let status = if ready { "True" } else { "False" };
    Object::Pod(read(json!({
        "metadata": {"name": format!("p-{server}-{number}"), "namespace": "default", "uid": format!("u-{server}-{number}"), "labels": {"app": format!("s-{server}")}},
        "status": {"phase": "Running", "podIP": format!("10.{}.{}.{number}", server / 250, server % 250), "conditions": [{"type": "Ready", "status": status}]},
    })))
}

fn index(servers: usize) -> Index {
    let mut index = Index::default();
    for server in 0..servers {
        let name = format!("s-{server}");
        index.apply(apply(Object::ModelServer(read(json!({
            "apiVersion": API, "kind": "ModelServer", "metadata": {"name": name, "namespace": "default"},
            "spec": {"inferenceEngine": "vLLM", "workloadSelector": {"matchLabels": {"app": name}}, "workloadPort": {"port": 8000}},
        })))));
        index.apply(apply(Object::ModelRoute(read(json!({
            "apiVersion": API, "kind": "ModelRoute", "metadata": {"name": name, "namespace": "default"},
            "spec": {"modelName": name, "rules": [{"targetModels": [{"modelServerName": name}]}]},
        })))));
        for number in 0..PODS {
            index.apply(apply(pod(server, number, true)));
        }
    }
    index.apply(Event::Synced);
    index
}

/// Everything from an event to the hub.
struct World {
    index: Index,
    compiler: Compiler,
    rollout: Rollout<Resources>,
    hub: Arc<Hub>,
    clock: Clock,
}

impl World {
    fn new(servers: usize) -> Self {
        let clock = Clock::start();
        let settings = publish::Settings {
            max_subscribers: 1,
            reports: Bounds {
                max_origins: 1,
                max_peer_origins: 8,
                max_entries: 1,
                lost_after_ms: 1,
            },
            placements_bytes: 1,
            max_settlements: 1,
            sample_wait_ms: 250,
            ack_timeout_ms: 1000,
            requests: kthena_controller::requests::Bounds {
                max_series: 100,
                max_origins: 100,
            },
            peers: PeerBounds {
                max_followers: 4,
                max_endpoints: 1_000,
                max_resources: 1_000,
            },
        };
        let mut world = Self {
            index: index(servers),
            compiler: Compiler::new(Settings::default()),
            rollout: Rollout::new(envoy::Settings {
                lag_ms: 0,
                answer_ms: 0,
            }),
            hub: Hub::new(settings, Table::new(), clock, Metrics::default().publish),
            clock,
        };
        world.follow();
        world
    }

    fn follow(&mut self) {
        let touched = Touched {
            pods: self.index.take_touched(),
            endpoints: Vec::new(),
        };
        let output = self.compiler.compile(&self.index, &Facts::default(), &touched);
        let now = self.clock.now();
        self.rollout.settle(|_| true, now);
        self.rollout.offer(output.clusters, output.resources, now);
        black_box(self.rollout.files());
        if let Some((resources, clusters)) = self.rollout.due(now) {
            let generation = self.hub.set_config(resources);
            self.rollout.published(clusters, generation, now);
        }
    }
}

fn change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one changed pod, by ModelServers (as many routes, five pods each)");
    for servers in [10, 100, 1000] {
        let mut world = World::new(servers);
        let mut ready = false;
        group.bench_function(BenchmarkId::from_parameter(servers), |bench| {
            bench.iter(|| {
                world.index.apply(apply(pod(servers / 2, 1, ready)));
                ready = !ready;
                world.follow();
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = change
}
criterion_main!(benches);
