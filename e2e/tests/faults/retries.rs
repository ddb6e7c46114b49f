//! A model server fails before its answer begins: the next of the decision's list serves, of the same model and no other. What is an
//! answer about the request itself is not tried again.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use kthena_e2e::client::{Answer, Ask};
use kthena_e2e::process::wait_until;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Options, Part, System};
use kthena_simulator::Fault;
use serde_json::{Value, json};

use crate::{CHAT, SOON, log_line, new_question, send, start, who};

/// The bound of a request body, bytes.
const BOUND: usize = 16 << 20;

/// Two models. One ext_proc server, which so knows where each prompt lives, and a controller that takes no endpoint out: whoever serves
/// a prompt is the first of the list when it comes again, whatever has happened to it.
async fn llama_and_qwen() -> System {
    start(Options {
        groups: vec![
            Group::instant("llama", "meta/llama", 3),
            Group::instant("qwen", "Qwen/Qwen2-7B", 1),
        ],
        routes: vec![
            model_route("llama", "llama", "llama"),
            model_route("qwen", "qwen", "qwen"),
        ],
        ext_procs: 1,
        controller_flags: vec!["--scrape-down-after=100000".to_owned()],
        ..Options::default()
    })
    .await
}

/// Makes a question's body this long, without a change to the prompt.
fn padded(ask: Ask, length: usize) -> Ask {
    let mut body: Value = serde_json::from_slice(&ask.body).unwrap();
    body["user"] = json!("");
    let rest = length.saturating_sub(body.to_string().len());
    body["user"] = json!("x".repeat(rest));
    Ask::post(CHAT, body.to_string())
}

/// A question that is shorter than a kilobyte.
fn short_question() -> Ask {
    let mut body: Value = serde_json::from_slice(&new_question("llama").body).unwrap();
    let prompt: String = body["messages"][0]["content"]
        .as_str()
        .unwrap()
        .chars()
        .take(500)
        .collect();
    body["messages"][0]["content"] = json!(prompt);
    Ask::post(CHAT, body.to_string())
}

/// Asks twice; the second time the model server of the first answer has a fault. Returns it, and the second answer. On a busy machine the
/// first may seem slow, and another be preferred the second time: then both are asked again.
async fn ask_again(system: &System, ask: Ask, fault: Fault) -> (Ipv4Addr, Answer) {
    let deadline = Instant::now() + SOON;
    loop {
        let first = who(&send(system, ask.clone()).await);
        system.fleet().inflict(&fault, &[first]).await.unwrap();
        let answer = send(system, ask.clone()).await;
        system.fleet().heal(&[first]).await.unwrap();
        let line = log_line(system, &answer.header("x-request-id")).await;
        if line["selected_pod"] == pod(system, first) || Instant::now() > deadline {
            return (first, answer);
        }
    }
}

fn pod(system: &System, address: Ipv4Addr) -> String {
    let pods = system.fleet().addresses("llama");
    let place = pods.iter().position(|pod| *pod == address).unwrap();
    format!("default/llama-{place}")
}

/// Asserts that the answer came from another model server of the same model, at the second try.
async fn assert_tried_again(system: &System, first: Ipv4Addr, answer: &Answer, what: &str) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    let served = who(answer);
    let pods = system.fleet().addresses("llama");
    assert!(
        served != first && pods.contains(&served),
        "{what}: {served} after {first}"
    );
    let line = log_line(system, &answer.header("x-request-id")).await;
    assert_eq!(line["selected_pod"], pod(system, first), "{what}: {line}");
    assert_eq!(line["upstream_attempts"], 2, "{what}: {line}");
    assert!(
        line["served_pod"].as_str().unwrap().starts_with(&served.to_string()),
        "{what}: {line}"
    );
}

