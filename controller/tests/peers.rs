//! Stories of two controllers that tell each other what they know: each on a runtime of its own, so that it can die as a process does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a story's helpers may fail it

mod engine;
mod filter;
mod service;

use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use filter::{Filter, eventually};
use kthena_controller::clock::Clock;
use kthena_controller::compile::{EndpointKey, ScrapeTarget};
use kthena_controller::metrics::{Metrics, kind};
use kthena_controller::observe::{self, Scraper, Share, Table};
use kthena_controller::peers::proto::peers_client::PeersClient;
use kthena_controller::peers::proto::{FollowRequest, news};
use kthena_controller::peers::{self, Credentials, Place};
use kthena_controller::publish::{Access, Bounds, Hub, Key, PeerBounds, Server, Settings, Timeouts, Tls, by_key};
use kthena_controller::requests;
use kthena_gateway_api::InferenceEngine;
use kthena_scheduler::state::proto::{
    Hello, Placement, Placements, ResourceType, Settlement, Settlements, from_filter,
};
use service::{endpoints, endpoints_of, report, route};
use tokio::runtime::Runtime;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

/// What a lost decider had in flight counts for this long, milliseconds.
const LOST_AFTER_MS: u64 = 700;

struct Controller {
    hub: Arc<Hub>,
    table: Arc<Table>,
    share: Arc<Share>,
    metrics: Metrics,
    address: String,
    runtime: Option<Runtime>,
}

fn settings() -> Settings {
    Settings {
        max_subscribers: 100,
        reports: Bounds {
            max_origins: 8,
            max_peer_origins: 64,
            max_entries: 1000,
            lost_after_ms: LOST_AFTER_MS,
        },
        placements_bytes: 1 << 20,
        max_settlements: 100,
        sample_wait_ms: 20,
        ack_timeout_ms: 60_000,
        requests: requests::Bounds {
            max_series: 100,
            max_origins: 100,
        },
        peers: PeerBounds {
            max_followers: 4,
            max_endpoints: 100,
            max_resources: 100,
        },
    }
}

/// A controller that listens.
async fn listening(access: Access) -> Controller {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (table, metrics) = (Table::new(), Metrics::default());
    let hub = Hub::new(settings(), Arc::clone(&table), Clock::start(), metrics.publish.clone());
    let timeouts = Timeouts {
        hello: Duration::from_secs(5),
        send: Duration::from_secs(60),
        tick: Duration::from_millis(10),
    };
    let publish = metrics.publish.clone();
    let (serving, address) = (Arc::clone(&hub), "127.0.0.1:0".parse().unwrap());
    // A listener belongs to the runtime that it was bound on.
    let bound = runtime.spawn(async move {
        Server::bind(&address, access, serving, timeouts, publish)
            .await
            .unwrap()
    });
    let server = bound.await.unwrap();
    let address = format!("127.0.0.1:{}", server.local_addr().unwrap().port());
    runtime.spawn(server.run(std::future::pending()));
    Controller {
        share: Arc::new(Share::new(hub.instance())),
        hub,
        table,
        metrics,
        address,
        runtime: Some(runtime),
    }
}

fn open_access() -> Access {
    Access {
        peer_names: vec!["127.0.0.1".into()],
        ..Access::default()
    }
}

impl Controller {
    fn follow(&self, places: &[&str], tls: Option<Credentials>) {
        let settings = peers::Settings {
            places: places.iter().map(|place| place.parse::<Place>().unwrap()).collect(),
            tls,
            token_file: None,
            own_port: 0,
            lookup: Duration::from_millis(100),
            timeout: Duration::from_secs(2),
            max: 8,
        };
        let (hub, share) = (Arc::clone(&self.hub), Arc::clone(&self.share));
        let metrics = self.metrics.publish.peers.clone();
        self.spawn(peers::run(settings, hub, share, metrics));
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.as_ref().unwrap().spawn(task);
    }

