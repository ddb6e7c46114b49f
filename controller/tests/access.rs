//! Stories of who may subscribe to the state service, and what it then sees, told by real gRPC clients over loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a story's helpers may fail it

mod certificates;
mod filter;
mod log;
mod service;

use certificates::{Authority, Volume};
use filter::{Filter, PATIENCE, eventually, open, up};
use kthena_controller::metrics;
use kthena_controller::publish::{Access, Key, by_key};
use kthena_scheduler::state::proto::{Hello, Placement, Placements, ResourceType, from_filter};
use service::{Controller, endpoints_of, report, route, settings, start, start_with};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

/// The SPIFFE ID of a filter that belongs to a team.
const SPIFFE: &str = "spiffe://cluster.local/ns/team-a/sa/envoy";

/// A connection that trusts an authority and shows a certificate.
async fn connect(
    controller: &Controller,
    trusted: &Authority,
    identity: Option<&(String, String)>,
) -> Result<Channel, String> {
    let channel = certificates::connect(&controller.address, "controller", trusted, identity).await;
    let channel = channel.map_err(|error| error.to_string())?;
    // With TLS 1.3 a client hears only now that it was refused.
    match open(channel.clone(), None).await {
        Err(status) if status.code() != Code::PermissionDenied => Err(status.to_string()),
        _ => Ok(channel),
    }
}

fn hello(origin: &str, namespaces: &[&str]) -> Hello {
    Hello {
        origin: origin.into(),
        namespaces: namespaces.iter().map(|name| (*name).to_owned()).collect(),
        ..Hello::default()
    }
}

#[tokio::test]
async fn without_the_token_nobody_gets_in() {
    let path = std::env::temp_dir().join(format!("kthena-state-token-{}", std::process::id()));
    std::fs::write(&path, "secret").unwrap();
    let access = Access {
        token_file: Some(path.clone()),
        ..Access::default()
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
    let authority = Authority::new();
    let mut volume = Volume::new("mutual");
    volume.swap(&authority.pem, &authority.sign("controller"));
    let controller = start_with(settings(), volume.access(&[])).await;
    assert!(connect(&controller, &authority, None).await.is_err(), "no certificate");
    let stranger = Authority::new().sign("filter");
    let refused = connect(&controller, &authority, Some(&stranger)).await;
    assert!(refused.is_err(), "signed by somebody else");
    let filter = authority.sign("filter");
    connect(&controller, &authority, Some(&filter)).await.unwrap();
    let rejected = &controller.metrics.publish.rejected;
    assert!(rejected.get_or_create(&metrics::kind("tls")).get() >= 2);
}

#[tokio::test]
async fn new_certificates_are_for_new_connections_and_broken_ones_are_left_aside() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut volume = Volume::new("rotated");
    volume.swap(&old.pem, &old.sign("controller"));
    let controller = start_with(settings(), volume.access(&[])).await;
    let became = |outcome| {
        let count = &controller.metrics.publish.certificates;
        count.get_or_create(&metrics::kind(outcome)).get()
    };
    let (of_old, of_new) = (old.sign("filter"), new.sign("filter"));
    let channel = connect(&controller, &old, Some(&of_old)).await.unwrap();
    let mut standing = Filter::over(channel, hello("standing", &[])).await;
    controller.hub.set_config(by_key(vec![route("ns/r", "1")]));
    standing.until("state", |filter| filter.synced).await;

    // A certificate whose key is another's.
    volume.swap(&new.pem, &(new.sign("controller").0, old.sign("controller").1));
    eventually("the broken files to be refused", || became("refused") == 1).await;
    connect(&controller, &old, Some(&of_old)).await.unwrap();

    volume.swap(&new.pem, &new.sign("controller"));
    eventually("the new files to be taken", || became("taken") == 1).await;
    connect(&controller, &new, Some(&of_new)).await.unwrap();
    assert!(
        connect(&controller, &new, Some(&of_old)).await.is_err(),
        "its authority has retired"
    );
    assert!(connect(&controller, &old, Some(&of_old)).await.is_err(), "as has ours");
    controller.hub.set_config(by_key(vec![route("ns/r", "2")]));
    standing
        .until("a change, on the stream that stands", |filter| {
            filter.received.len() == 2
        })
        .await;
    assert_eq!((became("taken"), became("refused")), (1, 1));
}

