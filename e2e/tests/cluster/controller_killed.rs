//! Story: the controller is killed under traffic. What is known stays in force, also while pods come and go; its successor finds what changed, and
//! writes again once the Lease of the dead one has run out.

use kthena_e2e::cluster::kubelet::PodSpec;
use kthena_e2e::system::fleet::Fault;
use kthena_e2e::system::load::Load;
use kthena_e2e::system::manifests::model_route;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_controller_costs_nothing_and_its_successor_catches_up() {
    let mut system = start(on_a_cluster(4)).await;
    let all = system.fleet().addresses("llama");
    let cluster = system.kubernetes().unwrap();
    cluster.remove_pod("default", "llama-3").await.unwrap();
    wait_known(&system, &all[..3]).await;
    let load = Load::on(&system, "llama", 2);
    load.goes_on(20).await;

    system.kill(Part::Controller).unwrap();
    // A pod dies, and nobody tells the filters: Envoy tries the next of the list.
    system.fleet().inflict(&Fault::Die, &all[..1]).await.unwrap();
    let cluster = system.kubernetes().unwrap();
    cluster.remove_pod("default", "llama-0").await.unwrap();
    cluster
        .run_pod(&PodSpec::new("llama-3", "llama", all[3]))
        .await
        .unwrap();
    cluster.apply(&[model_route("late", "late", "llama")]).await.unwrap();
    load.goes_on(100).await;
    assert_eq!(known(&system, 0).await.len(), 3, "what was known stays in force");

    system.restart(Part::Controller).await.unwrap();
    wait_known(&system, &all[1..]).await;
    load.goes_on(20).await;
    load.stop_without_loss().await;
    wait_until("the successor to write", PATIENCE, async || {
        let cluster = system.kubernetes().unwrap();
        let object = cluster.get("modelroute/late", "default").await.unwrap();
        object["status"]["conditions"]
            .as_array()
            .is_some_and(|conditions| conditions.len() == 3)
    })
    .await
    .unwrap();
    for _ in 0..12 {
        let answer = send(&system, new_question("late")).await;
        assert!(all[1..].contains(&who(&answer)), "{}", who(&answer));
    }
}