    /// It dies, as a process does that is killed.
    fn die(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Requests in flight at an endpoint as its filters are told.
    fn peers(&self) -> i64 {
        self.metrics.publish.peers.followed.get()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        if self.runtime.is_some() {
            self.die();
        }
    }
}

/// Two controllers that follow each other; each is told where both are.
async fn pair() -> [Controller; 2] {
    let pair = [listening(open_access()).await, listening(open_access()).await];
    // A name, as a Service has one.
    let places = pair.each_ref().map(|one| one.address.replace("127.0.0.1", "localhost"));
    for one in &pair {
        one.follow(&places.each_ref().map(String::as_str), None);
    }
    eventually("they follow each other", || pair.iter().all(|one| one.peers() == 1)).await;
    pair
}

async fn filter(controller: &Controller, origin: &str) -> Filter {
    let mut filter = Filter::connect(&controller.address, origin, Vec::new()).await;
    filter.until("state", |f| f.synced).await;
    filter
}

#[tokio::test]
async fn what_one_controllers_filter_has_in_flight_the_others_filter_is_told_once_and_as_long_as_it_counts() {
    let pair = pair().await;
    for one in &pair {
        one.hub.set_config(by_key([endpoints(&[1, 2])]));
    }
    let mut here = filter(&pair[0], "here").await;
    let mut there = filter(&pair[1], "there").await;
    here.send(report("here", 1, true, &[(1, 3)])).await;
    there.send(report("there", 1, true, &[(1, 2), (2, 1)])).await;
    there.until("the sum there", |f| f.load(1) == Some((5, 500))).await;
    here.until("the sum here", |f| {
        f.load(1) == Some((5, 500)) && f.load(2) == Some((1, 100))
    })
    .await;
    assert_eq!(here.echoes.len(), 1, "only its own report is echoed");
    here.send(report("here", 2, false, &[(1, 1)])).await;
    there.until("the change", |f| f.load(1) == Some((3, 300))).await;
    // It goes: what it had counts for a while, at both.
    drop(here);
    there.until("it counts no more", |f| f.load(1) == Some((2, 200))).await;
    // A newcomer hears what was said before it came.
    let mut late = filter(&pair[0], "late").await;
    late.until("what is there", |f| f.load(1) == Some((2, 200))).await;
}

#[tokio::test]
async fn a_filter_that_moves_from_a_dead_controller_to_the_other_counts_once_all_the_time() {
    let mut pair = pair().await;
    for one in &pair {
        one.hub.set_config(by_key([endpoints(&[1])]));
    }
    let moving = filter(&pair[0], "moving").await;
    let mut witness = filter(&pair[1], "witness").await;
    moving.send(report("moving", 1, true, &[(1, 3)])).await;
    witness.until("told", |f| f.load(1) == Some((3, 300))).await;
    pair[0].die();
    eventually("the loss is known", || pair[1].peers() == 0).await;
    let moved = filter(&pair[1], "moving").await;
    moved.send(report("moving", 2, true, &[(1, 4)])).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&4) {
        let message = witness.down.message().await.unwrap().unwrap();
        witness.take(message).await;
        seen.extend(witness.load(1).map(|(requests, _)| requests));
    }
    assert!(seen.iter().all(|requests| [3, 4].contains(requests)), "{seen:?}");
    // Nor does the end of the dead controller's word take it away.
    tokio::time::sleep(Duration::from_millis(2 * LOST_AFTER_MS)).await;
    moved.send(report("moving", 3, false, &[(1, 5)])).await;
    witness.until("it goes on", |f| f.load(1) == Some((5, 500))).await;
}

#[tokio::test]
async fn what_a_dead_controllers_filters_had_in_flight_goes() {
    let mut pair = pair().await;
    for one in &pair {
        one.hub.set_config(by_key([endpoints(&[1])]));
    }
    let lost = filter(&pair[0], "lost").await;
    let mut witness = filter(&pair[1], "witness").await;
    lost.send(report("lost", 1, true, &[(1, 3)])).await;
    witness.until("told", |f| f.load(1) == Some((3, 300))).await;
    pair[0].die();
    witness.until("gone", |f| f.load(1) == Some((0, 0))).await;
}

