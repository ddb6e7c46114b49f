//! Story: clocks are a minute apart. A Lease whose holder's clock is behind is not taken while it is renewed, and one whose holder's clock is ahead
//! is taken as soon as it is not; pods whose node has another time come, restart and go as all others.

use std::time::{Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;
use kthena_e2e::cluster::kubelet::PodSpec;
use kthena_e2e::system::load::Load;
use serde_json::json;

use super::leader::{FOLLOWED_WITHIN, is_written, leads};
use super::*;

/// How far apart the clocks are.
const APART: Duration = Duration::from_secs(60);

/// Another candidate writes the Lease, with what its clock shows.
async fn renew(system: &mut System, shown: SystemTime) {
    let shown = Timestamp::try_from(shown).unwrap();
    let spec = json!({"spec": {
        "holderIdentity": "another", "leaseDurationSeconds": 3, "renewTime": format!("{shown:.6}"), "acquireTime": format!("{shown:.6}"),
    }});
    let cluster = system.kubernetes().unwrap();
    let patch = [
        "patch",
        "lease",
        "kthena-controller",
        "--type=merge",
        "-p",
        &spec.to_string(),
    ];
    cluster.kubectl(&patch, "").await.unwrap();
}

/// How often the controller has looked at the Lease.
fn looks(system: &mut System) -> usize {
    let audit = system.kubernetes().unwrap().audit().unwrap();
    let of_lease = |entry: &&Value| entry["objectRef"]["resource"] == "leases" && entry["verb"] == "get";
    audit.iter().filter(of_lease).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leads_does_not_depend_on_what_clocks_show() {
    let mut system = start(Options {
        controller_flags: [
            "--leader-elect-lease-duration=3s",
            "--leader-elect-renew-deadline=2s",
            "--leader-elect-retry-period=500ms",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..on_a_cluster(1)
    })
    .await;
    wait_until("the controller to lead", PATIENCE, async || {
        leads(system.controller()).await
    })
    .await
    .unwrap();
    let load = Load::on(&system, "llama", 1);

    // Another took the Lease, whose clock is behind: each of its renewals seems to be a minute old. It is given three times the Lease's duration.
    renew(&mut system, SystemTime::now() - APART).await;
    wait_until("the controller to see that another leads", PATIENCE, async || {
        !leads(system.controller()).await
    })
    .await
    .unwrap();
    let before = looks(&mut system);
    wait_until("the controller to look often", PATIENCE, async || {
        renew(&mut system, SystemTime::now() - APART).await;
        assert!(!leads(system.controller()).await, "the Lease is renewed");
        looks(&mut system) >= before + 18
    })
    .await
    .unwrap();

    // And now one whose clock is ahead, and which ends: its last renewal is of the next minute.
    renew(&mut system, SystemTime::now() + APART).await;
    let ended = Instant::now();
    wait_until("the controller to lead again", PATIENCE, async || {
        leads(system.controller()).await
    })
    .await
    .unwrap();
    assert!(ended.elapsed() < FOLLOWED_WITHIN, "{:?}", ended.elapsed());
    is_written(&mut system, "late").await;
    load.stop_without_loss().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_node_with_another_time_come_restart_and_go_like_all_others() {
    let mut system = start(on_a_cluster(3)).await;
    let all = system.fleet().addresses("llama");
    let cluster = system.kubernetes().unwrap();
    for number in 1..3 {
        cluster.remove_pod("default", &format!("llama-{number}")).await.unwrap();
    }
    wait_known(&system, &all[..1]).await;
    let load = Load::on(&system, "llama", 1);
    let cluster = system.kubernetes().unwrap();
    for (number, started) in [(1, SystemTime::now() + APART), (2, SystemTime::now() - APART)] {
        let pod = PodSpec {
            started: Some(started),
            ..PodSpec::new(&format!("skewed-{number}"), "llama", all[number])
        };
        cluster.run_pod(&pod).await.unwrap();
    }
    wait_known(&system, &all).await;
    // Its container is started again, and its clock has been set back meanwhile: it started before it started.
    let before = containers::incarnations(&system).await;
    let cluster = system.kubernetes().unwrap();
    let earlier = SystemTime::now() - APART;
    cluster
        .restart_container_at("default", "skewed-1", 1, earlier)
        .await
        .unwrap();
    let of = |all: &[(String, Value)]| {
        all.iter()
            .find(|(name, _)| name == "skewed-1")
            .map(|(_, id)| id.clone())
    };
    wait_until("skewed-1 to be another incarnation", PATIENCE, async || {
        let after = containers::incarnations(&system).await;
        after.len() == 3 && of(&after) != of(&before)
    })
    .await
    .unwrap();
    // What is told to end has until five minutes from now, by the API server's clock.
    let cluster = system.kubernetes().unwrap();
    cluster.end_pod("default", "skewed-1").await.unwrap();
    cluster.end_pod("default", "skewed-2").await.unwrap();
    wait_known(&system, &all[..1]).await;
    load.goes_on(20).await;
    load.stop_without_loss().await;
}
