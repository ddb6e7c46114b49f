//! Story: objects go and come back under the same name, and addresses go from one model's pod to another's.

use kthena_e2e::cluster::kubelet::PodSpec;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::{model_route, model_server};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_is_deleted_and_recreated_is_the_new_one() {
    let mut options = on_a_cluster(1);
    options.groups.push(Group::instant("qwen", "meta/qwen", 1));
    let mut system = start(options).await;
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
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_goes_to_another_models_pod_takes_no_request_of_the_first() {
    let mut options = on_a_cluster(2);
    options.groups.push(Group::instant("qwen", "meta/qwen", 1));
    options.routes.push(model_route("qwen", "qwen", "qwen"));
    let mut system = start(options).await;
    let all = system.fleet().addresses("llama");
    let moved = all[0];
    // llama's first pod goes, and a pod of qwen gets its address at once.
    let cluster = system.kubernetes().unwrap();
    cluster.remove_pod("default", "llama-0").await.unwrap();
    cluster.run_pod(&PodSpec::new("qwen-1", "qwen", moved)).await.unwrap();
    wait_until("qwen to have two endpoints and llama one", PATIENCE, async || {
        let page = system.debug(Part::ExtProc(0), "/debug/config_dump/pods").await.unwrap();
        let page: Value = serde_json::from_str(&page).unwrap();
        let owners: Vec<_> = page["pods"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pod| pod["name"].clone())
            .collect();
        owners.len() == 3 && owners.iter().any(|owner| owner == "qwen-1")
    })
    .await
    .unwrap();
    for _ in 0..20 {
        let answer = send(&system, new_question("llama")).await;
        assert_eq!((answer.status.as_u16(), who(&answer)), (200, all[1]));
    }
}
