//! Story: the API server is killed under traffic for half a minute and comes back, with an etcd that has forgotten the past; nothing is lost
//! meanwhile, and what changed is caught up with.

use std::time::Instant;

use kthena_e2e::cluster::kubelet::PodSpec;
use kthena_e2e::system::load::Load;
use kthena_e2e::system::manifests::model_route;

use super::*;

/// How long there is no API server.
const AWAY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn half_a_minute_without_an_api_server_costs_nothing_and_watches_that_are_too_old_are_begun_anew() {
    let mut system = start(on_a_cluster(3)).await;
    let all = system.fleet().addresses("llama");
    wait_known(&system, &all).await;
    let cluster = system.kubernetes().unwrap();
    // What happens elsewhere moves the revision on; the watches of other kinds do not hear of it.
    for number in 0..20 {
        let pod = PodSpec::new(&format!("other-{number}"), "other", all[0]);
        cluster.run_pod(&pod).await.unwrap();
    }
    let lists = metric(&mut system, "kthena_controller_watch_lists_total").await;
    let load = Load::on(&system, "llama", 2);
    load.goes_on(20).await;

    system.kubernetes().unwrap().kill_api_server().unwrap();
    let killed = Instant::now();
    wait_until("half a minute to pass", 2 * AWAY, async || killed.elapsed() >= AWAY)
        .await
        .unwrap();
    load.goes_on(20).await;
    for replica in 0..2 {
        assert_eq!(known(&system, replica).await.len(), 3, "nothing is dropped meanwhile");
    }
    assert!(system.controller().is_ready().await);
    assert!(metric(&mut system, "kthena_controller_watch_failures_total").await >= 20.0);

    let cluster = system.kubernetes().unwrap();
    cluster.compact().await.unwrap();
    cluster.restart_api_server().await.unwrap();
    // Too old to go on from what they knew: only then is a list begun anew.
    wait_until("lists to be begun anew", PATIENCE, async || {
        metric(&mut system, "kthena_controller_watch_lists_total").await > lists
    })
    .await
    .unwrap();
    assert_eq!(known(&system, 0).await.len(), 3, "a list drops nothing that it holds");
    let cluster = system.kubernetes().unwrap();
    cluster.remove_pod("default", "llama-0").await.unwrap();
    cluster.apply(&[model_route("late", "late", "llama")]).await.unwrap();
    wait_known(&system, &all[1..]).await;
    wait_until("a later route to be served", PATIENCE, async || {
        send(&system, question("late")).await.status == 200
    })
    .await
    .unwrap();
    load.goes_on(20).await;
    load.stop_without_loss().await;
    for _ in 0..12 {
        let answer = send(&system, new_question("llama")).await;
        assert!(all[1..].contains(&who(&answer)), "{}", who(&answer));
    }
    let said = log(&mut system).matches("cannot be watched").count();
    assert!((1..=15).contains(&said), "each watch says it, and says it once: {said}");
}
