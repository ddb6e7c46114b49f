//! The wasm filter is connected to one controller, an ext_proc server to the other: where a prompt went through one, it goes through both.

use kthena_e2e::system::story::{agree, served_through_envoy};
use kthena_e2e::system::{Change, Filter, Options};
use serde_json::json;

use crate::{llama, metric, start};

const CONTROLLERS: &str = "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints";

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
    agree(&system, 0, async |question| {
        served_through_envoy(&system, question).await
    })
    .await;
}
