//! A model server that hangs is taken out by observation, within seconds and whatever its requests are about; no timer cuts off what it
//! already has. When it is well again it is used again.

use std::net::Ipv4Addr;
use std::time::Duration;

use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Options, System};
use kthena_simulator::Fault;

use crate::{SOON, llama, new_question, pods, send, start, wait_idle, who};

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_pod_is_left_out_within_seconds_and_used_again_when_it_is_healed() {
    let system = start(Options {
        controller_flags: ["--scrape-interval=500ms", "--scrape-timeout=500ms"]
            .map(str::to_owned)
            .to_vec(),
        ..llama(2)
    })
    .await;
    let ask = new_question("llama");
    let hanging = who(&send(&system, ask.clone()).await);
    system.fleet().inflict(&Fault::Hang, &[hanging]).await.unwrap();
    let (client, mut patient) = (system.client().clone(), ask);
    patient.within = Duration::from_secs(60);
    let held = tokio::spawn(async move { client.send(patient).await });
    let cluster = system.cluster("llama");
    system
        .wait_for_cluster(&cluster, "upstream_rq_active", 1)
        .await
        .unwrap();

    wait_down(&system, hanging, true).await;
    for _ in 0..30 {
        assert_ne!(who(&send(&system, new_question("llama")).await), hanging);
    }
    assert!(!held.is_finished(), "what it has is left to it");

    system.fleet().heal(&[hanging]).await.unwrap();
    let answer = held.await.unwrap().unwrap();
    assert_eq!(
        (answer.status.as_u16(), who(&answer)),
        (200, hanging),
        "{}",
        answer.text()
    );
    wait_down(&system, hanging, false).await;
    wait_until("the healed pod to serve", SOON, async || {
        who(&send(&system, new_question("llama")).await) == hanging
    })
    .await
    .unwrap();
    wait_idle(&system, 0, 2).await;
    wait_idle(&system, 1, 2).await;
}

/// Waits until both ext_proc servers hold a pod for down, or for up.
async fn wait_down(system: &System, pod: Ipv4Addr, down: bool) {
    for replica in 0..2 {
        wait_until(&format!("down = {down} of {pod}"), SOON, async || {
            let pods = pods(system, replica).await;
            let is_it = |at: &&serde_json::Value| {
                at["address"]
                    .as_str()
                    .is_some_and(|at| at.starts_with(&format!("{pod}:")))
            };
            pods.iter().find(is_it).is_some_and(|pod| pod["down"] == down)
        })
        .await
        .unwrap();
    }
}
