//! Story: the API server is killed under traffic and comes back, with an etcd that has forgotten the past; nothing is lost meanwhile, and what
//! changed is caught up with.

use kthena_e2e::cluster::kubelet::PodSpec;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_without_an_api_server_and_its_return_is_noticed() {
    let mut system = start(on_a_cluster(3)).await;
    let all = system.fleet().addresses("llama");
    wait_known(&system, &all).await;
    system.kubernetes().unwrap().kill_api_server().unwrap();
    wait_until("the watches to be tried again and again", PATIENCE, async || {
        metric(&mut system, "kthena_controller_watch_failures_total").await >= 20.0
    })
    .await
    .unwrap();
    for _ in 0..20 {
        assert_eq!(send(&system, new_question("llama")).await.status, 200);
    }
    assert_eq!(known(&system, 0).await.len(), 3, "nothing is dropped meanwhile");
    assert!(system.controller().is_ready().await);

    let cluster = system.kubernetes().unwrap();
    cluster.restart_api_server().await.unwrap();
    // Too old for the watches that went on from what they knew: they list anew.
    cluster.remove_pod("default", "llama-0").await.unwrap();
    wait_known(&system, &all[1..]).await;
    for _ in 0..12 {
        let answer = send(&system, new_question("llama")).await;
        assert!(
            answer.status == 200 && all[1..].contains(&who(&answer)),
            "{}",
            answer.status
        );
    }
    let said = log(&mut system).matches("cannot be watched").count();
    assert!((1..=15).contains(&said), "each watch says it, and says it once: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_are_too_old_are_begun_anew() {
    let mut system = start(on_a_cluster(3)).await;
    let all = system.fleet().addresses("llama");
    wait_known(&system, &all).await;
    let lists = metric(&mut system, "kthena_controller_watch_lists_total").await;
    let cluster = system.kubernetes().unwrap();
    // What happens elsewhere moves the revision on; the watches of other kinds do not hear of it.
    for number in 0..20 {
        let pod = PodSpec {
            namespace: "default".to_owned(),
            ..PodSpec::new(&format!("other-{number}"), "other", all[0])
        };
        cluster.run_pod(&pod).await.unwrap();
    }
    cluster.kill_api_server().unwrap();
    cluster.compact().await.unwrap();
    cluster.restart_api_server().await.unwrap();
    wait_until("lists to be begun anew", PATIENCE, async || {
        metric(&mut system, "kthena_controller_watch_lists_total").await > lists
    })
    .await
    .unwrap();
    assert_eq!(known(&system, 0).await.len(), 3, "a list drops nothing that it holds");
    system
        .kubernetes()
        .unwrap()
        .remove_pod("default", "llama-2")
        .await
        .unwrap();
    wait_known(&system, &all[..2]).await;
}
