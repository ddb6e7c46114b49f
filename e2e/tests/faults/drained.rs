//! An ext_proc server is asked to end (SIGTERM): it says so first, finishes what it has, and nobody notices but Envoy's balance.

use std::time::Duration;

use kthena_e2e::client::Ask;
use kthena_e2e::openai::{Chat, Message, OpenAi, Turn};
use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Options, System};
use tokio::task::JoinHandle;

use crate::{SOON, gauge, llama, start, wait_idle};
use kthena_e2e::system::load::Load;

/// Streams that are open when the end is asked for.
const STREAMS: usize = 8;
/// Tokens of each; one takes 5 ms.
const TOKENS: u32 = 800;

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_asked_to_end_says_so_finishes_its_streams_and_costs_no_request() {
    let mut system = start(Options {
        ext_proc_flags: vec!["--drain-delay=2s".to_owned()],
        ..llama(3)
    })
    .await;
    let streams: Vec<_> = (0..STREAMS).map(|number| open_stream(&system, number)).collect();
    let mut has = 0.0;
    wait_until("streams at both", SOON, async || {
        has = gauge(&mut system, 0, "kthena_ext_proc_streams").await.unwrap();
        let other = gauge(&mut system, 1, "kthena_ext_proc_streams").await.unwrap();
        has > 0.0 && has + other == STREAMS as f64
    })
    .await
    .unwrap();
    let load = Load::start(&system);
    load.goes_on(50).await;

    system.ext_proc(0).unwrap().process().unwrap().signal("TERM").unwrap();
    // Health says so first: Envoy has taken it out while it still takes whatever comes.
    system
        .wait_for_cluster("kthena-ext-proc", "membership_healthy", 1)
        .await
        .unwrap();
    let program = system.ext_proc(0).unwrap();
    let unready = program.page("/readyz").await.unwrap_err().to_string();
    assert!(unready.contains("the process is stopping"), "{unready}");
    assert!(
        gauge(&mut system, 0, "kthena_ext_proc_streams").await.unwrap() >= 1.0,
        "streams go on"
    );
    load.goes_on(100).await;

    for stream in streams {
        let turn = stream.await.unwrap().unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(turn.text.split_whitespace().count(), TOKENS as usize);
    }
    // It goes when the last is over, not when its patience (5 minutes) ends.
    let process = system.ext_proc(0).unwrap().process().unwrap();
    let mut ended = None;
    wait_until("its end", Duration::from_secs(10), async || {
        ended = process.ended().unwrap();
        ended.is_some()
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {}", process.last_lines(20)));
    assert!(ended.unwrap().success(), "{}", process.last_lines(20));
    load.goes_on(100).await;
    load.stop_without_loss().await;
    wait_idle(&system, 1, 3).await;
}

/// Opens a stream that takes four seconds.
fn open_stream(system: &System, number: usize) -> JoinHandle<anyhow::Result<Turn>> {
    let client = OpenAi::new(system.address());
    tokio::spawn(async move {
        let chat = Chat {
            model: "llama",
            messages: &[Message::new("user", format!("Tell me a long story, number {number}"))],
            max_tokens: TOKENS,
            explain: false,
            within: SOON,
        };
        client.chat(chat).await
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_one_ends_at_once_when_nothing_is_asked_of_it() {
    // Though Envoy would keep its access log open for ever.
    let mut system = start(Options {
        ext_procs: 1,
        ext_proc_flags: vec!["--drain-delay=10ms".to_owned()],
        ..llama(1)
    })
    .await;
    let models = system.client().send(Ask::get("/v1/models")).await.unwrap();
    assert_eq!(models.status, 200);
    wait_until("the access log", SOON, async || {
        gauge(&mut system, 0, "kthena_ext_proc_access_log_streams").await > Some(0.0)
    })
    .await
    .unwrap();
    let process = system.ext_proc(0).unwrap().process().unwrap();
    let status = process.terminate(Duration::from_secs(5)).await.unwrap();
    assert!(status.success(), "{status}");
}
