//! Two controllers share the observing of pods: each pod is asked by one of them and its load known through both; when one goes, the other takes
//! its part over.

use std::time::Duration;

use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Options, Part, System};
use serde_json::Value;

use crate::{SOON, llama, metric, pods, start, wait_metric};

const PODS: u8 = 8;
const OF_OTHERS: &str = "kthena_controller_scrape_targets_of_others";
const SCRAPES: &str = "kthena_controller_scrape_duration_seconds_count";

/// No sample is older than this, where a pod is asked every 200 ms.
const FRESH: Duration = Duration::from_secs(1);

/// How old the samples of all pods are that a controller has.
async fn ages(system: &System, controller: usize) -> Vec<u64> {
    let page = system
        .debug(Part::OneController(controller), "/debug/config_dump/pods")
        .await
        .unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    let pods = page["pods"].as_array().unwrap();
    pods.iter().filter_map(|pod| pod["metrics"]["ageMs"].as_u64()).collect()
}

async fn wait_fresh(system: &System, controller: usize) {
    let mut seen = Vec::new();
    wait_until("fresh samples of all pods", SOON, async || {
        seen = ages(system, controller).await;
        seen.len() == usize::from(PODS) && seen.iter().all(|age| *age < FRESH.as_millis() as u64)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen:?}"));
}

/// Two controllers that have shared the pods between them.
async fn shared() -> System {
    let mut system = start(Options {
        controller_flags: vec!["--scrape-interval=200ms".to_owned(), "--peer-timeout=2s".to_owned()],
        ..llama(PODS)
    })
    .await;
    wait_until("each pod to be left to the other by one", SOON, async || {
        let left = metric(&mut system, 0, OF_OTHERS).await + metric(&mut system, 1, OF_OTHERS).await;
        left == f64::from(PODS)
    })
    .await
    .unwrap();
    system
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pod_is_asked_by_one_controller_and_by_the_other_when_that_one_dies() {
    let mut system = shared().await;
    // Each controller asks for as many as the other leaves to it: that share of all scrapes.
    let parts = [
        metric(&mut system, 1, OF_OTHERS).await,
        metric(&mut system, 0, OF_OTHERS).await,
    ];
    let before = [
        metric(&mut system, 0, SCRAPES).await,
        metric(&mut system, 1, SCRAPES).await,
    ];
    let mut asked = [0.0; 2];
    wait_until("some rounds", SOON, async || {
        for number in 0..2 {
            asked[number] = metric(&mut system, number, SCRAPES).await - before[number];
        }
        asked[0] + asked[1] >= 20.0 * f64::from(PODS)
    })
    .await
    .unwrap();
    for number in 0..2 {
        let share = 20.0 * parts[number];
        assert!(
            (asked[number] - share).abs() <= 4.0 * parts[number] + 4.0,
            "{asked:?} of {parts:?}"
        );
    }
    wait_fresh(&system, 0).await;
    wait_fresh(&system, 1).await;
    let knows = async |system: &System, replica| pods(system, replica).await.len();
    assert_eq!(
        (knows(&system, 0).await, knows(&system, 1).await),
        (usize::from(PODS), usize::from(PODS))
    );

    system.kill(Part::OneController(1)).unwrap();
    wait_metric(&mut system, 0, OF_OTHERS, |left| left == 0.0).await;
    wait_fresh(&system, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_silent_is_given_up_and_back_when_it_speaks_again() {
    let mut system = shared().await;
    let process = system.one_controller(1).unwrap().process().unwrap();
    process.pause().await.unwrap();
    wait_metric(&mut system, 0, "kthena_controller_peers", |peers| peers == 0.0).await;
    wait_metric(&mut system, 0, OF_OTHERS, |left| left == 0.0).await;
    wait_fresh(&system, 0).await;
    let process = system.one_controller(1).unwrap().process().unwrap();
    process.signal("CONT").unwrap();
    for number in 0..2 {
        wait_metric(&mut system, number, "kthena_controller_peers", |peers| peers == 1.0).await;
    }
    wait_until("each pod to be left to the other by one", SOON, async || {
        let left = metric(&mut system, 0, OF_OTHERS).await + metric(&mut system, 1, OF_OTHERS).await;
        left == f64::from(PODS)
    })
    .await
    .unwrap();
}
