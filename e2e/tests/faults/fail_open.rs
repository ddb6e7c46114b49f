//! A client that sets a control header chooses nothing, also when nobody is there to decide and Envoy lets requests pass.

use kthena_e2e::envoy::place;
use kthena_e2e::system::{Change, Options, Part};
use serde_json::json;

use crate::control_headers::{llama_and_qwen, with_control_headers};
use crate::{send, start};

const FILTER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_chosen_by_clients_when_nobody_decides_and_the_filter_fails_open() {
    let mut system = start(Options {
        change_envoy: Change::new(|configuration| {
            if let Ok(filter) = place(configuration, FILTER) {
                filter["failure_mode_allow"] = json!(true);
            }
        }),
        ..llama_and_qwen()
    })
    .await;
    for replica in 0..2 {
        system.kill(Part::ExtProc(replica)).unwrap();
    }
    let answer = send(&system, with_control_headers(&system)).await;
    assert_eq!(answer.status, 404, "{}", answer.text());
    let stats = system.envoy().unwrap().stats("failure_mode_allowed").await.unwrap();
    assert_eq!(stats["http.llm.ext_proc.failure_mode_allowed"], 1);
    assert_eq!(system.fleet().received(0).await.unwrap().len(), 0);
}
