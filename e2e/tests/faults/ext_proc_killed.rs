//! ext_proc servers are killed: one costs what it had in its hands and no more, both are a clear 503 until one is back.

use std::time::{Duration, Instant};

use kthena_e2e::client::Ask;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Options, Part};

use crate::{CHAT, SOON, llama, new_question, send, start, wait_idle};
use kthena_e2e::system::load::{CONNECTIONS, Load};

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_killed_under_load_costs_only_what_was_in_its_hands() {
    let mut system = start(Options {
        // What a dead server had in flight counts for so long.
        controller_flags: vec!["--state-lost-after=1s".to_owned()],
        ..llama(3)
    })
    .await;
    let load = Load::start(&system);
    load.goes_on(100).await;
    system.kill(Part::ExtProc(0)).unwrap();
    system
        .wait_for_cluster("kthena-ext-proc", "membership_healthy", 1)
        .await
        .unwrap();
    let noticed = Instant::now();
    load.goes_on(200).await;
    let lost = load.stop().await;
    assert!(lost.len() <= CONNECTIONS, "{lost:#?}");
    for one in &lost {
        assert!(
            one.begun < noticed,
            "begun after the death was noticed: {}",
            one.outcome
        );
        assert!(one.outcome.contains("router_unavailable"), "{}", one.outcome);
    }
    wait_idle(&system, 1, 3).await;

    let load = Load::start(&system);
    system.restart(Part::ExtProc(0)).await.unwrap();
    system
        .wait_for_cluster("kthena-ext-proc", "membership_healthy", 2)
        .await
        .unwrap();
    load.goes_on(100).await;
    load.stop_without_loss().await;
    wait_idle(&system, 0, 3).await;
    wait_idle(&system, 1, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_killed_is_a_clear_503_and_one_restarted_serves_again_within_a_second() {
    let mut system = start(llama(1)).await;
    system.kill(Part::ExtProc(0)).unwrap();
    system.kill(Part::ExtProc(1)).unwrap();
    let answer = send(&system, new_question("llama")).await;
    let error = answer.json().unwrap()["error"].clone();
    assert_eq!(
        (answer.status.as_u16(), answer.header("retry-after").as_str()),
        (503, "1")
    );
    assert_eq!(
        (error["type"].as_str(), error["code"].as_str()),
        (Some("server_error"), Some("router_unavailable"))
    );
    let answer = send(&system, Ask::post("/v1/messages", "{}")).await;
    let envelope = answer.json().unwrap();
    assert_eq!(answer.status, 503);
    assert_eq!(
        (envelope["type"].as_str(), envelope["error"]["type"].as_str()),
        (Some("error"), Some("overloaded_error"))
    );

    // The best of three, as this machine may have been busy with something else.
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        system.kill(Part::ExtProc(1)).unwrap();
        // Envoy has given both up: it is its health check that must find the one that returns.
        system
            .wait_for_cluster("kthena-ext-proc", "membership_healthy", 0)
            .await
            .unwrap();
        system.restart(Part::ExtProc(1)).await.unwrap();
        let restarted = Instant::now();
        wait_until("200", SOON, async || {
            send(&system, Ask::post(CHAT, new_question("llama").body)).await.status == 200
        })
        .await
        .unwrap();
        fastest = fastest.min(restarted.elapsed());
        if fastest < Duration::from_secs(1) {
            return;
        }
    }
    panic!("200 again only after {fastest:?}");
}
