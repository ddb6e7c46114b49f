//! Story: objects go and come back under the same name, and addresses go from one model's pod to another's.

use kthena_e2e::cluster::kubelet::PodSpec;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::load::Load;
use kthena_e2e::system::manifests::{model_route, model_server};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_is_deleted_and_recreated_is_the_new_one() {
    let mut options = on_a_cluster(1);
    options.groups.push(Group::instant("qwen", "meta/qwen", 1));
    options.routes.push(model_route("steady", "steady", "llama"));
    let mut system = start(options).await;
    let load = Load::on(&system, "steady", 1);
    let (llama, qwen) = (system.fleet().addresses("llama"), system.fleet().addresses("qwen"));
    assert_eq!(who(&send(&system, question("llama")).await), llama[0]);
    let cluster = system.kubernetes().unwrap();
    cluster.delete("modelroute/llama", "default").await.unwrap();
    cluster.apply(&[model_route("llama", "llama", "qwen")]).await.unwrap();
    wait_until("the new route to decide", PATIENCE, async || {
        let answer = send(&system, question("llama")).await;
        answer.status == 200 && who(&answer) == qwen[0]
    })
    .await
    .unwrap();
    // The ModelServer, too: its pods are found again.
    let port = system.fleet().port();
    let cluster = system.kubernetes().unwrap();
    cluster.delete("modelserver/qwen", "default").await.unwrap();
    cluster.apply(&[model_server("qwen", "meta/qwen", port)]).await.unwrap();
    wait_until("the ModelServer to serve again", PATIENCE, async || {
        let answer = send(&system, question("llama")).await;
        answer.status == 200 && who(&answer) == qwen[0]
    })
    .await
    .unwrap();
    load.goes_on(5).await;
    load.stop_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_goes_to_another_models_pod_takes_no_request_of_the_first() {
    let mut options = on_a_cluster(2);
    // Every engine knows both models, so that one that gets a request of the other would serve it: what arrives is looked at.
    options.groups[0].adapters = vec!["meta/qwen".to_owned()];
    options.groups.push(Group::instant("qwen", "meta/qwen", 1));
    options.routes.push(model_route("qwen", "qwen", "qwen"));
    let mut system = start(options).await;
    let all = system.fleet().addresses("llama");
    let moved = all[0];
    let load = Load::on(&system, "llama", 2);
    load.goes_on(20).await;
    // llama's first pod goes, and a pod of qwen gets its address at once.
    let cluster = system.kubernetes().unwrap();
    cluster.remove_pod("default", "llama-0").await.unwrap();
    cluster.run_pod(&PodSpec::new("qwen-1", "qwen", moved)).await.unwrap();
    for replica in 0..2 {
        wait_until("the address to be qwen's", PATIENCE, async || {
            let page = system
                .debug(Part::ExtProc(replica), "/debug/config_dump/pods")
                .await
                .unwrap();
            let page: Value = serde_json::from_str(&page).unwrap();
            let pods = page["pods"].as_array().cloned().unwrap_or_default();
            let owner = |pod: &&Value| {
                pod["address"]
                    .as_str()
                    .is_some_and(|at| at.starts_with(&format!("{moved}:")))
            };
            let owners: Vec<_> = pods.iter().filter(owner).map(|pod| pod["name"].clone()).collect();
            pods.len() == 3 && owners == ["qwen-1"]
        })
        .await
        .unwrap();
    }
    let of_llama = system.cluster("llama");
    system.wait_for_cluster(&of_llama, "membership_total", 1).await.unwrap();
    // From here on it takes nothing of the model that it had.
    let before = system.fleet().received(0).await.unwrap().pop().unwrap().number;
    load.goes_on(20).await;
    wait_until("the pod that has moved to serve qwen", PATIENCE, async || {
        let answer = send(&system, new_question("qwen")).await;
        answer.status == 200 && who(&answer) == moved
    })
    .await
    .unwrap();
    load.goes_on(20).await;
    load.stop_without_loss().await;
    let mut models = Vec::new();
    for request in system.fleet().received(before).await.unwrap() {
        if request.endpoint.ip() == moved && request.path.starts_with("/v1/chat") {
            let body = system.fleet().body(request.number).await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            models.push(body["model"].clone());
        }
    }
    assert!(
        !models.is_empty() && models.iter().all(|model| model == "meta/qwen"),
        "{models:?}"
    );
}
