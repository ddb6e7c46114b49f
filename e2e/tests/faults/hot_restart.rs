//! Envoy is replaced by another without a pause: no request is lost, an answer that streams goes on to its end at the old one, and what
//! both had in flight is settled.

use kthena_e2e::openai::{Chat, Message, OpenAi};
use kthena_e2e::system::Options;

use crate::{SOON, llama, start, wait_idle};
use kthena_e2e::system::load::Load;

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_that_takes_over_under_load_costs_no_request_and_leaves_nothing_in_flight() {
    let mut system = start(Options {
        replaceable_envoy: true,
        ..llama(3)
    })
    .await;
    let before = system.envoy().unwrap().id();
    let client = OpenAi::new(system.address());
    // Three seconds: longer than the new Envoy takes to start, shorter than the old one keeps what it has.
    let stream = tokio::spawn(async move {
        let chat = Chat {
            model: "llama",
            messages: &[Message::new("user", "Tell me of the changing of the guard")],
            max_tokens: 600,
            explain: false,
            within: SOON,
        };
        client.chat(chat).await
    });
    let cluster = system.cluster("llama");
    system
        .wait_for_cluster(&cluster, "upstream_rq_active", 1)
        .await
        .unwrap();
    let load = Load::start(&system);
    load.goes_on(50).await;
    system.replace_envoy().await.unwrap();
    assert_ne!(system.envoy().unwrap().id(), before);
    let turn = stream.await.unwrap().unwrap();
    assert_eq!(turn.text.split_whitespace().count(), 600);
    load.goes_on(200).await;
    load.stop_without_loss().await;
    for replica in 0..2 {
        wait_idle(&system, replica, 3).await;
    }
}
