//! Story: 500 pods are replaced in a minute, each by one of another name and address, under traffic; no request is lost, and in the end the filters
//! know exactly the pods that there are.

use std::time::Instant;

use kthena_e2e::cluster::kubelet::PodSpec;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::load::Load;
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

    let load = Load::on(&system, "llama", 1);
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
    assert!(load.answered() >= 100, "{}", load.answered());
    load.stop_without_loss().await;
    assert!(took < Duration::from_secs(60), "that was no minute: {took:?}");
    for _ in 0..20 {
        let answer = send(&system, new_question("llama")).await;
        assert!(last.contains(&who(&answer)), "{}", who(&answer));
    }
}
