//! Story: an InferencePool is applied, whose definition is not ours; its endpoints become known to the filters.

use serde_json::json;

use super::*;

/// How many resources of a type are in force.
async fn resources(system: &mut System, kind: &str) -> Option<f64> {
    let page = system.controller().page("/metrics").await.unwrap();
    let name = format!("kthena_controller_resources{{kind=\"{kind}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoints_of_a_pool_are_known_to_the_filters() {
    let mut system = start(on_a_cluster(2)).await;
    assert_eq!(resources(&mut system, "ENDPOINTS").await, Some(1.0));
    let pool = json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
        "metadata": {"namespace": "default", "name": "pool"},
        "spec": {
            "selector": {"matchLabels": {"app": "llama"}}, "targetPorts": [{"number": 8000}, {"number": 8001}],
            "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
        },
    });
    system.kubernetes().unwrap().apply(&[pool]).await.unwrap();
    wait_until("the pool's endpoints to be in force", PATIENCE, async || {
        resources(&mut system, "ENDPOINTS").await == Some(2.0)
    })
    .await
    .unwrap();
    wait_until("every filter to have them", PATIENCE, async || {
        let page = system.debug(Part::Controller, "/debug/subscribers").await.unwrap();
        let page: Value = serde_json::from_str(&page).unwrap();
        let subscribers = page["subscribers"].as_array().cloned().unwrap_or_default();
        subscribers.len() == 2
            && subscribers
                .iter()
                .all(|one| one["up_to_date"] == true && one["refused"] == json!({}))
    })
    .await
    .unwrap();
    assert_eq!(send(&system, new_question("llama")).await.status, 200);
    system
        .kubernetes()
        .unwrap()
        .delete("inferencepool/pool", "default")
        .await
        .unwrap();
    wait_until("the pool's endpoints to be gone", PATIENCE, async || {
        resources(&mut system, "ENDPOINTS").await == Some(1.0)
    })
    .await
    .unwrap();
}