async fn assert_qwen_received_nothing(system: &System) {
    let qwen = system.fleet().addresses("qwen")[0];
    let received = system.fleet().received(0).await.unwrap();
    let strays = received.iter().filter(|one| one.endpoint.ip() == qwen);
    assert_eq!(strays.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_of_the_same_model_serves_when_the_first_refuses_resets_or_is_unavailable() {
    let system = llama_and_qwen().await;
    for length in [1024, BOUND / 10 * 9] {
        let unavailable = |status| Fault::Error { status, share: 1.0 };
        // What Envoy does about a failure does not depend on its kind: the large body, which takes its time, has one of each sort.
        let faults = if length == 1024 {
            vec![unavailable(502), unavailable(503), unavailable(504), Fault::Die]
        } else {
            vec![unavailable(503)]
        };
        for fault in faults {
            let what = format!("{fault:?}, {length} bytes");
            let (first, answer) = ask_again(&system, padded(short_question(), length), fault).await;
            assert_tried_again(&system, first, &answer, &what).await;
        }
        let (first, answer) = reset_in_flight(&system, padded(short_question(), length)).await;
        assert_tried_again(&system, first, &answer, &format!("reset, {length} bytes")).await;
    }
    assert_qwen_received_nothing(&system).await;
}

/// As [`ask_again`], with a model server that dies while it has the request.
async fn reset_in_flight(system: &System, ask: Ask) -> (Ipv4Addr, Answer) {
    let first = who(&send(system, ask.clone()).await);
    let before = system.fleet().received(0).await.unwrap().len();
    let slow = Fault::Slow {
        factor: 1.0,
        delay_ms: 60_000,
    };
    system.fleet().inflict(&slow, &[first]).await.unwrap();
    let client = system.client().clone();
    let answer = tokio::spawn(async move { client.send(ask).await });
    wait_until("the request at the model server", SOON, async || {
        system.fleet().received(0).await.unwrap().len() > before
    })
    .await
    .unwrap();
    system.fleet().inflict(&Fault::Die, &[first]).await.unwrap();
    let answer = answer.await.unwrap().unwrap();
    system.fleet().heal(&[first]).await.unwrap();
    (first, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_serves_when_the_time_of_one_try_is_up() {
    let system = llama_and_qwen().await;
    let mut manifests = system.fleet().manifests("llama");
    manifests[0]["spec"]["trafficPolicy"] = json!({"timeout": "1s"});
    system.manifests().write("llama.yaml", &manifests).unwrap();
    wait_until("the time of one try", SOON, async || {
        let path = "/debug/config_dump/namespaces/default/modelservers/llama";
        let page = system.debug(Part::ExtProc(0), path).await.unwrap();
        page.contains("\"timeoutMs\":1000")
    })
    .await
    .unwrap();
    let (first, answer) = ask_again(&system, new_question("llama"), Fault::Hang).await;
    assert_tried_again(&system, first, &answer, "hang").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_says_about_the_request_itself_is_passed_on_and_not_tried_again() {
    let system = llama_and_qwen().await;
    let fault = Fault::Error {
        status: 500,
        share: 1.0,
    };
    let (_, failed) = ask_again(&system, new_question("llama"), fault).await;
    let mut body: Value = serde_json::from_slice(&new_question("llama").body).unwrap();
    body["max_tokens"] = json!(0);
    let refused = send(&system, Ask::post(CHAT, body.to_string())).await;
    for (answer, status) in [(failed, 500), (refused, 400)] {
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
        assert_ne!(answer.header("x-simulator-endpoint"), "", "the engine's own words");
        assert_eq!(
            log_line(&system, &answer.header("x-request-id")).await["upstream_attempts"],
            1
        );
    }
    assert_qwen_received_nothing(&system).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_listed_pods_have_gone_another_of_the_same_model_serves_and_none_is_a_clear_503() {
    let mut system = llama_and_qwen().await;
    let file = system
        .folder()
        .join(format!("envoy/eds/default.llama.{}.json", system.fleet().port()));
    // Decisions still name all pods, as nobody tells of the change but Envoy's own file.
    system.kill(Part::Controller).unwrap();
    let cluster = system.cluster("llama");
    let left = system.fleet().addresses("llama")[2];
    keep(&file, Some(left));
    system.wait_for_cluster(&cluster, "membership_total", 1).await.unwrap();
    for _ in 0..10 {
        assert_eq!(who(&send(&system, new_question("llama")).await), left);
    }
    keep(&file, None);
    system.wait_for_cluster(&cluster, "membership_total", 0).await.unwrap();
    let answer = send(&system, new_question("llama")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("retry-after").as_str()),
        (503, "1")
    );
    assert_eq!(answer.json().unwrap()["error"]["code"], "no_endpoint");
    assert_qwen_received_nothing(&system).await;
}

/// Leaves one endpoint in a file of endpoints, or none.
fn keep(file: &Path, left: Option<Ipv4Addr>) {
    let mut assignment: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let endpoints = assignment["resources"][0]["endpoints"][0]["lb_endpoints"]
        .as_array_mut()
        .unwrap();
    let is_left = |endpoint: &Value| left.is_some_and(|left| endpoint.to_string().contains(&format!("\"{left}\"")));
    endpoints.retain(is_left);
    let unfinished = file.with_extension("unfinished");
    std::fs::write(&unfinished, assignment.to_string()).unwrap();
    std::fs::rename(&unfinished, file).unwrap();
}
