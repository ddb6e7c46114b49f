//! Story: a container restarts in its pod; it is another incarnation, which holds nothing of what the old one had cached.

use super::*;

/// The endpoint of each pod, by the pod's name.
pub(super) async fn incarnations(system: &System) -> Vec<(String, Value)> {
    let page = system.debug(Part::ExtProc(0), "/debug/config_dump/pods").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    let pods = page["pods"].as_array().cloned().unwrap_or_default();
    let mut known: Vec<_> = pods
        .iter()
        .map(|pod| {
            (
                pod["name"].as_str().unwrap_or_default().to_owned(),
                pod["endpoint"].clone(),
            )
        })
        .collect();
    known.sort_by(|a: &(String, Value), b| a.0.cmp(&b.0));
    known
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_container_is_another_incarnation() {
    let mut system = start(on_a_cluster(2)).await;
    wait_known(&system, &system.fleet().addresses("llama")).await;
    let before = incarnations(&system).await;
    let cluster = system.kubernetes().unwrap();
    cluster.restart_container("default", "llama-1", 1).await.unwrap();
    let mut after = Vec::new();
    wait_until("llama-1 to be another incarnation", PATIENCE, async || {
        after = incarnations(&system).await;
        after.len() == 2 && after[1] != before[1]
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {before:?}, {after:?}"));
    assert_eq!(after[0], before[0], "the other one has not restarted");
}
