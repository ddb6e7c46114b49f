//! What is known of where prompts live is worth what the endpoint is: it goes with it, and when it starts anew. What is not told for want of
//! bytes a second is counted.

use std::net::Ipv4Addr;

use kthena_e2e::client::Ask;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Filter, Options, System};
use kthena_simulator::Fault;
use serde_json::{Value, json};

use crate::{SOON, llama, metric, new_question, send, start, who};

/// Asks, and tells who answered and how many blocks of the prompt it was believed to hold.
async fn ask(system: &System, ask: &Ask) -> (Ipv4Addr, u64) {
    let answer = send(system, ask.clone().header("x-kthena-explain", "1")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let explanation: Value = serde_json::from_str(&answer.header("x-kthena-explanation")).unwrap();
    (who(&answer), explanation["matched_blocks"].as_u64().unwrap())
}

/// Some questions that live at one endpoint, which is known.
async fn at_home(system: &System) -> (Ipv4Addr, Vec<Ask>) {
    let mut homes = std::collections::BTreeMap::<Ipv4Addr, Vec<Ask>>::new();
    for _ in 0..8 {
        let question = new_question("llama");
        let (home, held) = ask(system, &question).await;
        assert_eq!(held, 0, "nobody has asked it before");
        let (again, held) = ask(system, &question).await;
        assert!(again == home && held > 0, "{home}, {again}: {held} blocks");
        homes.entry(home).or_default().push(question);
    }
    homes.into_iter().max_by_key(|(_, questions)| questions.len()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_starts_anew_holds_nothing() {
    let system = start(Options {
        workers: 1,
        controller_flags: vec![
            "--scrape-interval=200ms".to_owned(),
            "--scrape-timeout=200ms".to_owned(),
        ],
        ..llama(2)
    })
    .await;
    let (home, questions) = at_home(&system).await;
    system.fleet().inflict(&Fault::Die, &[home]).await.unwrap();
    system.fleet().heal(&[home]).await.unwrap();
    // As long as it is not known it counts, and is placed where it was.
    wait_until("the new start to be known", SOON, async || {
        ask(&system, &questions[0]).await.1 == 0
    })
    .await
    .unwrap();
    for question in &questions[1..] {
        assert_eq!(ask(&system, question).await.1, 0, "its cache is gone with the process");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_has_gone_takes_along_what_was_known_of_it() {
    let system = start(Options { workers: 1, ..llama(2) }).await;
    let (home, questions) = at_home(&system).await;
    let all = system.fleet().manifests("llama");
    let others: Vec<Value> = all
        .iter()
        .filter(|object| object["status"]["podIP"] != json!(home.to_string()))
        .cloned()
        .collect();
    assert_eq!(others.len(), 2, "the ModelServer and the other pod");
    let cluster = system.cluster("llama");
    system.manifests().write("llama.yaml", &others).unwrap();
    system.wait_for_cluster(&cluster, "membership_total", 1).await.unwrap();
    // Back as the very same, it is met for the first time.
    system.manifests().write("llama.yaml", &all).unwrap();
    wait_until("the pod to be used again", SOON, async || {
        ask(&system, &new_question("llama")).await.0 == home
    })
    .await
    .unwrap();
    for question in &questions {
        assert_eq!(ask(&system, question).await.1, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn placements_beyond_the_bytes_a_second_are_dropped_and_counted() {
    let system = start(Options {
        filter: Filter::Wasm(json!({"placement_bytes_per_s": 100, "max_placements": 2})),
        workers: 1,
        ..llama(2)
    })
    .await;
    for _ in 0..30 {
        assert_eq!(send(&system, new_question("llama")).await.status, 200);
    }
    wait_until("the metric", SOON, async || {
        metric(&system, "kthena_placements_dropped_total").await > 0
    })
    .await
    .unwrap();
}
