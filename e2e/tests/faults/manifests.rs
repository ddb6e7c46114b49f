//! Manifests that are wrong, and manifests by the thousand, while requests are served; Envoy starts anew from the files there are.

use kthena_e2e::process::wait_until;
use kthena_e2e::system::manifests::{model_route, model_server};
use kthena_e2e::system::{Part, System};
use serde_json::{Value, json};

use crate::{SOON, llama, start, wait_deciders, wait_idle, wait_status};
use kthena_e2e::system::load::Load;

const MANIFESTS: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_manifests_at_once_and_a_broken_one_among_them_cost_no_request() {
    let system = start(llama(3)).await;
    let load = Load::start(&system);
    load.goes_on(30).await;
    // One in twenty brings a cluster to Envoy as well.
    for number in 0..MANIFESTS {
        let name = format!("many-{number}");
        let mut server = model_server(&name, "meta/llama", system.fleet().port());
        server["spec"]["workloadSelector"]["matchLabels"]["app"] = json!("llama");
        let (objects, served_by) = match number % 20 {
            0 => (vec![server], name.as_str()),
            _ => (Vec::new(), "llama"),
        };
        let route = model_route(&name, &name, served_by);
        let objects: Vec<Value> = objects.into_iter().chain([route]).collect();
        system.manifests().write(&format!("{name}.yaml"), &objects).unwrap();
    }
    system
        .manifests()
        .write_text("broken.yaml", "kind: [ModelRoute")
        .unwrap();
    for number in [0, MANIFESTS / 2, MANIFESTS - 1] {
        wait_status(&system, &format!("many-{number}"), 200).await;
    }
    wait_problem(&system, "broken.yaml").await;
    load.goes_on(100).await;

    for number in 0..MANIFESTS {
        system.manifests().remove(&format!("many-{number}.yaml")).unwrap();
    }
    wait_status(&system, &format!("many-{}", MANIFESTS - 1), 404).await;
    load.goes_on(100).await;
    load.stop_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_plugin_is_refused_by_name_and_its_model_goes_on_as_before() {
    let system = start(llama(2)).await;
    let load = Load::start(&system);
    let mut manifests = system.fleet().manifests("llama");
    manifests[0]["spec"]["scheduling"] =
        json!({"plugins": {"Score": {"enabled": [{"name": "crystal-ball", "weight": 1}]}}});
    let mut other = model_server("other", "meta/llama", system.fleet().port());
    other["spec"]["workloadSelector"]["matchLabels"]["app"] = json!("llama");
    manifests.push(other);
    manifests.push(model_route("other", "other", "other"));
    system.manifests().write("llama.yaml", &manifests).unwrap();
    wait_problem(&system, "crystal-ball").await;
    wait_status(&system, "other", 200).await;
    wait_status(&system, "llama", 200).await;
    load.goes_on(50).await;
    load.stop_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_envoy_serves_from_the_files_and_leaves_nothing_in_flight() {
    let mut system = start(llama(2)).await;
    let load = Load::start(&system);
    load.goes_on(50).await;
    system.kill(Part::Envoy).unwrap();
    let lost = load.stop().await;
    assert!(!lost.is_empty(), "nobody else serves");
    for replica in 0..2 {
        wait_idle(&system, replica, 2).await;
    }
    system.restart(Part::Envoy).await.unwrap();
    wait_deciders(&system).await;
    let load = Load::start(&system);
    load.goes_on(50).await;
    load.stop_without_loss().await;
}

/// Waits until the controller's status page speaks of something.
async fn wait_problem(system: &System, words: &str) {
    wait_until(&format!("word of {words}"), SOON, async || {
        let page = system.debug(Part::Controller, "/debug/status").await;
        page.is_ok_and(|page| page.contains(words))
    })
    .await
    .unwrap();
}
