//! Story: 500 pods are replaced in a minute, each by one of another name and address, under traffic; no request is lost, and in the end the filters
//! know exactly the pods that there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use kthena_e2e::client::Client;
use kthena_e2e::cluster::kubelet::PodSpec;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;

use super::*;

/// Pods at one time; as many addresses again are free for their successors.
const PODS: usize = 50;

/// How often all of them are replaced.
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_replaced_pods_lose_no_request() {
    let group = Group::instant("llama", "meta/llama", 2 * PODS as u8);
    let mut system = start(Options {
        groups: vec![group],
        routes: vec![model_route("llama", "llama", "llama")],
        // Half of what the machine has to do would be to observe so many.
        controller_flags: vec!["--scrape-interval=10s".to_owned()],
        ..on_a_cluster(1)
    })
    .await;
    let addresses = system.fleet().addresses("llama");
    let cluster = system.kubernetes().unwrap();
    for number in PODS..2 * PODS {
        cluster.remove_pod("default", &format!("llama-{number}")).await.unwrap();
    }
    wait_known(&system, &addresses[..PODS]).await;

    let stop = Arc::new(AtomicBool::new(false));
    let traffic = tokio::spawn(traffic(Client::http1(system.address()), Arc::clone(&stop)));
    let begun = Instant::now();
    let cluster = system.kubernetes().unwrap();
    for round in 0..ROUNDS {
        let (old, new) = if round % 2 == 0 { (0, PODS) } else { (PODS, 0) };
        for number in 0..PODS {
            // As a Deployment does it: the new one is ready before the old one is told to end.
            let name = |start: usize, round: usize| match round {
                0 => format!("llama-{}", start + number),
                round => format!("llama-{round}-{}", start + number),
            };
            let pod = PodSpec::new(&name(new, round + 1), "llama", addresses[new + number]);
            cluster.run_pod(&pod).await.unwrap();
            cluster.end_pod("default", &name(old, round)).await.unwrap();
            cluster.remove_pod("default", &name(old, round)).await.unwrap();
        }
    }
    let took = begun.elapsed();
    let last = if ROUNDS.is_multiple_of(2) {
        &addresses[..PODS]
    } else {
        &addresses[PODS..]
    };
    wait_known(&system, last).await;
    stop.store(true, Relaxed);
    let (sent, lost) = traffic.await.unwrap();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(sent >= 100, "{sent}");
    assert!(took < Duration::from_secs(60), "that was no minute: {took:?}");
    for _ in 0..20 {
        let answer = send(&system, new_question("llama")).await;
        assert!(last.contains(&who(&answer)), "{}", who(&answer));
    }
}

/// Asks until it is told to stop; how often, and the answers that were not good.
async fn traffic(client: Client, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let (mut sent, mut lost) = (0, Vec::new());
    while !stop.load(Relaxed) {
        sent += 1;
        match client.send(new_question("llama")).await {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => lost.push(format!("{}: {}", answer.status, answer.text())),
            Err(error) => lost.push(format!("{error:#}")),
        }
    }
    (sent, lost)
}
