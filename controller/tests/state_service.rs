//! Stories of the state service, told by real gRPC clients over loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a story's helpers may fail it

mod filter;

use std::sync::Arc;
use std::time::Duration;

use filter::{Filter, PATIENCE, eventually, open, up};
use kthena_controller::clock::Clock;
use kthena_controller::compile::EndpointKey;
use kthena_controller::metrics::{self, Metrics};
use kthena_controller::observe::{Observation, Table};
use kthena_controller::publish::{Access, Bounds, Hub, Key, MAX_MESSAGE, Resource, Server, Settings, Timeouts};
use kthena_controller::requests;
use kthena_scheduler::state::proto::{
    Counted, Counts, Echo, Endpoint, Endpoints, Hello, InFlight, Load, ModelRoute, Placement, Placements, Report,
    RequestCounts, ResourceType, Settlement, Settlements, from_filter,
};
use prost::Message;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::{Channel, ClientTlsConfig};

struct Controller {
    hub: Arc<Hub>,
    table: Arc<Table>,
    metrics: Metrics,
    address: String,
}

fn settings() -> Settings {
    Settings {
        max_subscribers: 100,
        reports: Bounds {
            max_origins: 8,
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
    }
}

async fn start(settings: Settings) -> Controller {
    start_with(settings, Access::default()).await
}

async fn start_with(settings: Settings, access: Access) -> Controller {
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

fn route(name: &str, model: &str) -> Resource {
    let message = ModelRoute {
        name: name.into(),
        model_name: model.into(),
        ..ModelRoute::default()
    };
    Resource::encode(Key::new(ResourceType::Route, name), &message)
}

fn endpoints(ids: &[u64]) -> Resource {
    let endpoint = |id: &u64| Endpoint {
        id: *id,
        uid: format!("uid-{id}"),
        port: 8000,
        ..Endpoint::default()
    };
    let message = Endpoints {
        endpoints: ids.iter().map(endpoint).collect(),
    };
    Resource::encode(Key::new(ResourceType::Endpoints, "ns/llama"), &message)
}

fn report(origin: &str, sequence: u64, complete: bool, entries: &[(u64, u32)]) -> from_filter::Message {
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

#[tokio::test]
async fn a_filter_waits_for_the_first_configuration_then_holds_all_of_it() {
    let controller = start(settings()).await;
    let mut filter = Filter::connect(&controller.address, "a", Vec::new()).await;
    assert!(
        timeout(Duration::from_millis(100), filter.until("nothing", |f| f.synced))
            .await
            .is_err(),
        "no state is not an empty state"
    );
    let generation = controller.hub.set_config(vec![route("ns/r", "m"), endpoints(&[1])]);
    filter.until("first state", |f| f.synced).await;
    assert_eq!(filter.held.len(), 3, "route, endpoints and their load");
    assert_eq!(filter.load(1), Some((0, 0)));
    eventually("acknowledged", || controller.hub.acknowledged(generation)).await;
}

#[tokio::test]
async fn an_empty_configuration_is_a_complete_state_too() {
    let controller = start(settings()).await;
    controller.hub.set_config(Vec::new());
    let mut filter = Filter::connect(&controller.address, "a", Vec::new()).await;
    filter.until("first state", |f| f.synced).await;
    assert!(filter.held.is_empty());
}

/// A controller with the routes a, b and c, and a filter that has them.
async fn with_three_routes() -> (Controller, Filter) {
    let controller = start(settings()).await;
    controller
        .hub
        .set_config(vec![route("ns/a", "1"), route("ns/b", "1"), route("ns/c", "1")]);
    let mut filter = Filter::connect(&controller.address, "a", Vec::new()).await;
    filter.until("first state", |f| f.synced).await;
    (controller, filter)
}

#[tokio::test]
async fn only_what_changed_travels_and_what_is_gone_is_removed() {
    let (controller, mut filter) = with_three_routes().await;
    filter.received.clear();
    controller.hub.set_config(vec![route("ns/a", "1"), route("ns/b", "2")]);
    filter.until("c is gone", |f| f.held.len() == 2).await;
    assert_eq!(filter.received, [route("ns/b", "2").key]);
}

#[tokio::test]
async fn a_filter_that_returns_is_sent_what_differs_from_what_it_has() {
    let (controller, filter) = with_three_routes().await;
    let have = filter.have();
    let held = filter.held.clone();
    drop(filter);
    controller.hub.set_config(vec![route("ns/a", "1"), route("ns/b", "2")]);

    let mut filter = Filter::connect(&controller.address, "a", have).await;
    filter.held = held;
    filter.until("complete state", |f| f.synced).await;
    assert_eq!(filter.received, [route("ns/b", "2").key]);
    assert_eq!(filter.held.len(), 2);
}

#[tokio::test]
async fn one_refused_resource_keeps_the_rest_and_is_told() {
    let controller = start(settings()).await;
    let mut picky = Filter::connect(&controller.address, "picky", Vec::new()).await;
    picky.refuses = Some("ns/bad");
    let mut easy = Filter::connect(&controller.address, "easy", Vec::new()).await;
    let generation = controller
        .hub
        .set_config(vec![route("ns/bad", "1"), route("ns/good", "1")]);
    picky.until("state", |f| f.synced).await;
    easy.until("state", |f| f.synced).await;
    eventually("answers", || controller.hub.acknowledged(generation)).await;

    let good = controller.hub.acceptance(&route("ns/good", "1").key).unwrap();
    assert_eq!((good.subscribers, good.acknowledged, good.refused.len()), (2, 2, 0));
    let bad = controller.hub.acceptance(&route("ns/bad", "1").key).unwrap();
    assert_eq!(bad.acknowledged, 1);
    assert_eq!(bad.refused, [("picky".to_string(), "no such plugin".to_string())]);

    picky.refuses = None;
    let generation = controller
        .hub
        .set_config(vec![route("ns/bad", "2"), route("ns/good", "1")]);
    picky.until("mended", |f| f.held.len() == 2).await;
    easy.until("mended", |f| f.received.len() == 3).await;
    eventually("answers", || controller.hub.acknowledged(generation)).await;
    let mended = controller.hub.acceptance(&route("ns/bad", "2").key).unwrap();
    assert_eq!(
        (mended.acknowledged, mended.refused.len()),
        (2, 0),
        "a new version is judged anew"
    );
}

#[tokio::test]
async fn a_large_resource_travels_in_parts() {
    let controller = start(settings()).await;
    let many: Vec<u64> = (0..20_000).collect();
    controller.hub.set_config(vec![endpoints(&many)]);
    let mut filter = Filter::connect(&controller.address, "a", Vec::new()).await;
    filter.until("state", |f| f.synced).await;
    assert_eq!(filter.held[&endpoints(&[]).key].1, endpoints(&many).body);
    assert!(filter.largest <= MAX_MESSAGE, "{}", filter.largest);
}

#[tokio::test]
async fn reports_are_summed_and_echoed_and_a_lost_origins_counts_go() {
    let controller = start(settings()).await;
    controller.hub.set_config(vec![endpoints(&[1, 2])]);
    let mut one = Filter::connect(&controller.address, "one", Vec::new()).await;
    let mut two = Filter::connect(&controller.address, "two", Vec::new()).await;
    one.send(report("one", 1, true, &[(1, 3)])).await;
    two.send(report("two", 1, true, &[(1, 2), (2, 1)])).await;
    one.until("the sum", |f| {
        f.load(1) == Some((5, 500)) && f.load(2) == Some((1, 100))
    })
    .await;
    two.until("the sum", |f| f.load(1) == Some((5, 500))).await;
    let echo = |origin: &str, sequence| Echo {
        origin: origin.into(),
        epoch: 1,
        sequence,
    };
    assert_eq!(
        (one.echoes.clone(), two.echoes.clone()),
        (vec![echo("one", 1)], vec![echo("two", 1)])
    );

    one.send(report("one", 2, false, &[(1, 4)])).await;
    one.until("its echo", |f| f.echoes == [echo("one", 2)]).await;
    assert_eq!(
        one.load(1),
        Some((6, 600)),
        "the load that comes with an echo holds the report"
    );
    one.send(report("one", 3, false, &[(99, 1)])).await;
    one.until("an echo although nothing that we know changed", |f| {
        f.echoes == [echo("one", 3)]
    })
    .await;

    drop(one);
    two.until("the lost counts are gone", |f| f.load(1) == Some((2, 200)))
        .await;
    drop(two);
    let mut three = Filter::connect(&controller.address, "three", Vec::new()).await;
    three
        .until("all counts are zero", |f| {
            f.load(1) == Some((0, 0)) && f.load(2) == Some((0, 0))
        })
        .await;
}

#[tokio::test]
async fn a_filter_that_returns_in_time_keeps_its_counts() {
    let mut settings = settings();
    settings.reports.lost_after_ms = 60_000;
    let controller = start(settings).await;
    controller.hub.set_config(vec![endpoints(&[1])]);
    let one = Filter::connect(&controller.address, "one", Vec::new()).await;
    let mut watcher = Filter::connect(&controller.address, "watcher", Vec::new()).await;
    one.send(report("one", 1, true, &[(1, 3)])).await;
    watcher.until("counted", |f| f.load(1) == Some((3, 300))).await;
    drop(one);
    let mut one = Filter::connect(&controller.address, "one", Vec::new()).await;
    one.until("state", |f| f.synced).await;
    assert_eq!(one.load(1), Some((3, 300)));
    assert_eq!(
        one.echoes[0].sequence, 1,
        "it is told that the sum holds its own old report"
    );
    one.send(report("one", 2, true, &[(1, 1)])).await;
    watcher.until("replaced", |f| f.load(1) == Some((1, 100))).await;
}

#[tokio::test]
async fn what_is_observed_reaches_the_filters_with_its_age() {
    let controller = start(settings()).await;
    controller.hub.set_config(vec![endpoints(&[1])]);
    let mut filter = Filter::connect(&controller.address, "a", Vec::new()).await;
    filter.until("state", |f| f.synced).await;
    let key = EndpointKey {
        uid: "uid-1".into(),
        port: 8000,
    };
    controller.table.expect(&key);
    let mut seen = Observation {
        sampled_at: Some(kthena_scheduler::time::Time::default()),
        ..Observation::default()
    };
    seen.sample.waiting = Some(7);
    seen.down = true;
    controller.table.store(&key, seen);
    let shown = |filter: &Filter| {
        let (_, body) = filter.held.get(&Key::new(ResourceType::Load, "ns/llama"))?;
        let load = Load::decode(body.clone()).unwrap().endpoints.remove(0);
        Some((load.waiting, load.running, load.down, load.sample_age_ms.is_some()))
    };
    filter
        .until("the sample", |f| shown(f) == Some((Some(7), None, true, true)))
        .await;
}

#[tokio::test]
async fn placements_reach_the_others_and_newcomers_and_settlements_their_owner() {
    let controller = start(settings()).await;
    controller.hub.set_config(vec![endpoints(&[1])]);
    let mut one = Filter::connect(&controller.address, "one", Vec::new()).await;
    let mut two = Filter::connect(&controller.address, "two", Vec::new()).await;
    one.until("state", |f| f.synced).await;
    two.until("state", |f| f.synced).await;
    let placement = |endpoint| Placement {
        endpoint,
        keys: vec![11, 12],
        blocks: vec![1, 2],
        gone: false,
    };
    let placements = vec![placement(1), placement(99)];
    one.send(from_filter::Message::Placements(Placements { placements }))
        .await;
    two.until("placed", |f| f.placements == [placement(1)]).await;
    let mut three = Filter::connect(&controller.address, "three", Vec::new()).await;
    three.until("replayed", |f| f.placements == [placement(1)]).await;

    let settlement = |owner: &str| Settlement {
        owner: owner.into(),
        lease: 5,
        served: "10.0.0.1:8000".into(),
    };
    let settlements = vec![settlement("one"), settlement("nobody")];
    two.send(from_filter::Message::Settlements(Settlements { settlements }))
        .await;
    one.until("settled", |f| f.settlements == [settlement("one")]).await;
    assert!(one.placements.is_empty(), "its own placements are not sent back");
}

#[tokio::test]
async fn a_slow_filter_skips_to_the_newest() {
    let controller = start(settings()).await;
    let body = "x".repeat(100_000);
    controller.hub.set_config(vec![route("ns/r", &body)]);
    let mut slow = Filter::connect(&controller.address, "slow", Vec::new()).await;
    slow.until("state", |f| f.synced).await;
    for n in 0..500 {
        controller.hub.set_config(vec![route("ns/r", &format!("{n}{body}"))]);
        tokio::task::yield_now().await;
    }
    let newest = route("ns/r", &format!("499{body}"));
    slow.until("the newest", |f| f.held[&newest.key].0 == newest.version)
        .await;
    assert!(slow.received.len() < 100, "{} versions travelled", slow.received.len());
}

#[tokio::test]
async fn two_hundred_filters_agree() {
    let mut settings = settings();
    settings.max_subscribers = 200;
    settings.reports.lost_after_ms = 60_000;
    let controller = start(settings).await;
    controller.hub.set_config(vec![endpoints(&[1])]);
    let mut filters = Vec::new();
    for n in 0..200 {
        let filter = Filter::connect(&controller.address, &format!("f{n}"), Vec::new()).await;
        filter.send(report(&format!("f{n}"), 1, true, &[(1, 1)])).await;
        filters.push(filter);
    }
    for filter in &mut filters {
        filter.until("the sum", |f| f.load(1) == Some((200, 20_000))).await;
    }
    let mut late = Filter::connect(&controller.address, "late", Vec::new()).await;
    let refused = timeout(PATIENCE, late.down.message()).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_stream_that_breaks_the_rules_is_ended_with_a_reason() {
    let mut settings = settings();
    settings.ack_timeout_ms = 50;
    let controller = start(settings).await;
    controller.hub.set_config(vec![endpoints(&[1])]);
    let channel = Channel::from_shared(format!("http://{}", controller.address)).unwrap();
    let channel = channel.connect().await.unwrap();

    let (_silent, mut down) = open(channel.clone(), None).await.unwrap();
    let status = timeout(PATIENCE, down.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "no hello in time");

    let hello = |protocol_minor, origin: &str| {
        up(from_filter::Message::Hello(Hello {
            protocol_minor,
            origin: origin.into(),
            ..Hello::default()
        }))
    };
    let (sender, mut down) = open(channel.clone(), None).await.unwrap();
    sender.send(hello(7, "a")).await.unwrap();
    let status = timeout(PATIENCE, down.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "a version too far off");

    let (sender, mut down) = open(channel, None).await.unwrap();
    sender.send(hello(1, "mute")).await.unwrap();
    let mut n = 0;
    let status = loop {
        n += 1;
        controller.hub.set_config(vec![route("ns/r", &n.to_string())]);
        match timeout(PATIENCE, down.message()).await.unwrap() {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "it never acknowledged");
    eventually("gone", || controller.metrics.publish.subscribers.get() == 0).await;
}

#[tokio::test]
async fn without_the_token_nobody_gets_in() {
    let path = std::env::temp_dir().join(format!("kthena-state-token-{}", std::process::id()));
    std::fs::write(&path, "secret").unwrap();
    let access = Access {
        tls: None,
        token_file: Some(path.clone()),
    };
    let controller = start_with(settings(), access).await;
    let channel = Channel::from_shared(format!("http://{}", controller.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    for token in [None, Some("wrong")] {
        let status = open(channel.clone(), token).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    assert!(open(channel, Some("secret")).await.is_ok());
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn with_mutual_tls_only_a_signed_client_gets_in() {
    let folder = std::env::temp_dir().join(format!("kthena-state-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let certificates = Certificates::make();
    for (name, text) in [
        ("ca", &certificates.authority),
        ("cert", &certificates.server.0),
        ("key", &certificates.server.1),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let access = Access {
        tls: Some(kthena_controller::publish::Tls {
            cert: folder.join("cert"),
            key: folder.join("key"),
            client_ca: Some(folder.join("ca")),
        }),
        token_file: None,
    };
    let controller = start_with(settings(), access).await;
    std::fs::remove_dir_all(folder).unwrap();
    let connect = async |identity: Option<&(String, String)>| -> Result<(), String> {
        let ca = tonic::transport::Certificate::from_pem(&certificates.authority);
        let mut tls = ClientTlsConfig::new().ca_certificate(ca).domain_name("controller");
        if let Some((cert, key)) = identity {
            tls = tls.identity(tonic::transport::Identity::from_pem(cert, key));
        }
        let url = format!("https://{}", controller.address);
        let channel = Channel::from_shared(url).unwrap().tls_config(tls).unwrap();
        let channel = channel.connect().await.map_err(|error| error.to_string())?;
        open(channel, None).await.map(|_| ()).map_err(|error| error.to_string())
    };
    assert!(connect(None).await.is_err(), "no certificate");
    let stranger = Certificates::make().client;
    assert!(connect(Some(&stranger)).await.is_err(), "signed by somebody else");
    connect(Some(&certificates.client)).await.unwrap();
}

/// PEM texts of an authority, and of certificate and key of a server and a client that it signed.
struct Certificates {
    authority: String,
    server: (String, String),
    client: (String, String),
}

impl Certificates {
    fn make() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let sign = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_string()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        Self {
            server: sign("controller"),
            client: sign("filter"),
            authority,
        }
    }
}

#[tokio::test]
async fn counts_are_answered_and_added_once_also_when_they_come_again_after_a_reconnect() {
    let controller = start(settings()).await;
    controller.hub.set_config(vec![route("ns/r", "m")]);
    let counts = |origin: &str, sequence| {
        let requests = RequestCounts {
            model: "m".into(),
            path: "/v1/completions".into(),
            status: 200,
            requests: 5,
            ..RequestCounts::default()
        };
        from_filter::Message::Counts(Counts {
            origin: origin.into(),
            sequence,
            requests: vec![requests],
            overflowed: 0,
        })
    };
    let answer = |sequence| Counted {
        origin: "wasm-1".into(),
        sequence,
    };
    let outcomes = |outcome| {
        controller
            .metrics
            .publish
            .counts
            .get_or_create(&metrics::kind(outcome))
            .get()
    };

    let mut filter = Filter::connect(&controller.address, "wasm-1", Vec::new()).await;
    filter.send(counts("wasm-1", 1)).await;
    filter.until("an answer", |f| f.counted == [answer(1)]).await;
    drop(filter);
    let mut filter = Filter::connect(&controller.address, "wasm-1", Vec::new()).await;
    filter.send(counts("wasm-1", 1)).await;
    filter.until("the same answer", |f| f.counted == [answer(1)]).await;
    filter.send(counts("wasm-1", 2)).await;
    filter
        .until("the next answer", |f| f.counted.last() == Some(&answer(2)))
        .await;
    assert_eq!((outcomes("added"), outcomes("again")), (2, 1));

    filter.send(counts("", 1)).await;
    eventually("a message without an origin to be left out", || outcomes("excess") == 1).await;
}