#[tokio::test]
async fn placements_reach_the_others_filters_and_newcomers_and_settlements_their_owner() {
    let pair = pair().await;
    for one in &pair {
        one.hub.set_config(by_key([endpoints(&[1])]));
    }
    let mut here = filter(&pair[0], "here").await;
    let mut there = filter(&pair[1], "there").await;
    let placement = Placement {
        endpoint: 1,
        keys: vec![7, 8],
        gone: false,
        blocks: vec![1, 1],
    };
    let placements = Placements {
        placements: vec![placement.clone()],
    };
    here.send(from_filter::Message::Placements(placements)).await;
    there.until("the placement", |f| f.placements.len() == 1).await;
    assert_eq!(there.placements[0], placement);
    let mut late = filter(&pair[1], "late").await;
    late.until("the placement", |f| f.placements.len() == 1).await;

    here.send(report("here", 1, true, &[(1, 1)])).await;
    there.until("it is known there", |f| f.load(1) == Some((1, 100))).await;
    let settlement = Settlement {
        owner: "here".into(),
        lease: 42,
        served: "10.0.0.1:8000".into(),
    };
    let settlements = Settlements {
        settlements: vec![settlement.clone()],
    };
    there.send(from_filter::Message::Settlements(settlements)).await;
    here.until("its lease is settled", |f| f.settlements.len() == 1).await;
    assert_eq!(here.settlements[0], settlement);
    assert!(here.placements.is_empty(), "its own placement does not come back");
}

#[tokio::test]
async fn how_far_an_object_has_got_speaks_of_the_filters_of_both() {
    let mut pair = pair().await;
    let of = |controller: &Controller| controller.hub.acceptance(&Key::new(ResourceType::Route, "ns/a"));
    let counts = |controller: &Controller| of(controller).map(|seen| (seen.acknowledged, seen.subscribers));
    pair[0].hub.set_config(by_key([route("ns/a", "one")]));
    let _here = filter(&pair[0], "here").await;
    eventually("the one here", || counts(&pair[0]) == Some((1, 1))).await;

    // The other has a filter that has acknowledged another version.
    pair[1].hub.set_config(by_key([route("ns/a", "older")]));
    let mut there = filter(&pair[1], "there").await;
    eventually("the one there lacks it", || counts(&pair[0]) == Some((1, 2))).await;
    pair[1].hub.set_config(by_key([route("ns/a", "one")]));
    let key = Key::new(ResourceType::Route, "ns/a");
    there
        .until("the route again", |f| {
            f.received.iter().filter(|one| **one == key).count() == 2
        })
        .await;
    eventually("the one there has it", || counts(&pair[0]) == Some((2, 2))).await;
    eventually("which is said there as well", || counts(&pair[1]) == Some((2, 2))).await;

    // It refuses the next one.
    there.refuses = Some("ns/a");
    for one in &pair {
        one.hub.set_config(by_key([route("ns/a", "two")]));
    }
    there
        .until("the next", |f| {
            f.received.iter().filter(|one| **one == key).count() == 3
        })
        .await;
    eventually("the refusal", || {
        of(&pair[0]).is_some_and(|seen| seen.refused == [("there".to_owned(), "no such plugin".to_owned())])
    })
    .await;
    drop(there);
    eventually("it is not spoken of any more", || {
        of(&pair[0]).is_some_and(|seen| seen.subscribers == 1 && seen.refused.is_empty())
    })
    .await;
    let _again = filter(&pair[1], "again").await;
    eventually("another one", || of(&pair[0]).is_some_and(|seen| seen.subscribers == 2)).await;
    pair[1].die();
    eventually("nor are those of a dead controller", || {
        of(&pair[0]).is_some_and(|seen| seen.subscribers == 1)
    })
    .await;
}

#[tokio::test]
async fn of_an_object_those_alone_have_a_say_that_see_it() {
    let pair = pair().await;
    let counts = |name: &str| {
        let seen = pair[0].hub.acceptance(&Key::new(ResourceType::Route, name));
        seen.map(|seen| (seen.acknowledged, seen.subscribers))
    };
    let config = |ids: &[u64]| by_key([route("a/r", "one"), route("b/r", "one"), endpoints_of("b/s", ids)]);
    for one in &pair {
        one.hub.set_config(config(&[1]));
    }
    let channel = Channel::from_shared(format!("http://{}", pair[1].address)).unwrap();
    let hello = Hello {
        origin: "narrow".into(),
        namespaces: vec!["a".into()],
        ..Hello::default()
    };
    let mut narrow = Filter::over(channel.connect().await.unwrap(), hello).await;
    eventually("it has yet to answer", || counts("a/r") == Some((0, 1))).await;
    assert_eq!(counts("b/r"), Some((0, 0)), "it does not see this one");
    narrow.until("state", |f| f.synced).await;
    eventually("it has answered", || counts("a/r") == Some((1, 1))).await;
    let newer = pair[0].hub.set_config(config(&[1, 2]));
    assert!(
        pair[0].hub.acknowledged(newer),
        "nobody waits for it where it does not see what changed"
    );

    let wide = filter(&pair[1], "wide").await;
    eventually("one that sees all", || {
        (counts("a/r"), counts("b/r")) == (Some((2, 2)), Some((1, 1)))
    })
    .await;
    assert!(!pair[0].hub.acknowledged(newer), "that one lacks what changed");
    drop(narrow);
    eventually("it has gone", || {
        (counts("a/r"), counts("b/r")) == (Some((1, 1)), Some((1, 1)))
    })
    .await;
    drop(wide);
    eventually("nobody is there", || counts("a/r") == Some((0, 0))).await;
}

