//! Story: a right of the controller is taken away while it runs; what is known stays in force, and it is told.

use kthena_e2e::cluster::rights;
use serde_json::json;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_watch_pods_what_is_known_stays_in_force() {
    let mut system = start(on_a_cluster(3)).await;
    let all = system.fleet().addresses("llama");
    wait_known(&system, &all).await;
    let mut less = rights::of_the_controller().unwrap();
    for object in &mut less {
        if let Some(rules) = object["rules"].as_array_mut() {
            rules.retain(|rule| rule["resources"] != json!(["pods"]));
        }
    }
    let cluster = system.kubernetes().unwrap();
    cluster.apply(&less).await.unwrap();
    // A watch that stands is not looked at again; the next one is.
    cluster.kill_api_server().unwrap();
    cluster.restart_api_server().await.unwrap();
    wait_until("it to be told", PATIENCE, async || {
        let said = log(&mut system);
        said.lines().any(|line| {
            ["Pod in namespace default", "cannot be watched", "forbidden"]
                .iter()
                .all(|word| line.contains(word))
        })
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {}", log(&mut system)));
    system
        .kubernetes()
        .unwrap()
        .remove_pod("default", "llama-0")
        .await
        .unwrap();
    assert_eq!(known(&system, 0).await.len(), 3, "nothing is dropped");
    for _ in 0..12 {
        assert_eq!(send(&system, new_question("llama")).await.status, 200);
    }
    assert!(metric(&mut system, "kthena_controller_watch_failures_total").await > 0.0);
    // Given back: it is caught up with.
    system
        .kubernetes()
        .unwrap()
        .apply(&rights::of_the_controller().unwrap())
        .await
        .unwrap();
    wait_known(&system, &all[1..]).await;
}
