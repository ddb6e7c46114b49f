//! Stories of the subscription: what a process knows, and what it tells, as its controller comes and goes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kthena_scheduler::state::proto::{self, ResourceType, from_filter, to_filter};
use prost::Message;
use tokio::sync::{mpsc, watch};

use super::testing::{TestController, eventually};
use super::{Controller, Credentials, Sizes, State, Subscription, Timing};

struct Process {
    state: Arc<State>,
    settlements: mpsc::Receiver<proto::Settlement>,
    _stop: watch::Sender<bool>,
}

fn process(url: &str, credentials: Credentials, cache: Option<PathBuf>) -> Process {
    let state = State::new(&Sizes {
        max_endpoints: 8,
        prefix_index_bytes: 1 << 20,
        outbox: 100,
    });
    let controller = Controller::new(url, credentials).unwrap();
    let (sender, settlements) = mpsc::channel(16);
    let timing = Timing {
        save: Duration::from_millis(5),
        ..Timing::default()
    };
    let mut subscription = Subscription::new(Arc::clone(&state), controller, timing, sender);
    if let Some(path) = cache {
        subscription = subscription.with_cache(path, 1 << 20);
    }
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(subscription.run(stopping));
    Process {
        state,
        settlements,
        _stop: stop,
    }
}

fn plain(url: &str) -> Process {
    process(url, Credentials::default(), None)
}

fn resource(r#type: ResourceType, name: &str, body: Vec<u8>) -> proto::Resource {
    proto::Resource {
        r#type: r#type as i32,
        name: name.into(),
        version: twox_hash::XxHash3_64::oneshot(&body),
        body: body.into(),
        part: 0,
        parts: 1,
    }
}

/// A ModelServer "a/s" with one endpoint of identity 1.
fn everything() -> to_filter::Message {
    let server = proto::ModelServer {
        name: "a/s".into(),
        cluster: "c".into(),
        ..Default::default()
    };
    let endpoints = proto::Endpoints {
        endpoints: vec![proto::Endpoint {
            id: 1,
            address: "10.0.0.1:8000".into(),
            ..Default::default()
        }],
    };
    to_filter::Message::Update(proto::Update {
        nonce: 7,
        resources: vec![
            resource(ResourceType::Server, "a/s", server.encode_to_vec()),
            resource(ResourceType::Endpoints, "a/s", endpoints.encode_to_vec()),
        ],
        removed: Vec::new(),
        synced: true,
    })
}

fn ack(message: from_filter::Message) -> Option<proto::Ack> {
    match message {
        from_filter::Message::Ack(ack) => Some(ack),
        _ => None,
    }
}

fn report(message: from_filter::Message) -> Option<proto::Report> {
    match message {
        from_filter::Message::Report(report) => Some(report),
        _ => None,
    }
}

fn placements(message: from_filter::Message) -> Option<proto::Placements> {
    match message {
        from_filter::Message::Placements(placements) => Some(placements),
        _ => None,
    }
}

#[tokio::test]
async fn the_first_complete_state_wakes_who_waits_and_is_acknowledged() {
    let mut controller = TestController::start();
    let process = plain(&controller.url);
    let mut changed = process.state.changed();
    let (mut subscriber, hello) = controller.welcome().await;
    assert!(hello.have.is_empty() && hello.plugins.iter().any(|name| name == "prefix-cache"));
    assert_eq!(hello.origin, process.state.origin());
    assert!(process.state.snapshot().is_none());
    subscriber.say(everything()).await;
    let acknowledged = subscriber.hear_of(ack).await;
    assert!(acknowledged.nonce == 7 && acknowledged.refused.is_empty());
    tokio::time::timeout(Duration::from_secs(20), changed.changed())
        .await
        .unwrap()
        .unwrap();
    let snapshot = process.state.snapshot().unwrap();
    assert_eq!(snapshot.server("a/s").unwrap().endpoints.len(), 1);
    let status = process.state.status();
    assert!(status.synced && status.connected && !status.from_cache && status.age_ms.is_some());
    let first = subscriber.hear_of(report).await;
    assert!(first.complete, "the controller begins with what is true of us now");
}