fn two_teams(controller: &Controller) -> u64 {
    controller.hub.set_config(by_key(vec![
        route("team-a/chat", "chat"),
        endpoints_of("team-a/llama", &[1]),
        endpoints_of("inference-pool/team-a/pool", &[1]),
        route("team-b/secret", "secret"),
        endpoints_of("team-b/qwen", &[2]),
    ]))
}

fn placement(endpoint: u64) -> Placement {
    Placement {
        endpoint,
        keys: vec![endpoint],
        blocks: vec![1],
        gone: false,
    }
}

#[tokio::test]
async fn a_filter_sees_what_the_name_in_its_certificate_allows_and_changes_nothing_else() {
    let authority = Authority::new();
    let mut volume = Volume::new("scopes");
    volume.swap(&authority.pem, &authority.sign("controller"));
    let team = format!("{SPIFFE}=team-a");
    let controller = start_with(settings(), volume.access(&[&team, "kthena-ext-proc=*"])).await;
    two_teams(&controller);
    let channel = async |name: &str| {
        let identity = authority.sign(name);
        connect(&controller, &authority, Some(&identity)).await.unwrap()
    };
    let (narrow, wide) = (channel(SPIFFE).await, channel("kthena-ext-proc").await);
    let mut narrow = Filter::over(narrow, hello("narrow", &[])).await;
    let mut wide = Filter::over(wide, hello("wide", &[])).await;
    narrow.until("state", |filter| filter.synced).await;
    wide.until("state", |filter| filter.synced).await;

    // What it says of another team's endpoint counts nowhere; what is its own does.
    narrow.send(report("narrow", 1, true, &[(1, 3), (2, 7)])).await;
    narrow
        .send(from_filter::Message::Placements(Placements {
            placements: vec![placement(1), placement(2)],
        }))
        .await;
    wide.until("the report and the placement", |filter| {
        filter.load_of("team-a/llama") == Some(3) && filter.placements == [placement(1)]
    })
    .await;
    assert_eq!(wide.load_of("team-b/qwen"), Some(0));

    // And of what others say it hears only what is in its scope.
    wide.send(report("wide", 1, true, &[(1, 1), (2, 1)])).await;
    wide.send(from_filter::Message::Placements(Placements {
        placements: vec![placement(2), placement(1)],
    }))
    .await;
    controller.hub.set_config(by_key(vec![
        route("team-a/chat", "newer"),
        endpoints_of("team-a/llama", &[1]),
        route("team-b/secret", "newer"),
        endpoints_of("team-b/qwen", &[2, 3]),
    ]));
    narrow
        .until("all that is in its scope", |filter| {
            let chat = Key::new(ResourceType::Route, "team-a/chat");
            filter.held.get(&chat).map(|(version, _)| *version) == Some(route("team-a/chat", "newer").version)
                && filter.load_of("team-a/llama") == Some(4)
                && filter.placements == [placement(1)]
        })
        .await;
    let seen: Vec<_> = narrow
        .received
        .iter()
        .filter(|key| key.name.contains("team-b"))
        .collect();
    assert!(seen.is_empty(), "{seen:?}");
    assert!(
        narrow
            .received
            .iter()
            .any(|key| &*key.name == "inference-pool/team-a/pool")
    );

    // Whoever does not see a resource is not waited for.
    let of_b = Key::new(ResourceType::Route, "team-b/secret");
    let programmed = || controller.hub.acceptance(&of_b).is_some_and(|one| one.is_programmed());
    wide.until("the newest", |filter| {
        filter.received.iter().filter(|key| **key == of_b).count() == 2
    })
    .await;
    eventually("the other team's route to be programmed", programmed).await;
    assert_eq!(controller.hub.acceptance(&of_b).unwrap().subscribers, 1);
}

