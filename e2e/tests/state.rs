//! Story: two filters and a controller have one picture between them, over the real protocol on both ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a story's helpers may fail it

use std::sync::Arc;
use std::time::{Duration, Instant};

use kthena_controller::publish::{Access, Key, Resource, Tls, by_key};
use kthena_e2e::authority::Authority;
use kthena_e2e::publisher::publish;
use kthena_e2e::scratch::Scratch;
use kthena_ext_proc::state::{Controller, Credentials, Sizes, State, Subscription, Timing};
use kthena_scheduler::lease::Lease;
use kthena_scheduler::prefix::{self, Overlap};
use kthena_scheduler::snapshot::{Endpoint, EndpointId};
use kthena_scheduler::state::proto::{self, ResourceType};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// Two replicas must agree within this time on where a prefix lives.
const AGREEMENT: Duration = Duration::from_millis(200);

struct Publisher {
    port: u16,
}

async fn publisher(access: Access) -> Publisher {
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let (hub, at) = publish(anywhere, access).await.unwrap();
    hub.set_config(by_key(everything()));
    Publisher { port: at.port() }
}

/// A ModelServer "a/s" with two endpoints of identities 1 and 2.
fn everything() -> Vec<Resource> {
    let endpoint = |id: u64| proto::Endpoint {
        id,
        uid: format!("uid-{id}"),
        port: 8000,
        address: format!("10.0.0.{id}:8000"),
        pod: format!("a/pod-{id}"),
        ..Default::default()
    };
    let server = proto::ModelServer {
        name: "a/s".into(),
        cluster: "c".into(),
        ..Default::default()
    };
    let endpoints = proto::Endpoints {
        endpoints: vec![endpoint(1), endpoint(2)],
    };
    vec![
        Resource::encode(Key::new(ResourceType::Server, "a/s"), &server),
        Resource::encode(Key::new(ResourceType::Endpoints, "a/s"), &endpoints),
    ]
}

struct Replica {
    state: Arc<State>,
    settlements: mpsc::Receiver<proto::Settlement>,
    _stop: watch::Sender<bool>,
}

impl Replica {
    fn start(url: &str, credentials: Credentials) -> Self {
        let state = State::new(&Sizes {
            max_endpoints: 8,
            prefix_index_bytes: 1 << 20,
            outbox: 100,
        });
        let (sender, settlements) = mpsc::channel(8);
        let controller = Controller::new(url, credentials).unwrap();
        let subscription = Subscription::new(Arc::clone(&state), controller, Timing::default(), sender);
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(subscription.run(stopping));
        Self {
            state,
            settlements,
            _stop: stop,
        }
    }

    async fn ready(publisher: &Publisher) -> Self {
        let url = format!("http://127.0.0.1:{}", publisher.port);
        let replica = Self::start(&url, Credentials::default());
        eventually("the first state", || replica.state.snapshot().is_some()).await;
        replica
    }

    fn endpoint(&self, id: u64) -> Arc<Endpoint> {
        let snapshot = self.state.snapshot().unwrap();
        let endpoints = &snapshot.server("a/s").unwrap().endpoints;
        let found = endpoints.iter().find(|endpoint| endpoint.id == EndpointId(id));
        Arc::clone(found.unwrap())
    }

    fn in_flight(&self, id: u64) -> u32 {
        self.endpoint(id).slot.view(self.state.now()).in_flight
    }