#[tokio::test]
async fn a_lost_controller_loses_nothing_and_the_next_is_told_what_is_held() {
    let mut controller = TestController::start();
    let process = plain(&controller.url);
    let (mut subscriber, _) = controller.welcome().await;
    subscriber.say(everything()).await;
    subscriber.hear_of(ack).await;
    drop(subscriber);
    let (_again, hello) = controller.welcome().await;
    assert_eq!(hello.have.len(), 2);
    assert!(process.state.snapshot().is_some());
    let state = Arc::clone(&process.state);
    eventually(|| state.status().connections == 2).await;
}

#[tokio::test]
async fn what_a_request_placed_reaches_the_controller_in_time_and_what_others_placed_is_learnt() {
    let mut controller = TestController::start();
    let process = plain(&controller.url);
    let (mut subscriber, _) = controller.welcome().await;
    subscriber.say(everything()).await;
    subscriber.hear_of(ack).await;
    let key = kthena_scheduler::prefix::Key { hash: 42, span: 1 };
    let began = Instant::now();
    process.state.placed(kthena_scheduler::snapshot::EndpointId(1), &[key]);
    let told = subscriber.hear_of(placements).await;
    assert_eq!((told.placements[0].endpoint, &*told.placements[0].keys), (1, &[42][..]));
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    let learnt = proto::Placement {
        endpoint: 1,
        keys: vec![43],
        gone: false,
        blocks: vec![1],
    };
    let unknown = proto::Placement {
        endpoint: 99,
        ..learnt.clone()
    };
    let message = proto::Placements {
        placements: vec![learnt, unknown],
    };
    subscriber.say(to_filter::Message::Placements(message)).await;
    let state = Arc::clone(&process.state);
    eventually(|| state.index().stats().entries == 1 && state.status().unknown_placements == 1).await;
}

#[tokio::test]
async fn settlements_go_to_the_owner_of_the_lease() {
    let mut controller = TestController::start();
    let mut process = plain(&controller.url);
    let (mut subscriber, _) = controller.welcome().await;
    process.state.settle_elsewhere("another", 5, "10.0.0.1:8000");
    let told = subscriber
        .hear_of(|message| match message {
            from_filter::Message::Settlements(settlements) => Some(settlements),
            _ => None,
        })
        .await;
    assert_eq!((&*told.settlements[0].owner, told.settlements[0].lease), ("another", 5));
    let of = |owner: &str, lease| proto::Settlement {
        owner: owner.into(),
        lease,
        served: String::new(),
    };
    let settlements = vec![of("another", 1), of(process.state.origin(), 2)];
    let message = to_filter::Message::Settlements(proto::Settlements { settlements });
    subscriber.say(message).await;
    let ours = tokio::time::timeout(Duration::from_secs(20), process.settlements.recv());
    assert_eq!(ours.await.unwrap().unwrap().lease, 2, "another's is not ours to settle");
}

#[tokio::test]
async fn a_restarted_process_serves_from_its_file_while_the_controller_is_away() {
    let file = std::env::temp_dir().join(format!("kthena-story-cache-{}", std::process::id()));
    let url = {
        let mut controller = TestController::start();
        let _process = process(&controller.url, Credentials::default(), Some(file.clone()));
        let (mut subscriber, _) = controller.welcome().await;
        subscriber.say(everything()).await;
        subscriber.hear_of(ack).await;
        eventually(|| file.exists()).await;
        controller.url.clone()
    };
    let restarted = process(&url, Credentials::default(), Some(file.clone()));
    assert!(restarted.state.snapshot().is_some());
    let status = restarted.state.status();
    assert!(status.from_cache && status.age_ms.is_none());
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn a_token_is_read_from_its_file_at_each_connection() {
    let file = std::env::temp_dir().join(format!("kthena-story-token-{}", std::process::id()));
    std::fs::write(&file, "first\n").unwrap();
    let credentials = Credentials {
        token: Some(file.clone()),
        ..Credentials::default()
    };
    let mut controller = TestController::start();
    let _process = process(&controller.url, credentials, None);
    let (subscriber, _) = controller.welcome().await;
    assert_eq!(subscriber.token.as_deref(), Some("Bearer first"));
    std::fs::write(&file, "second").unwrap();
    drop(subscriber);
    let (subscriber, _) = controller.welcome().await;
    assert_eq!(subscriber.token.as_deref(), Some("Bearer second"));
    std::fs::remove_file(file).unwrap();
}
