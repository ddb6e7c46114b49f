//! Story: a namespace is deleted; its models are gone, its pods are not watched any more, and the others go on.

use kthena_e2e::cluster::kubelet::PodSpec;
use kthena_e2e::system::load::Load;
use kthena_e2e::system::manifests::{model_route, model_server};
use serde_json::json;

use super::*;

fn of_team(mut object: Value) -> Value {
    object["metadata"]["namespace"] = json!("team");
    object
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_takes_its_models_along_and_nothing_else() {
    let mut options = on_a_cluster(2);
    options.cluster = Some(cluster::Options {
        controllers: vec!["namespace-controller".to_owned()],
        ..cluster::Options::default()
    });
    let mut system = start(options).await;
    let (all, port) = (system.fleet().addresses("llama"), system.fleet().port());
    let cluster = system.kubernetes().unwrap();
    cluster.kubectl(&["create", "namespace", "team"], "").await.unwrap();
    let pod = PodSpec {
        namespace: "team".to_owned(),
        ..PodSpec::new("mine-0", "mine", all[0])
    };
    cluster.run_pod(&pod).await.unwrap();
    let objects = [
        of_team(model_server("mine", "meta/llama", port)),
        of_team(model_route("mine", "mine", "mine")),
    ];
    cluster.apply(&objects).await.unwrap();
    wait_until("the team's model to be served", PATIENCE, async || {
        send(&system, question("mine")).await.status == 200
    })
    .await
    .unwrap();
    assert_eq!(
        metric(&mut system, "kthena_controller_watched_pod_namespaces").await,
        2.0
    );

    let load = Load::on(&system, "llama", 1);
    let cluster = system.kubernetes().unwrap();
    cluster
        .kubectl(&["delete", "namespace", "team", "--wait=false"], "")
        .await
        .unwrap();
    // Pods go first, and have time to end: nothing is sent to them any more.
    wait_until("the team's model to have no pod", PATIENCE, async || {
        send(&system, question("mine")).await.status == 503
    })
    .await
    .unwrap();
    system.kubernetes().unwrap().remove_pod("team", "mine-0").await.unwrap();
    wait_until("the team's model to be gone", PATIENCE, async || {
        send(&system, question("mine")).await.status == 404
    })
    .await
    .unwrap();
    wait_until("the team's pods not to be watched", PATIENCE, async || {
        metric(&mut system, "kthena_controller_watched_pod_namespaces").await == 1.0
    })
    .await
    .unwrap();
    load.goes_on(5).await;
    load.stop_without_loss().await;
}