#[tokio::test]
async fn who_asks_for_more_than_it_may_see_or_has_no_scope_is_refused() {
    let authority = Authority::new();
    let mut volume = Volume::new("excess");
    volume.swap(&authority.pem, &authority.sign("controller"));
    let team = format!("{SPIFFE}=team-a,team-c");
    let controller = start_with(settings(), volume.access(&[&team])).await;
    two_teams(&controller);
    let team = authority.sign(SPIFFE);
    let channel = connect(&controller, &authority, Some(&team)).await.unwrap();
    let (sender, mut down) = open(channel.clone(), None).await.unwrap();
    let greedy = from_filter::Message::Hello(hello("greedy", &["team-a", "team-b"]));
    sender.send(up(greedy)).await.unwrap();
    let status = timeout(PATIENCE, down.message()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        status.message().contains("team-b") && status.message().contains("team-a,team-c"),
        "{status}"
    );

    let nobody = authority.sign("nobody");
    let channel = connect(&controller, &authority, Some(&nobody)).await.unwrap();
    let status = open(channel, None).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("--state-scope"), "{status}");
    let rejected = |reason| {
        let count = &controller.metrics.publish.rejected;
        count.get_or_create(&metrics::kind(reason)).get()
    };
    // The connection's trial is counted as well.
    assert_eq!((rejected("scope"), rejected("no_scope")), (1, 2));
}

#[tokio::test]
async fn a_filter_that_asks_for_a_namespace_gets_no_other_and_gives_up_what_it_had() {
    let controller = start(settings()).await;
    two_teams(&controller);
    let mut wide = Filter::connect(&controller.address, "filter", Vec::new()).await;
    wide.until("state", |filter| filter.synced).await;
    assert_eq!(
        wide.held.keys().filter(|key| key.kind == ResourceType::Route).count(),
        2
    );

    let url = format!("http://{}", controller.address);
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let again = Hello {
        have: wide.have(),
        ..hello("filter", &["team-b"])
    };
    let mut narrow = Filter::over(channel, again).await;
    narrow.held = std::mem::take(&mut wide.held);
    narrow.until("state", |filter| filter.synced).await;
    let names: Vec<_> = narrow.held.keys().map(|key| key.name.to_string()).collect();
    assert!(names.iter().all(|name| name.starts_with("team-b/")), "{names:?}");
    assert!(names.len() >= 2, "{names:?}");
}

#[tokio::test]
async fn a_filter_that_tells_its_gateway_sees_what_others_see_and_is_told_of_in_the_log() {
    let log = log::Log::default();
    let _logging = tracing::dispatcher::set_default(&log.dispatch());
    let controller = start(settings()).await;
    two_teams(&controller);
    let mut usual = Filter::connect(&controller.address, "usual", Vec::new()).await;
    usual.until("state", |filter| filter.synced).await;
    let url = format!("http://{}", controller.address);
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let of_gateway = Hello {
        gateway: "team-a/edge".into(),
        ..hello("of-a-gateway", &[])
    };
    let mut of_gateway = Filter::over(channel, of_gateway).await;
    of_gateway.until("state", |filter| filter.synced).await;
    assert!(of_gateway.held.keys().eq(usual.held.keys()));
    log.says(&["WARN", "origin=of-a-gateway", "narrows nothing"]).await;
    assert_eq!(log.lines(&["narrows nothing"]), 1, "once, and of nobody else");
    let shown = controller.hub.subscribers();
    let gateways: Vec<_> = shown.iter().map(|one| one.gateway.as_str()).collect();
    assert_eq!(gateways, ["", "team-a/edge"]);
}