// === observing ===

fn observing(controller: &Controller, targets: Vec<Arc<ScrapeTarget>>) {
    let settings = observe::Settings {
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(200),
        models_interval: Duration::from_millis(500),
        down_after: 3,
        max_bytes: 100_000,
        max_in_flight: 100,
        max_targets: 100,
    };
    let (share, table) = (Arc::clone(&controller.share), Arc::clone(&controller.table));
    let metrics = controller.metrics.observe.clone();
    let clock_of = Arc::clone(&controller.hub);
    controller.spawn(async move {
        let mut scraper = Scraper::new(settings, share, table, clock_of.clock(), metrics).unwrap();
        let keyed = targets.iter().map(|target| (key(target), Arc::clone(target)));
        scraper.set_targets(&keyed.collect());
        std::future::pending().await
    });
}

fn target(engine: &Engine, number: usize) -> Arc<ScrapeTarget> {
    Arc::new(ScrapeTarget {
        uid: format!("uid-{number}"),
        port: engine.address.port(),
        endpoint: 0,
        address: engine.address,
        start: 0,
        pod: format!("ns/pod-{number}"),
        engine: InferenceEngine::Vllm,
        https: false,
        servers: Vec::new(),
    })
}

fn key(target: &ScrapeTarget) -> EndpointKey {
    EndpointKey {
        uid: target.uid.clone(),
        port: target.port,
    }
}

#[tokio::test]
async fn each_endpoint_is_observed_by_one_controller_and_known_to_both_and_taken_over_when_that_one_dies() {
    let mut engines = Vec::new();
    for _ in 0..12 {
        engines.push(Engine::start().await);
    }
    let mut targets: Vec<_> = engines
        .iter()
        .enumerate()
        .map(|(at, engine)| target(engine, at))
        .collect();
    targets.sort_by(|a, b| (&a.uid, a.port).cmp(&(&b.uid, b.port)));
    let mut pair = pair().await;
    for one in &pair {
        observing(one, targets.clone());
    }
    let theirs = |of: &Controller| targets.iter().filter(|target| !of.share.is_ours(&key(target))).count();
    eventually("they share", || {
        let left = pair.each_ref().map(|one| one.table.of_others());
        left == pair.each_ref().map(theirs) && left.iter().sum::<usize>() == 12
    })
    .await;
    assert!(pair.iter().all(|one| (1..12).contains(&theirs(one))));

    // From here on each engine is asked once an interval, and both know the newest.
    let before: Vec<_> = engines.iter().map(|engine| engine.asked("/metrics")).collect();
    let scrapes = |controller: &Controller| {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("d", "", controller.metrics.observe.duration.clone());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix("d_count "));
        count.unwrap().parse::<usize>().unwrap()
    };
    let counted = pair.each_ref().map(scrapes);
    eventually("ten rounds", || {
        engines
            .iter()
            .zip(&before)
            .all(|(engine, before)| engine.asked("/metrics") >= before + 10)
    })
    .await;
    let each = pair.each_ref().map(scrapes);
    for (at, controller) in pair.iter().enumerate() {
        let (own, rounds) = (12 - theirs(controller), each[at] - counted[at]);
        assert!(rounds >= 9 * own && rounds <= 20 * own, "{rounds} scrapes of {own}");
    }
    for engine in &engines {
        engine.answers.lock().metrics = Some(engine::metrics(7, 5));
    }
    let knows = |controller: &Controller, waiting| {
        let waits = |target: &Arc<ScrapeTarget>| {
            controller.table.get(&key(target)).and_then(|seen| seen.sample.waiting) == Some(waiting)
        };
        targets.iter().all(waits)
    };
    eventually("both know", || pair.iter().all(|one| knows(one, 7))).await;
    assert_eq!(
        pair[1].table.get(&key(&targets[0])).unwrap().fact.models,
        ["adapter", "llama"]
    );

    pair[0].die();
    for engine in &engines {
        engine.answers.lock().metrics = Some(engine::metrics(8, 5));
    }
    eventually("the other takes over", || knows(&pair[1], 8)).await;
    assert_eq!(pair[1].table.of_others(), 0);
}

