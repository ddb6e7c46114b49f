//! Workers decide alone and yet alike: where a prompt went through one of them, it goes through the others, and through an ext_proc server.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use kthena_e2e::client::{Ask, Client};
use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Options, Part, System};
use serde_json::Value;

use crate::processor::ask;
use crate::{SOON, in_flight, llama, new_question, send, start, who};

/// What one worker learns, all know within this time.
const AGREED_WITHIN: Duration = Duration::from_millis(200);

/// Connections, which Envoy spreads over its workers as the kernel likes: with so many no worker is left out.
const CONNECTIONS: usize = 12;

/// The model servers that answer when a question is asked on connections of its own.
async fn everyone(system: &System, ask: &Ask) -> Vec<Ipv4Addr> {
    let mut answered = Vec::new();
    for _ in 0..CONNECTIONS {
        let answer = Client::http1(system.address()).send(ask.clone()).await.unwrap();
        answered.push(who(&answer));
    }
    answered.sort();
    answered.dedup();
    answered
}

/// How many prompt blocks the ext_proc server knows the place of.
async fn known_blocks(system: &System) -> u64 {
    let page = system.debug(Part::ExtProc(0), "/debug/state").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    page["prefixIndex"]["entries"].as_u64().unwrap()
}

/// Asks a new question, and waits until its place is known to the onlooker, and everybody else had the time that was promised. They are
/// asked no sooner, as they would take a question as a placement of their own.
async fn place(system: &System) -> (Ask, Ipv4Addr) {
    let ask = new_question("llama");
    let before = known_blocks(system).await;
    let placed = who(&send(system, ask.clone()).await);
    let decided = Instant::now();
    wait_until("the placement to be told", SOON, async || {
        known_blocks(system).await > before && decided.elapsed() >= AGREED_WITHIN
    })
    .await
    .unwrap();
    (ask, placed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_goes_where_it_went_whichever_worker_is_asked() {
    let system = start(Options { workers: 4, ..llama(4) }).await;
    everyone(&system, &new_question("llama")).await;
    for _ in 0..5 {
        let (ask, placed) = place(&system).await;
        assert_eq!(everyone(&system, &ask).await, [placed]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_there_also_when_its_head_hashes_to_a_pod_that_came_later() {
    let system = start(Options { workers: 4, ..llama(2) }).await;
    let all = system.fleet().manifests("llama");
    system.manifests().write("llama.yaml", &all[..2]).unwrap();
    let cluster = system.cluster("llama");
    system.wait_for_cluster(&cluster, "membership_total", 1).await.unwrap();
    wait_until("one pod to be left", SOON, async || {
        in_flight(&system, 1).await.is_some()
    })
    .await
    .unwrap();
    everyone(&system, &new_question("llama")).await;
    let mut placed = Vec::new();
    for _ in 0..8 {
        placed.push(place(&system).await);
    }
    system.manifests().write("llama.yaml", &all).unwrap();
    system.wait_for_cluster(&cluster, "membership_total", 2).await.unwrap();
    wait_until("the other pod", SOON, async || in_flight(&system, 2).await == Some(0.0))
        .await
        .unwrap();
    // Of eight prompts that nobody remembered, all but one in 256 times some would go to the other pod.
    for (ask, placed) in placed {
        assert_eq!(everyone(&system, &ask).await, [placed]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_prompt_went_is_known_to_an_ext_proc_server_within_200_ms() {
    let system = start(llama(4)).await;
    let server = system.envoy().unwrap().settings().processors[0];
    let mut took = Vec::new();
    for _ in 0..9 {
        let before = known_blocks(&system).await;
        let question = new_question("llama");
        let placed = who(&send(&system, question.clone()).await);
        let answered = Instant::now();
        wait_until("the placement at the ext_proc server", SOON, async || {
            known_blocks(&system).await > before
        })
        .await
        .unwrap();
        took.push(answered.elapsed());
        let other = ask(server, BodySendMode::Buffered, &question.body).await;
        assert_eq!(other.endpoint, format!("{placed}:{}", system.fleet().port()));
    }
    took.sort();
    // The median, as this machine may be busy with something else.
    assert!(took[took.len() / 2] <= AGREED_WITHIN, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_ext_proc_server_sent_a_prompt_it_goes_through_every_worker() {
    let system = start(Options { workers: 4, ..llama(4) }).await;
    let servers = system.envoy().unwrap().settings().processors.clone();
    everyone(&system, &new_question("llama")).await;
    for _ in 0..5 {
        let question = new_question("llama");
        let before = known_blocks(&system).await;
        // The other one looks on.
        let decided = ask(servers[1], BodySendMode::Buffered, &question.body).await;
        let asked = Instant::now();
        wait_until("the placement to be told", SOON, async || {
            known_blocks(&system).await > before && asked.elapsed() >= AGREED_WITHIN
        })
        .await
        .unwrap();
        let port = system.fleet().port();
        let went: Vec<String> = everyone(&system, &question)
            .await
            .iter()
            .map(|to| format!("{to}:{port}"))
            .collect();
        assert_eq!(went, std::slice::from_ref(&decided.endpoint));
    }
}
