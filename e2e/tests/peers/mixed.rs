//! The wasm filter is connected to one controller, an ext_proc server to the other: where a prompt went through one, it goes through both.

use std::time::{Duration, Instant};

use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Change, Filter, Options, Part, System};
use serde_json::{Value, json};

use crate::processor::ask;
use crate::{SOON, llama, metric, new_question, send, start, who};

/// What one filter learns, the other knows within this time.
const AGREED_WITHIN: Duration = Duration::from_millis(200);

const CONTROLLERS: &str = "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints";

/// How many prompt blocks the ext_proc server of the first controller knows the place of.
async fn known_blocks(system: &System) -> u64 {
    let page = system.debug(Part::ExtProc(0), "/debug/state").await.unwrap();
    let page: Value = serde_json::from_str(&page).unwrap();
    page["prefixIndex"]["entries"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_prompt_went_through_the_wasm_filter_of_one_it_goes_through_the_ext_proc_server_of_the_other() {
    let mut system = start(Options {
        filter: Filter::Wasm(json!({"explain": true})),
        ext_procs: 1,
        change_envoy: Change::new(|configuration| {
            let controllers = configuration.pointer_mut(CONTROLLERS).unwrap().as_array_mut().unwrap();
            controllers.remove(0);
        }),
        ..llama(4)
    })
    .await;
    assert_eq!(metric(&mut system, 0, "kthena_controller_subscribers").await, 1.0);
    assert!(metric(&mut system, 1, "kthena_controller_subscribers").await >= 1.0);
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