#[tokio::test]
async fn what_the_other_does_not_observe_is_observed_here_whoever_should() {
    let engines = [Engine::start().await, Engine::start().await, Engine::start().await];
    let targets: Vec<_> = engines
        .iter()
        .enumerate()
        .map(|(at, engine)| target(engine, at))
        .collect();
    let pair = pair().await;
    // The other is cut off from the objects: it knows no pod.
    observing(&pair[0], targets.clone());
    eventually("all are known", || {
        targets.iter().all(|target| pair[0].table.get(&key(target)).is_some())
    })
    .await;
    let before: Vec<_> = engines.iter().map(|engine| engine.asked("/metrics")).collect();
    eventually("and observed", || {
        engines
            .iter()
            .zip(&before)
            .all(|(engine, before)| engine.asked("/metrics") >= before + 5)
    })
    .await;
    assert!(
        pair[1].table.get(&key(&targets[0])).is_none(),
        "what is no pod there is none"
    );
}

// === who may follow ===

#[tokio::test]
async fn with_mutual_tls_controllers_follow_each_other_and_a_filter_does_not_follow() {
    let folder = std::env::temp_dir().join(format!("kthena-peers-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let authority = Authority::new();
    let ca = file("ca.pem", &authority.pem);
    let [controller, filter] = ["controller.svc", "filter"].map(|name| authority.sign(name));
    let tls = Tls {
        cert: file("controller.pem", &controller.0),
        key: file("controller.key", &controller.1),
        client_ca: Some(ca.clone()),
    };
    let access = Access {
        tls: Some(tls.clone()),
        peer_names: vec!["controller.svc".into()],
        ..Access::default()
    };
    let pair = [listening(access.clone()).await, listening(access).await];
    let credentials = Credentials {
        ca,
        cert: tls.cert,
        key: tls.key,
        server_name: Some("controller.svc".into()),
    };
    let places = pair.each_ref().map(|one| one.address.clone());
    for one in &pair {
        one.follow(&places.each_ref().map(String::as_str), Some(credentials.clone()));
    }
    eventually("they follow each other", || pair.iter().all(|one| one.peers() == 1)).await;

    let follow = async |(cert, key): &(String, String)| {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&authority.pem))
            .identity(Identity::from_pem(cert, key))
            .domain_name("controller.svc");
        let endpoint = Channel::from_shared(format!("https://{}", places[0])).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
        let request = FollowRequest {
            instance: "stranger".into(),
            ..FollowRequest::default()
        };
        let mut stream = PeersClient::new(channel).follow(request).await?.into_inner();
        stream.message().await
    };
    let refused = follow(&filter).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let rejected = &pair[0].metrics.publish.rejected;
    assert_eq!(rejected.get_or_create(&kind("no_peer")).get(), 1);
    let welcomed = follow(&controller).await.unwrap().unwrap();
    assert!(matches!(welcomed.message, Some(news::Message::Welcome(_))));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_controller_without_peers_is_followed_by_nobody_and_one_that_calls_is_followed_in_turn() {
    let alone = listening(Access::default()).await;
    let [one, two] = [listening(open_access()).await, listening(open_access()).await];
    one.follow(&[&alone.address], None);
    let refused = || one.metrics.publish.peers.failures.get_or_create(&kind("status")).get() > 0;
    eventually("it is refused", refused).await;
    assert_eq!(alone.hub.peers().len(), 0);

    // No name tells the first where the second is.
    let port: u16 = two.address.rsplit(':').next().unwrap().parse().unwrap();
    let settings = peers::Settings {
        places: vec![one.address.parse().unwrap()],
        tls: None,
        token_file: None,
        own_port: port,
        lookup: Duration::from_secs(60),
        timeout: Duration::from_secs(2),
        max: 8,
    };
    let (hub, share) = (Arc::clone(&two.hub), Arc::clone(&two.share));
    two.spawn(peers::run(settings, hub, share, two.metrics.publish.peers.clone()));
    eventually("each follows the other", || one.peers() == 1 && two.peers() == 1).await;
    assert_eq!(one.hub.peers()[0].instance, two.hub.instance());
}

struct Authority {
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    fn sign(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}
