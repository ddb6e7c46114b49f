//! Processors die and come back while traffic goes on.

use std::net::SocketAddr;
use std::time::Duration;

use kthena_e2e::clusters::Cluster;
use kthena_e2e::envoy::place;
use kthena_e2e::noop::{Decision, Noop};
use kthena_e2e::ports::Reserved;
use kthena_e2e::process::{Launch, Process, wait_until};
use kthena_e2e::scratch::Scratch;
use kthena_e2e::scripted::{Behaviour, Scripted};

use crate::rig::{LLAMA, Rig, SOON, named, who};

/// A no-op processor as a process of its own, which can be killed.
fn processor(at: SocketAddr, logs: &Scratch, flags: &[&str]) -> Process {
    let mut args = vec![
        "--listen".to_owned(),
        at.to_string(),
        "--cluster".to_owned(),
        LLAMA.to_owned(),
    ];
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    Process::start(Launch {
        name: "kthena-noop".to_owned(),
        program: env!("CARGO_BIN_EXE_kthena-noop").into(),
        args: args.into_iter().map(Into::into).collect(),
        env: Vec::new(),
        log: logs.path().join("noop.log"),
    })
    .unwrap()
}

struct Pair {
    rig: Rig,
    ports: [Reserved; 2],
    first: Process,
    second: Process,
    logs: Scratch,
}

async fn pair(pod: SocketAddr, flags: &[&str]) -> Pair {
    let logs = Scratch::new("processors").unwrap();
    let ports = [Reserved::loopback().unwrap(), Reserved::loopback().unwrap()];
    let (first, second) = (
        processor(ports[0].address(), &logs, flags),
        processor(ports[1].address(), &logs, flags),
    );
    let addresses = ports.iter().map(Reserved::address).collect();
    let rig = Rig::start_with_processors(&[Cluster::new(LLAMA, [pod])], Noop::default(), addresses, |_| ()).await;
    Pair {
        rig,
        ports,
        first,
        second,
        logs,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_killed_costs_no_request_that_begins_afterwards() {
    let pod = named("pod").await;
    let mut pair = pair(pod.address(), &["--ends-stream"]).await;
    pair.first.kill().unwrap();
    for _ in 0..100 {
        let answer = pair.rig.chat().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    pair.rig.wait_for("kthena-ext-proc", "membership_healthy", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_killed_is_a_clear_503_and_one_restarted_serves_again_within_a_second() {
    let pod = named("pod").await;
    let mut pair = pair(pod.address(), &["--ends-stream"]).await;
    pair.first.kill().unwrap();
    pair.second.kill().unwrap();
    let answer = pair.rig.chat().await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("retry-after").as_str()),
        (503, "1")
    );
    assert_eq!(answer.json().unwrap()["error"]["code"], "router_unavailable");

    let _again = processor(pair.ports[1].address(), &pair.logs, &["--ends-stream"]);
    wait_until("the restarted processor to listen", SOON, async || {
        tokio::net::TcpStream::connect(pair.ports[1].address()).await.is_ok()
    })
    .await
    .unwrap();
    wait_until("200", Duration::from_secs(1), async || {
        pair.rig.chat().await.status == 200
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_flight_survives_its_processor_when_that_had_nothing_more_to_say() {
    let pod = named("pod").await;
    let pieces: Vec<String> = (0..5)
        .map(|number| format!("data: {{\"number\":{number}}}\n\n"))
        .collect();
    pod.behave(Behaviour::Stream(pieces.clone(), Duration::from_millis(100)));
    let mut pair = pair(pod.address(), &["--ends-stream"]).await;
    let client = pair.rig.client.clone();
    let answer = tokio::spawn(async move {
        client
            .send(kthena_e2e::client::Ask::post("/v1/completions", "{}"))
            .await
    });
    let mut seen = 0;
    wait_until("the request at the model server", SOON, async || {
        seen += pod.take_seen().len();
        seen > 0
    })
    .await
    .unwrap();
    pair.first.kill().unwrap();
    pair.second.kill().unwrap();
    assert_eq!(answer.await.unwrap().unwrap().text(), pieces.concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_hangs_is_left_aside() {
    let pod = named("pod").await;
    let pair = pair(pod.address(), &["--ends-stream"]).await;
    pair.first.pause().await.unwrap();
    pair.rig.wait_for("kthena-ext-proc", "membership_healthy", 1).await;
    for _ in 0..20 {
        assert_eq!(who(&pair.rig.chat().await), "pod");
    }
    pair.first.signal("CONT").unwrap();
    pair.rig.wait_for("kthena-ext-proc", "membership_healthy", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_processor_that_never_answers_is_a_504_when_its_time_is_up() {
    let pod = named("pod").await;
    let silent = Scripted::start(Behaviour::Hang).await.unwrap();
    let clusters = [
        Cluster::new(LLAMA, [pod.address()]),
        Cluster::new("silent", [silent.address()]),
    ];
    let rig = Rig::start_changed(&clusters, Decision::default(), |configuration| {
        let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
        let filter = place(configuration, &format!("{manager}/http_filters/0/typed_config")).unwrap();
        filter["message_timeout"] = "0.3s".into();
        filter["grpc_service"]["envoy_grpc"]["cluster_name"] = "silent".into();
    })
    .await;
    let answer = rig.chat().await;
    assert_eq!(
        (answer.status.as_u16(), pod.take_seen().len()),
        (504, 0),
        "{}",
        answer.text()
    );
    assert_eq!(answer.json().unwrap()["error"]["code"], "router_timeout");
}
