//! Workers decide alone and yet alike: where a prompt went through one of them, it goes through the others, and through an ext_proc server.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use kthena_e2e::client::{Ask, Client};
use kthena_e2e::process::wait_until;
use kthena_e2e::system::story::{AGREED_WITHIN, agree, decided_by, placed, served_through_envoy};
use kthena_e2e::system::{Options, System};

use crate::{SOON, in_flight, llama, new_question, send, start, who};

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

/// Waits until everybody knows a placement that the onlooker took so long to hear of: they have the time that was promised.
async fn promised(taken: Duration) {
    let heard = Instant::now();
    wait_until("the time that was promised", SOON, async || {
        taken + heard.elapsed() >= AGREED_WITHIN
    })
    .await
    .unwrap();
}

/// Asks a new question, and waits until its place is known to everybody. They are asked no sooner, as they would take a question as a placement
/// of their own.
async fn place(system: &System) -> (Ask, Ipv4Addr) {
    let ask = new_question("llama");
    let (answer, taken) = placed(system, 0, send(system, ask.clone())).await;
    promised(taken).await;
    (ask, who(&answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_goes_where_it_went_whichever_worker_is_asked() {
    let system = start(Options { workers: 4, ..llama(4) }).await;
    everyone(&system, &new_question("llama")).await;
    for _ in 0..5 {
        let (ask, home) = place(&system).await;
        assert_eq!(everyone(&system, &ask).await, [home]);
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
    let mut homes = Vec::new();
    for _ in 0..8 {
        homes.push(place(&system).await);
    }
    system.manifests().write("llama.yaml", &all).unwrap();
    system.wait_for_cluster(&cluster, "membership_total", 2).await.unwrap();
    wait_until("the other pod", SOON, async || in_flight(&system, 2).await == Some(0.0))
        .await
        .unwrap();
    // Of eight prompts that nobody remembered, all but one in 256 times some would go to the other pod.
    for (ask, home) in homes {
        assert_eq!(everyone(&system, &ask).await, [home]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_prompt_went_is_known_to_an_ext_proc_server_within_200_ms() {
    let system = start(llama(4)).await;
    agree(&system, 0, async |question| {
        served_through_envoy(&system, question).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_an_ext_proc_server_sent_a_prompt_it_goes_through_every_worker() {
    let system = start(Options { workers: 4, ..llama(4) }).await;
    everyone(&system, &new_question("llama")).await;
    for _ in 0..5 {
        let question = new_question("llama");
        // The other one looks on.
        let (decided, taken) = placed(&system, 0, decided_by(&system, 1, &question)).await;
        promised(taken).await;
        let port = system.fleet().port();
        let went: Vec<String> = everyone(&system, &question)
            .await
            .iter()
            .map(|to| format!("{to}:{port}"))
            .collect();
        assert_eq!(went, std::slice::from_ref(&decided.endpoint));
    }
}
