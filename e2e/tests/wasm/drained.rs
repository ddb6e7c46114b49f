//! Envoy drains its listeners: what is in flight goes on to its end, nothing new is taken, and nothing stays counted.

use kthena_e2e::client::{Ask, Client};
use kthena_e2e::openai::{Chat, Message, OpenAi};
use kthena_e2e::process::wait_until;
use kthena_e2e::system::Options;

use crate::{SOON, llama, metric, new_question, send, start, wait_idle, wait_in_flight};

const TOKENS: u32 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_ends_well_and_leaves_nothing_behind() {
    let system = start(Options { workers: 2, ..llama(2) }).await;
    for _ in 0..20 {
        assert_eq!(send(&system, new_question("llama")).await.status, 200);
    }
    let streams: Vec<_> = (0..6)
        .map(|number| {
            let client = OpenAi::new(system.address());
            tokio::spawn(async move {
                let chat = Chat {
                    model: "llama",
                    messages: &[Message::new("user", format!("Tell me of the tide, part {number}"))],
                    max_tokens: TOKENS,
                    explain: false,
                    within: SOON,
                };
                client.chat(chat).await
            })
        })
        .collect();
    wait_in_flight(&system, 2, 6.0).await;
    let admin = Client::http1(system.envoy().unwrap().settings().admin);
    let answer = admin.send(Ask::post("/drain_listeners", "")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    wait_until("the listener to be closed", SOON, async || {
        let ask = new_question("llama");
        Client::http1(system.address()).send(ask).await.is_err()
    })
    .await
    .unwrap();
    for stream in streams {
        let turn = stream.await.unwrap().unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(turn.text.split_whitespace().count(), TOKENS as usize);
    }
    wait_idle(&system, 0, 2).await;
    wait_until("no request in the filter's table", SOON, async || {
        metric(&system, "kthena_requests").await == 0
    })
    .await
    .unwrap();
}