    fn blocks(&self, id: u64, keys: &[prefix::Key]) -> u32 {
        let slot = self.endpoint(id).slot.index();
        let mut overlap = Overlap::default();
        overlap.begin();
        overlap.admit(slot);
        self.state.index().look_up(keys, 1, &mut overlap);
        overlap.blocks(slot)
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

#[tokio::test]
async fn two_replicas_agree_in_time_on_where_a_prefix_lives() {
    let publisher = publisher(Access::default()).await;
    let (one, two) = (Replica::ready(&publisher).await, Replica::ready(&publisher).await);
    let keys: Vec<_> = (1..=4)
        .map(|n| prefix::Key {
            hash: n * 1_000,
            span: 2,
        })
        .collect();
    // The best of some tries: this bounds what the protocol adds, not what a loaded machine takes away.
    let mut best = PATIENCE;
    for round in 0..4 {
        let id = 1 + round % 2;
        let keys: Vec<_> = keys
            .iter()
            .map(|key| prefix::Key {
                hash: key.hash + round,
                ..*key
            })
            .collect();
        let began = Instant::now();
        one.state.placed(EndpointId(id), &keys);
        eventually("the other replica knows", || two.blocks(id, &keys) == 8).await;
        best = best.min(began.elapsed());
    }
    assert!(best < AGREEMENT, "{best:?}");
}

#[tokio::test]
async fn each_replica_counts_the_others_requests_and_its_own_once() {
    let publisher = publisher(Access::default()).await;
    let (one, two) = (Replica::ready(&publisher).await, Replica::ready(&publisher).await);
    let mut leases: Vec<_> = (0..3).map(|_| Lease::begin(one.endpoint(1), None, 100)).collect();
    let other = Lease::begin(two.endpoint(1), None, 50);
    eventually("both see all", || one.in_flight(1) == 4 && two.in_flight(1) == 4).await;
    // What is ours is known at once; what was reported of it is not counted again when it comes back.
    leases.push(Lease::begin(one.endpoint(1), None, 100));
    assert_eq!(one.in_flight(1), 5);
    eventually("the other is told", || two.in_flight(1) == 5).await;
    assert_eq!(one.in_flight(1), 5);
    leases.clear();
    drop(other);
    eventually("all is over", || one.in_flight(1) == 0 && two.in_flight(1) == 0).await;
}

#[tokio::test]
async fn a_replica_that_dies_takes_its_counts_with_it() {
    let publisher = publisher(Access::default()).await;
    let (one, two) = (Replica::ready(&publisher).await, Replica::ready(&publisher).await);
    let lease = Lease::begin(one.endpoint(2), None, 100);
    eventually("the other is told", || two.in_flight(2) == 1).await;
    // Its stream ends with the sender of its stop signal; its lease is never settled.
    drop(one);
    eventually("its counts are gone", || two.in_flight(2) == 0).await;
    drop(lease);
}

#[tokio::test]
async fn the_end_of_a_request_reaches_the_replica_that_counts_it() {
    let publisher = publisher(Access::default()).await;
    let (mut one, two) = (Replica::ready(&publisher).await, Replica::ready(&publisher).await);
    two.state.settle_elsewhere(one.state.origin(), 42, "10.0.0.2:8000");
    let told = timeout(PATIENCE, one.settlements.recv()).await.unwrap().unwrap();
    assert_eq!((told.lease, &*told.served), (42, "10.0.0.2:8000"));
}

#[tokio::test]
async fn with_mutual_tls_only_a_known_filter_gets_state() {
    let folder = Scratch::new("state-tls").unwrap();
    let authority = Authority::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca = file("ca.pem", authority.pem());
    let (certificate, key) = authority.sign("controller").unwrap();
    let tls = Tls {
        cert: file("controller.pem", &certificate),
        key: file("controller.key", &key),
        client_ca: Some(ca.clone()),
    };
    let publisher = publisher(Access {
        tls: Some(tls),
        ..Access::default()
    })
    .await;
    let url = format!("https://127.0.0.1:{}", publisher.port);
    let credentials = |identity: Option<(&str, (String, String))>| Credentials {
        ca: Some(ca.clone()),
        identity: identity.map(|(name, (certificate, key))| {
            (
                file(&format!("{name}.pem"), &certificate),
                file(&format!("{name}.key"), &key),
            )
        }),
        token: None,
        server_name: Some("controller".into()),
    };
    let nameless = Replica::start(&url, credentials(None));
    let stranger = Replica::start(
        &url,
        credentials(Some(("stranger", Authority::new().unwrap().sign("filter").unwrap()))),
    );
    let known = Replica::start(&url, credentials(Some(("known", authority.sign("filter").unwrap()))));
    eventually("the known one has state", || known.state.snapshot().is_some()).await;
    assert!(nameless.state.snapshot().is_none() && stranger.state.snapshot().is_none());
}
