//! Stories of the state service, told by real gRPC clients over loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a story's helpers may fail it

mod filter;
mod service;

use std::time::Duration;

use filter::{Filter, PATIENCE, eventually, open, up};
use kthena_controller::compile::EndpointKey;
use kthena_controller::metrics;
use kthena_controller::observe::Observation;
use kthena_controller::publish::{Key, MAX_MESSAGE, by_key};
use kthena_scheduler::state::proto::{
    Counted, Counts, Echo, Hello, Load, Placement, Placements, RequestCounts, ResourceType, Settlement, Settlements,
    from_filter,
};
use kthena_scheduler::time::Time;
use prost::Message;
use service::{Controller, endpoints, report, route, settings, start};
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;

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
    let generation = controller
        .hub
        .set_config(by_key(vec![route("ns/r", "m"), endpoints(&[1])]));
    filter.until("first state", |f| f.synced).await;
    assert_eq!(filter.held.len(), 3, "route, endpoints and their load");
    assert_eq!(filter.load(1), Some((0, 0)));
    eventually("acknowledged", || controller.hub.acknowledged(generation)).await;
}

#[tokio::test]
async fn an_empty_configuration_is_a_complete_state_too() {
    let controller = start(settings()).await;
    controller.hub.set_config(by_key(Vec::new()));
    let mut filter = Filter::connect(&controller.address, "a", Vec::new()).await;
    filter.until("first state", |f| f.synced).await;
    assert!(filter.held.is_empty());
}

/// A controller with the routes a, b and c, and a filter that has them.
async fn with_three_routes() -> (Controller, Filter) {
    let controller = start(settings()).await;
    controller
        .hub
        .set_config(by_key(vec![route("ns/a", "1"), route("ns/b", "1"), route("ns/c", "1")]));
    let mut filter = Filter::connect(&controller.address, "a", Vec::new()).await;
    filter.until("first state", |f| f.synced).await;
    (controller, filter)
}

#[tokio::test]
async fn only_what_changed_travels_and_what_is_gone_is_removed() {
    let (controller, mut filter) = with_three_routes().await;
    filter.received.clear();
    controller
        .hub
        .set_config(by_key(vec![route("ns/a", "1"), route("ns/b", "2")]));
    filter.until("c is gone", |f| f.held.len() == 2).await;
    assert_eq!(filter.received, [route("ns/b", "2").key]);
}

#[tokio::test]
async fn a_filter_that_returns_is_sent_what_differs_from_what_it_has() {
    let (controller, filter) = with_three_routes().await;
    let have = filter.have();
    let held = filter.held.clone();
    drop(filter);
    controller
        .hub
        .set_config(by_key(vec![route("ns/a", "1"), route("ns/b", "2")]));

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
        .set_config(by_key(vec![route("ns/bad", "1"), route("ns/good", "1")]));
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
        .set_config(by_key(vec![route("ns/bad", "2"), route("ns/good", "1")]));
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
    controller.hub.set_config(by_key(vec![endpoints(&many)]));
    let mut filter = Filter::connect(&controller.address, "a", Vec::new()).await;
    filter.until("state", |f| f.synced).await;
    assert_eq!(filter.held[&endpoints(&[]).key].1, endpoints(&many).body);
    assert!(filter.largest <= MAX_MESSAGE, "{}", filter.largest);
}

#[tokio::test]
async fn reports_are_summed_and_echoed_and_a_lost_origins_counts_go() {
    let controller = start(settings()).await;
    controller.hub.set_config(by_key(vec![endpoints(&[1, 2])]));
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
    controller.hub.set_config(by_key(vec![endpoints(&[1])]));
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
    controller.hub.set_config(by_key(vec![endpoints(&[1])]));
    let mut filter = Filter::connect(&controller.address, "a", Vec::new()).await;
    filter.until("state", |f| f.synced).await;
    let key = EndpointKey {
        uid: "uid-1".into(),
        port: 8000,
    };
    controller.table.expect(&key, 0, Time::default());
    let mut seen = Observation {
        sampled_at: Some(Time::default()),
        ..Observation::default()
    };
    seen.sample.waiting = Some(7);
    seen.down = true;
    controller.table.store(&key, seen, controller.hub.now());
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
    controller.hub.set_config(by_key(vec![endpoints(&[1])]));
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
    controller.hub.set_config(by_key(vec![route("ns/r", &body)]));
    let mut slow = Filter::connect(&controller.address, "slow", Vec::new()).await;
    slow.until("state", |f| f.synced).await;
    for n in 0..500 {
        controller
            .hub
            .set_config(by_key(vec![route("ns/r", &format!("{n}{body}"))]));
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
    controller.hub.set_config(by_key(vec![endpoints(&[1])]));
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
    controller.hub.set_config(by_key(vec![endpoints(&[1])]));
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
        controller.hub.set_config(by_key(vec![route("ns/r", &n.to_string())]));
        match timeout(PATIENCE, down.message()).await.unwrap() {
            Ok(message) => assert!(message.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "it never acknowledged");
    eventually("gone", || controller.metrics.publish.subscribers.get() == 0).await;
}

#[tokio::test]
async fn counts_are_answered_and_added_once_also_when_they_come_again_after_a_reconnect() {
    let controller = start(settings()).await;
    controller.hub.set_config(by_key(vec![route("ns/r", "m")]));
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
