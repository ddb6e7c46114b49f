//! Controllers share the observing of endpoints: each is asked by one, known to both, and taken over from one that dies or does not look.

use std::sync::Arc;
use std::time::Duration;

use kthena_controller::compile::{EndpointKey, ScrapeTarget};
use kthena_controller::observe::{self, Scraper};
use kthena_gateway_api::InferenceEngine;

use crate::engine::{self, Engine};
use crate::filter::eventually;
use crate::pair::{Controller, pair};

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
