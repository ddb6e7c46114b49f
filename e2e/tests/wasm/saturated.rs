//! Where the operator rejects, a full queue is 429 through the filter as well, and one of waiting requests is served again.

use kthena_e2e::client::Ask;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Filter, Options};
use serde_json::json;

use crate::documented::{OURS, assert_documented, documented};
use crate::{SOON, fill, new_question, one_at_a_time, send, start, wait_idle};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_429_until_it_has_room() {
    let system = start(Options {
        filter: Filter::Wasm(json!({"when_saturated": "reject"})),
        workers: 1,
        ..one_at_a_time()
    })
    .await;
    let held = fill(&system);
    let rejects = async || {
        send(
            &system,
            Ask {
                within: SOON,
                ..new_question("s")
            },
        )
        .await
        .status
            == 429
    };
    let full = async || {
        let endpoints = system.fleet().endpoints().await.unwrap();
        endpoints[0].running == 1 && endpoints[0].waiting == 1
    };
    wait_until("a full queue", SOON, full).await.unwrap();
    // The first ask that comes before the filter knows joins the queue and never hears: its client gives up.
    let mut impatient = new_question("s");
    impatient.within = std::time::Duration::from_millis(300);
    wait_until("429", SOON, async || {
        let answer = system.client().send(impatient.clone()).await;
        answer.is_ok_and(|answer| answer.status == 429)
    })
    .await
    .unwrap();
    let row = "every endpoint is saturated, and `--when-saturated reject`";
    assert_documented(&system, &documented(OURS), row, &new_question("s")).await;
    assert!(rejects().await);
    held.iter().for_each(tokio::task::JoinHandle::abort);
    wait_until("200", SOON, async || {
        send(&system, new_question("s")).await.status == 200
    })
    .await
    .unwrap();
    wait_idle(&system, 0, 1).await;
}
