//! The folder changes while requests are served: the change arrives, what is wrong harms nothing else, and nothing is lost.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use kthena_e2e::client::Ask;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Options, Part, ROUTES, System};
use serde_json::{Value, json};

use crate::{SOON, group_of, question, send, start, who};

async fn llama_and_qwen() -> System {
    start(Options {
        groups: vec![
            Group::instant("llama", "meta/llama", 3),
            Group::instant("qwen", "Qwen/Qwen2-7B", 1),
        ],
        routes: vec![model_route("llama", "llama", "llama")],
        ..Options::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_changes_leads_elsewhere_within_moments_and_loses_no_request() {
    let system = llama_and_qwen().await;
    assert_eq!(group_of(&system, question("llama")).await, "llama");
    system
        .manifests()
        .write(ROUTES, &[model_route("llama", "llama", "qwen")])
        .unwrap();
    wait_until("requests to go to qwen", SOON, async || {
        group_of(&system, question("llama")).await == "qwen"
    })
    .await
    .unwrap();
    system
        .manifests()
        .write("more.yaml", &[model_route("second", "llama-2", "llama")])
        .unwrap();
    wait_until("a new model", SOON, async || {
        send(&system, question("llama-2")).await.status == 200
    })
    .await
    .unwrap();
    system.manifests().remove("more.yaml").unwrap();
    wait_until("the model to go", SOON, async || {
        send(&system, question("llama-2")).await.status == 404
    })
    .await
    .unwrap();
    assert_eq!(
        group_of(&system, question("llama")).await,
        "qwen",
        "the other route is as it was"
    );
}

/// A changed manifest is in force within this time, as a median over changes.
const PICKED_UP_WITHIN: Duration = Duration::from_millis(200);
/// No change takes longer than this, however busy this machine is with something else.
const AT_THE_LATEST: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_manifest_decides_within_200_ms() {
    let system = llama_and_qwen().await;
    let mut took = Vec::new();
    for number in 0..15 {
        let (server, model) = [("qwen", "qwen"), ("llama", "llama")][number % 2];
        let written = Instant::now();
        system
            .manifests()
            .write(ROUTES, &[model_route("llama", "llama", server)])
            .unwrap();
        // Both ext_proc servers are asked in turn, so the last wrong answer may be of the slower one.
        let (mut right, mut since) = (0, written.elapsed());
        wait_until("the new route", SOON, async || {
            if group_of(&system, question("llama")).await == model {
                right += 1;
            } else {
                (right, since) = (0, written.elapsed());
            }
            right >= 6
        })
        .await
        .unwrap();
        took.push(since);
    }
    took.sort();
    println!("a changed manifest decides after {took:?}");
    assert!(took[took.len() / 2] <= PICKED_UP_WITHIN, "{took:?}");
    assert!(took[took.len() - 1] <= AT_THE_LATEST, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_document_is_named_and_takes_nothing_else_down() {
    let system = llama_and_qwen().await;
    let good = "---\n".to_owned() + &serde_saphyr::to_string(&model_route("good", "good", "llama")).unwrap();
    let bad = "---\napiVersion: networking.serving.volcano.sh/v1alpha1\nkind: ModelServer\nmetadata: {name: broken}\nspec:\n  \
               inferenceEngine: steam\n";
    system
        .manifests()
        .write_text("mixed.yaml", &format!("{bad}{good}"))
        .unwrap();
    system
        .manifests()
        .write_text("nonsense.yaml", "{ this: is: not: YAML")
        .unwrap();
    wait_until("the good document beside the bad one", SOON, async || {
        send(&system, question("good")).await.status == 200
    })
    .await
    .unwrap();
    assert_eq!(group_of(&system, question("llama")).await, "llama");
    let status = system.debug(Part::Controller, "/debug/status").await.unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    let problems = status["problems"].to_string();
    for named in ["mixed.yaml:6", "inferenceEngine", "nonsense.yaml"] {
        assert!(problems.contains(named), "{named} in {problems}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_come_are_used_and_pods_that_go_are_not() {
    let system = llama_and_qwen().await;
    let addresses = system.fleet().addresses("llama");
    let all = system.fleet().manifests("llama");
    system.manifests().write("llama.yaml", &all[..2]).unwrap();
    wait_until("one pod to be left", SOON, async || {
        used(&system).await == addresses[..1]
    })
    .await
    .unwrap();
    system.manifests().write("llama.yaml", &all).unwrap();
    wait_until("all pods to be used", SOON, async || used(&system).await == addresses)
        .await
        .unwrap();
}

/// The model servers that answer forty questions; none of them fails.
async fn used(system: &System) -> Vec<Ipv4Addr> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let mut used = BTreeSet::new();
    for _ in 0..40 {
        // Prompts that nobody has seen are spread over all.
        let prompt = format!("question {} of its own kind", ASKED.fetch_add(1, Relaxed));
        let body = json!({"model": "llama", "prompt": prompt, "max_tokens": 1});
        let answer = send(system, Ask::post("/v1/completions", body.to_string())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        used.insert(who(&answer));
    }
    used.into_iter().collect()
}
