//! Nothing can serve for now: too much is asked (429), there is no state or nobody to ask (503), somebody takes too long (504). Each is
//! the documented answer, and each ends when its cause does.

use std::time::{Duration, Instant};

use kthena_e2e::client::Ask;
use kthena_e2e::envoy::place;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Change, Options, Part, System};
use kthena_simulator::Fault;
use serde_json::{Value, json};

use crate::documented::{ENVOYS, OURS, assert_documented, documented};
use crate::{SOON, fill, gauge, llama, new_question, one_at_a_time, pods, send, start, wait_idle};

const MESSAGE_TIMEOUT: &str =
    "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/message_timeout";

#[tokio::test(flavor = "multi_thread")]
async fn where_the_operator_rejects_a_full_queue_is_429_until_it_has_room() {
    let system = start(Options {
        ext_proc_flags: vec!["--when-saturated=reject".to_owned()],
        ..one_at_a_time()
    })
    .await;
    let held = fill(&system);
    wait_waiting(&system, 1).await;
    let row = "every endpoint is saturated, and `--when-saturated reject`";
    assert_documented(&system, &documented(OURS), row, &new_question("s")).await;
    assert!(held.iter().all(|one| !one.is_finished()), "what has a place keeps it");

    held.iter().for_each(tokio::task::JoinHandle::abort);
    wait_waiting(&system, 0).await;
    assert_eq!(send(&system, new_question("s")).await.status, 200);
    wait_idle(&system, 0, 1).await;
    wait_idle(&system, 1, 1).await;
}

/// Waits until both ext_proc servers know that so many requests wait in the queue of the one engine.
async fn wait_waiting(system: &System, requests: u64) {
    for replica in 0..2 {
        wait_until(&format!("{requests} in the engine's queue"), SOON, async || {
            let pods = pods(system, replica).await;
            pods.iter()
                .all(|pod| pod["metrics"]["requestWaitingNum"] == json!(requests))
        })
        .await
        .unwrap();
    }
}

/// Two ext_proc servers that no controller has ever told anything.
async fn without_state(wait: &str) -> System {
    let mut system = start(Options {
        ext_proc_flags: vec![format!("--state-wait={wait}")],
        ..llama(1)
    })
    .await;
    system.kill(Part::Controller).unwrap();
    for replica in 0..2 {
        let program = system.ext_proc(replica).unwrap();
        program.launch().unwrap();
        wait_until("the new process", SOON, async || {
            let answer = program.page("/healthz").await;
            answer.is_ok()
        })
        .await
        .unwrap();
        let unready = program.page("/readyz").await.unwrap_err().to_string();
        assert!(unready.contains("no state from the controller yet"), "{unready}");
    }
    system
        .wait_for_cluster("kthena-ext-proc", "membership_healthy", 0)
        .await
        .unwrap();
    system
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_controller_requests_wait_for_state_and_are_503_when_none_came() {
    let wait = Duration::from_millis(700);
    let system = without_state("700ms").await;
    let begun = Instant::now();
    let row = "no state from the controller within `--state-wait`";
    // It asks twice.
    assert_documented(&system, &documented(OURS), row, &new_question("llama")).await;
    assert!(begun.elapsed() >= 2 * wait, "held for {:?}", begun.elapsed() / 2);
    assert_eq!(system.fleet().received(0).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_for_state_is_served_when_the_controller_comes() {
    // Longer than a controller takes to start, shorter than Envoy waits for a decision.
    let mut system = without_state("9s").await;
    let client = system.client().clone();
    let held = tokio::spawn(async move { client.send(new_question("llama")).await });
    wait_until("a held request", SOON, async || held_requests(&mut system).await == 1.0)
        .await
        .unwrap();
    assert!(!held.is_finished());
    system.restart(Part::Controller).await.unwrap();
    let answer = held.await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    wait_until("nothing held", SOON, async || held_requests(&mut system).await == 0.0)
        .await
        .unwrap();
}

/// Requests that wait for state, at both ext_proc servers.
async fn held_requests(system: &mut System) -> f64 {
    let mut sum = 0.0;
    for replica in 0..2 {
        sum += gauge(system, replica, "kthena_ext_proc_held_requests").await.unwrap();
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn what_envoy_answers_by_itself_is_what_the_document_says() {
    let mut system = start(Options {
        ext_procs: 1,
        controller_flags: vec!["--scrape-down-after=100000".to_owned()],
        change_envoy: Change::new(|configuration| *place(configuration, MESSAGE_TIMEOUT).unwrap() = json!("1s")),
        ..llama(2)
    })
    .await;
    let rows = documented(ENVOYS);
    let nowhere = send(&system, Ask::get("/nowhere")).await;
    assert_eq!(
        nowhere.json().unwrap()["error"]["message"],
        rows["nothing is served at the path"].message()
    );
    set_timeout(&system, "300ms").await;
    system.fleet().inflict(&Fault::Hang, &[]).await.unwrap();
    let row = "no endpoint begins its answer within `trafficPolicy.timeout`, at any try";
    assert_documented(&system, &rows, row, &new_question("llama")).await;
    system.fleet().heal(&[]).await.unwrap();

    system.fleet().inflict(&Fault::Die, &[]).await.unwrap();
    let row = "no endpoint of the list, nor another of the model, can be reached";
    assert_documented(&system, &rows, row, &new_question("llama")).await;
    system.fleet().heal(&[]).await.unwrap();
    assert_eq!(send(&system, new_question("llama")).await.status, 200);

    // A process that stands still takes connections and answers nothing.
    let stopped = system.ext_proc(0).unwrap().process().unwrap();
    stopped.pause().await.unwrap();
    let row = "kthena-ext-proc does not answer within `message_timeout`";
    assert_documented(&system, &rows, row, &new_question("llama")).await;
    let row = "no kthena-ext-proc can be reached";
    system.kill(Part::ExtProc(0)).unwrap();
    assert_documented(&system, &rows, row, &new_question("llama")).await;
}

/// Gives the ModelServer a time per try, and waits until it is known.
async fn set_timeout(system: &System, time: &str) {
    let mut manifests = system.fleet().manifests("llama");
    manifests[0]["spec"]["trafficPolicy"] = json!({"timeout": time});
    system.manifests().write("llama.yaml", &manifests).unwrap();
    wait_until("the time of one try", SOON, async || {
        let path = "/debug/config_dump/namespaces/default/modelservers/llama";
        let page = system.debug(Part::ExtProc(0), path).await.unwrap();
        let page: Value = serde_json::from_str(&page).unwrap();
        page["spec"]["timeoutMs"].is_u64()
    })
    .await
    .unwrap();
}
