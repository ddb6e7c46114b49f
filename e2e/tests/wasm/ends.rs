//! However a request ends, what is counted of it in flight ends with it, at once and in every decider's picture.

use std::time::Duration;

use kthena_e2e::client::Client;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Filter, Options, System};
use kthena_simulator::Fault;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::{CHAT, SOON, in_flight, llama, metric, new_question, send, start, wait_in_flight};

const ENDPOINTS: u8 = 2;

/// Nothing is in flight, and the filter remembers no request.
async fn wait_idle(system: &System) {
    crate::wait_idle(system, 0, usize::from(ENDPOINTS)).await;
    wait_until("no request in the filter's table", SOON, async || {
        metric(system, "kthena_requests").await == 0
    })
    .await
    .unwrap();
}

/// Model servers that take this long before they answer.
async fn slow(system: &System, delay_ms: u64) {
    let fault = Fault::Slow { factor: 1.0, delay_ms };
    system.fleet().inflict(&fault, &[]).await.unwrap();
}

/// A request whose client can go at any time.
async fn open(system: &System) -> TcpStream {
    let body = new_question("llama").body;
    let mut connection = TcpStream::connect(system.address()).await.unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&body).await.unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_done_and_a_client_that_is_gone() {
    let system = start(llama(ENDPOINTS)).await;
    slow(&system, 2_000).await;
    let client = Client::http1(system.address());
    let asked = tokio::spawn(async move { client.send(new_question("llama")).await });
    wait_in_flight(&system, 2, 1.0).await;
    assert_eq!(asked.await.unwrap().unwrap().status, 200);
    wait_idle(&system).await;

    slow(&system, 60_000).await;
    let connection = open(&system).await;
    wait_in_flight(&system, 2, 1.0).await;
    drop(connection);
    wait_idle(&system).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_server_that_resets_and_one_that_takes_too_long() {
    let system = start(llama(ENDPOINTS)).await;
    slow(&system, 60_000).await;
    let client = Client::http1(system.address());
    let asked = tokio::spawn(async move { client.send(new_question("llama")).await });
    wait_in_flight(&system, 2, 1.0).await;
    system.fleet().inflict(&Fault::Die, &[]).await.unwrap();
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    wait_idle(&system).await;

    system.fleet().heal(&[]).await.unwrap();
    let mut manifests = system.fleet().manifests("llama");
    manifests[0]["spec"]["trafficPolicy"] = json!({"timeout": "300ms", "retry": {"attempts": 0}});
    system.manifests().write("llama.yaml", &manifests).unwrap();
    system.fleet().inflict(&Fault::Hang, &[]).await.unwrap();
    let client = Client::http1(system.address());
    wait_until("504 when the time of one try is up", SOON, async || {
        let mut ask = new_question("llama");
        ask.within = Duration::from_secs(2);
        client.send(ask).await.is_ok_and(|answer| answer.status == 504)
    })
    .await
    .unwrap();
    wait_idle(&system).await;
}

/// Memory of all VMs. The filter tells once a second: what it tells of the second request is told after the first was over.
async fn memory(system: &System) -> u64 {
    for _ in 0..2 {
        let before = metric(system, "kthena_dispatched_total").await;
        assert_eq!(send(system, new_question("llama")).await.status, 200);
        wait_until("the filter to tell", SOON, async || {
            metric(system, "kthena_dispatched_total").await > before
        })
        .await
        .unwrap();
    }
    metric(system, "kthena_memory_bytes").await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_at_any_moment_leave_nothing_behind() {
    // The index is full with the first prompts: it would else count as growth. One worker, so that all is told at one time.
    let system = start(Options {
        filter: Filter::Wasm(json!({"prefix_index_bytes": 64 << 10})),
        workers: 1,
        ..llama(ENDPOINTS)
    })
    .await;
    slow(&system, 30).await;
    let client = Client::http1(system.address());
    let mut early = 0;
    for round in 0..10 {
        let mut asked = tokio::task::JoinSet::new();
        for number in 0..100 {
            let client = client.clone();
            asked.spawn(async move {
                // Moments spread over the whole life of a request.
                let mut ask = new_question("llama");
                ask.within = Duration::from_millis((number * 7 + round * 3) % 90);
                client.send(ask).await.is_ok()
            });
        }
        while asked.join_next().await.is_some() {}
        if round == 4 {
            wait_idle(&system).await;
            early = memory(&system).await;
        }
    }
    wait_idle(&system).await;
    let late = memory(&system).await;
    assert!(
        late <= early + early / 20,
        "memory stays flat: {early} bytes after 500, {late} after 1,000"
    );
    assert_eq!(in_flight(&system, 2).await, Some(0.0));
}
