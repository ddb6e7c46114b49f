//! Story: pods lose their readiness, are told to end, fail, and are replaced; no request goes to one that has gone, and none is lost.

use kthena_e2e::cluster::kubelet::PodSpec;

use super::*;

async fn served_by(system: &System, addresses: &[Ipv4Addr]) {
    for _ in 0..12 {
        let answer = send(system, new_question("llama")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(addresses.contains(&who(&answer)), "{} of {addresses:?}", who(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_loses_its_readiness_is_left_out_until_it_is_ready_again() {
    let mut system = start(on_a_cluster(3)).await;
    let all = system.fleet().addresses("llama");
    wait_known(&system, &all).await;
    let cluster = system.kubernetes().unwrap();
    cluster.set_pod_ready("default", "llama-0", false).await.unwrap();
    wait_known(&system, &all[1..]).await;
    served_by(&system, &all[1..]).await;
    // It leaves Envoy after it has left the decisions.
    let name = system.cluster("llama");
    system.wait_for_cluster(&name, "membership_total", 2).await.unwrap();
    system
        .kubernetes()
        .unwrap()
        .set_pod_ready("default", "llama-0", true)
        .await
        .unwrap();
    wait_known(&system, &all).await;
    served_by(&system, &all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_ends_or_fails_serves_no_more_and_its_successor_does() {
    let mut system = start(on_a_cluster(3)).await;
    let all = system.fleet().addresses("llama");
    wait_known(&system, &all).await;
    // Told to end: it is there for minutes yet.
    system
        .kubernetes()
        .unwrap()
        .end_pod("default", "llama-0")
        .await
        .unwrap();
    wait_known(&system, &all[1..]).await;
    system
        .kubernetes()
        .unwrap()
        .fail_pod("default", "llama-1")
        .await
        .unwrap();
    wait_known(&system, &all[2..]).await;
    served_by(&system, &all[2..]).await;
    // Gone, and replaced by another of the same name and address.
    let cluster = system.kubernetes().unwrap();
    cluster.remove_pod("default", "llama-0").await.unwrap();
    cluster
        .run_pod(&PodSpec::new("llama-0", "llama", all[0]))
        .await
        .unwrap();
    wait_known(&system, &[all[0], all[2]]).await;
    served_by(&system, &[all[0], all[2]]).await;
}
