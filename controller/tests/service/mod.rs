//! The state service as the stories need one: listening on loopback, on a hub that they fill.
#![allow(dead_code)] // each story uses some of it

use std::sync::Arc;
use std::time::Duration;

use kthena_controller::clock::Clock;
use kthena_controller::metrics::Metrics;
use kthena_controller::observe::Table;
use kthena_controller::publish::{Access, Bounds, Hub, Key, PeerBounds, Resource, Server, Settings, Timeouts};
use kthena_controller::requests;
use kthena_scheduler::state::proto::{Endpoint, Endpoints, InFlight, ModelRoute, Report, ResourceType, from_filter};

pub(crate) struct Controller {
    pub(crate) hub: Arc<Hub>,
    pub(crate) table: Arc<Table>,
    pub(crate) metrics: Metrics,
    pub(crate) address: String,
}

pub(crate) fn settings() -> Settings {
    Settings {
        max_subscribers: 100,
        reports: Bounds {
            max_origins: 8,
            max_peer_origins: 8,
            max_entries: 1000,
            lost_after_ms: 300,
        },
        placements_bytes: 1 << 20,
        max_settlements: 100,
        sample_wait_ms: 50,
        ack_timeout_ms: 60_000,
        requests: requests::Bounds {
            max_series: 100,
            max_origins: 100,
        },
        peers: PeerBounds {
            max_followers: 4,
            max_endpoints: 1_000,
            max_resources: 1_000,
        },
    }
}

pub(crate) async fn start(settings: Settings) -> Controller {
    start_with(settings, Access::default()).await
}

pub(crate) async fn start_with(settings: Settings, access: Access) -> Controller {
    let table = Table::new();
    let metrics = Metrics::default();
    let hub = Hub::new(settings, Arc::clone(&table), Clock::start(), metrics.publish.clone());
    let timeouts = Timeouts {
        hello: Duration::from_millis(300),
        send: Duration::from_secs(60),
        tick: Duration::from_millis(10),
    };
    let address = "127.0.0.1:0".parse().unwrap();
    let server = Server::bind(&address, access, Arc::clone(&hub), timeouts, metrics.publish.clone())
        .await
        .unwrap();
    let address = format!("127.0.0.1:{}", server.local_addr().unwrap().port());
    tokio::spawn(server.run(std::future::pending()));
    Controller {
        hub,
        table,
        metrics,
        address,
    }
}

pub(crate) fn route(name: &str, model: &str) -> Resource {
    let message = ModelRoute {
        name: name.into(),
        model_name: model.into(),
        ..ModelRoute::default()
    };
    Resource::encode(Key::new(ResourceType::Route, name), &message)
}

pub(crate) fn endpoints(ids: &[u64]) -> Resource {
    endpoints_of("ns/llama", ids)
}

pub(crate) fn endpoints_of(name: &str, ids: &[u64]) -> Resource {
    let endpoint = |id: &u64| Endpoint {
        id: *id,
        uid: format!("uid-{id}"),
        port: 8000,
        ..Endpoint::default()
    };
    let message = Endpoints {
        endpoints: ids.iter().map(endpoint).collect(),
    };
    Resource::encode(Key::new(ResourceType::Endpoints, name), &message)
}

pub(crate) fn report(origin: &str, sequence: u64, complete: bool, entries: &[(u64, u32)]) -> from_filter::Message {
    let entry = |(endpoint, requests): &(u64, u32)| InFlight {
        endpoint: *endpoint,
        requests: *requests,
        tokens: u64::from(*requests) * 100,
        ..InFlight::default()
    };
    from_filter::Message::Report(Report {
        origin: origin.into(),
        epoch: 1,
        sequence,
        complete,
        in_flight: entries.iter().map(entry).collect(),
        waiting: Vec::new(),
    })
}
