//! Story: Kthena's manifests are applied with kubectl, and the first request is routed.

use kthena_e2e::cluster;
use kthena_e2e::system::Filter;
use kthena_e2e::system::manifests::{model_route, model_server};
use serde_json::json;

use super::*;

async fn is_served(options: Options) -> System {
    let mut system = start(options).await;
    let group = system.fleet().addresses("llama");
    for _ in 0..4 {
        let answer = send(&system, new_question("llama")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(group.contains(&who(&answer)));
    }
    let unknown = send(&system, question("nobody")).await;
    assert_eq!(unknown.status, 404);
    assert!(metric(&mut system, "kthena_controller_objects").await >= 4.0);
    system
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubectl_applies_is_served_through_ext_proc() {
    drop(is_served(on_a_cluster(2)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubectl_applies_is_served_through_the_wasm_filter_in_the_namespaces_that_it_asks_for() {
    let mut system = is_served(Options {
        filter: Filter::Wasm(json!({"namespaces": ["default"]})),
        ..on_a_cluster(2)
    })
    .await;
    let of_team = |mut object: Value| {
        object["metadata"]["namespace"] = json!("team");
        object
    };
    let port = system.fleet().port();
    let theirs = [
        of_team(model_server("theirs", "meta/llama", port)),
        of_team(model_route("theirs", "theirs", "theirs")),
    ];
    let cluster = system.kubernetes().unwrap();
    cluster.kubectl(&["create", "namespace", "team"], "").await.unwrap();
    cluster.apply(&theirs).await.unwrap();
    wait_until(
        "a filter that asks for everything to know the team's route",
        PATIENCE,
        async || {
            let page = system
                .debug(Part::ExtProc(0), "/debug/config_dump/modelroutes")
                .await
                .unwrap();
            page.contains("theirs")
        },
    )
    .await
    .unwrap();
    let cluster = system.kubernetes().unwrap();
    cluster.apply(&[model_route("after", "after", "llama")]).await.unwrap();
    wait_until("a later route to be served", PATIENCE, async || {
        send(&system, question("after")).await.status == 200
    })
    .await
    .unwrap();
    let answer = send(&system, question("theirs")).await;
    assert_eq!(answer.status, 404, "{}", answer.text());
}

/// The controller is there first: kinds that are not defined are said once and awaited.
#[tokio::test(flavor = "multi_thread")]
async fn kinds_that_are_not_defined_yet_are_awaited() {
    let mut system = start(Options {
        cluster: Some(cluster::Options {
            bare: true,
            ..cluster::Options::default()
        }),
        routes: Vec::new(),
        groups: Vec::new(),
        further: Vec::new(),
        ..on_a_cluster(1)
    })
    .await;
    let awaited = "is not installed, and is awaited";
    assert_eq!(log(&mut system).matches(awaited).count(), 4, "{}", log(&mut system));
    let cluster = system.kubernetes().unwrap();
    cluster.define_kinds().await.unwrap();
    cluster
        .apply(&[
            model_server("llama", "meta/llama", 8000),
            model_route("llama", "llama", "llama"),
        ])
        .await
        .unwrap();
    wait_until("the route to be known", PATIENCE, async || {
        let answer = send(&system, question("llama")).await;
        // There is a route, and no pod: 503 instead of 404.
        answer.status == 503
    })
    .await
    .unwrap();
    assert_eq!(log(&mut system).matches(awaited).count(), 4, "said once");
}
