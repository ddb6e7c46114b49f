//! Requests through the filter are on the controller's page of metrics, under Kthena's names: each once, whatever becomes of the stream that
//! tells of them, of the controller, or of the plugin.

use kthena_e2e::client::Ask;
use kthena_e2e::envoy::{DOCUMENT, place};
use kthena_e2e::exposition;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::{Change, Filter, Options, Part, System};
use serde_json::{Value, json};

use crate::host::{change_plugin, dynamic};
use crate::{CHAT, SOON, llama, log_line, metric, new_question, send, start};

/// The controller's page.
async fn page(system: &mut System) -> String {
    system.controller().page("/metrics").await.unwrap_or_default()
}

/// Waits until so many requests are on the controller's page, and returns it.
async fn wait_counted(system: &mut System, requests: f64) -> String {
    let (mut seen, mut shown) = (None, String::new());
    let what = format!("{requests} requests on the page");
    let waited = wait_until(&what, SOON, async || {
        shown = page(system).await;
        seen = exposition::sum(&shown, "kthena_router_requests_total");
        seen == Some(requests)
    });
    waited.await.unwrap_or_else(|error| panic!("{error:#}: {seen:?}"));
    shown
}

/// The value of one series, labels and all.
fn value(page: &str, series: &str) -> Option<f64> {
    let found = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found?.parse().ok()
}

fn labels(path: &str, more: &str) -> String {
    let to = r#"model_route="default/llama",backend_type="model_server",backend_name="default/llama""#;
    format!(r#"{{model="llama",path="{path}",{more},{to},upstream_model="meta/llama"}}"#)
}

/// What every system has counted before its story begins: lists of models, until it was ready.
async fn at_the_start(system: &mut System) -> f64 {
    let mut seen = None;
    wait_until("what was asked before", SOON, async || {
        let listed = exposition::sum(&page(system).await, "kthena_router_requests_total");
        let same = listed.is_some() && listed == seen;
        seen = listed;
        same && metric(system, "kthena_requests").await == 0
            && metric(system, "kthena_answered_total").await as f64 == listed.unwrap()
    })
    .await
    .unwrap();
    seen.unwrap()
}

/// An answer's usage, in Anthropic's words or in OpenAI's.
fn usage(answer: &Value, names: [&str; 2]) -> f64 {
    names.iter().find_map(|name| answer["usage"][*name].as_f64()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_tokens_and_durations_are_told_by_model_path_and_status() {
    everything_is_told(llama(2), json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_told_alike_where_envoys_metadata_filters_read_usage() {
    let change_envoy = Change::new(with_metadata_filters);
    let options = Options {
        change_envoy,
        ..llama(2)
    };
    everything_is_told(options, json!({"usage": "envoy"})).await;
}

/// Puts those of the other reference configuration before the router, as docs/wasm.md says.
fn with_metadata_filters(configuration: &mut Value) {
    let mut asked: Value = serde_saphyr::from_str(DOCUMENT).unwrap();
    let filters = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
    let theirs = place(&mut asked, filters).unwrap().as_array().unwrap().clone();
    let reads = |filter: &Value| {
        filter["name"]
            .as_str()
            .is_some_and(|name| name.ends_with("_to_metadata"))
    };
    let readers: Vec<Value> = theirs.into_iter().filter(reads).collect();
    assert_eq!(readers.len(), 2, "one for documents, one for streams");
    let ours = place(configuration, filters).unwrap().as_array_mut().unwrap();
    let router = ours.len() - 1;
    ours.splice(router..router, readers);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_stands_in_the_access_log_as_numbers_and_not_at_all_where_there_is_none() {
    let system = start(llama(1)).await;
    let mut streamed: Value = serde_json::from_slice(&new_question("llama").body).unwrap();
    streamed["stream"] = json!(true);
    let mut counted = streamed.clone();
    counted["stream_options"] = json!({"include_usage": true});
    let message = json!({"model": "llama", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3});
    let tokens = async |path: &str, body: String| {
        let answer = send(&system, Ask::post(path, body)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let line = log_line(&system, &answer.header("x-request-id")).await;
        ["input_tokens", "output_tokens"].map(|key| line.get(key).and_then(Value::as_u64))
    };
    let plain = tokens(CHAT, String::from_utf8(new_question("llama").body.to_vec()).unwrap()).await;
    assert!(
        plain.iter().all(|count| count.is_some_and(|count| count > 0)),
        "{plain:?}"
    );
    assert_eq!(
        tokens(CHAT, counted.to_string()).await[1],
        plain[1],
        "the same answer, streamed"
    );
    assert_eq!(tokens("/v1/messages", message.to_string()).await[1], Some(3));
    assert_eq!(
        tokens(CHAT, streamed.to_string()).await,
        [None; 2],
        "the engine was not asked"
    );
}

/// Some requests of every sort, and the page afterwards.
async fn everything_is_told(options: Options, configuration: Value) {
    let filter = Filter::Wasm(configuration);
    let mut system = start(Options { filter, ..options }).await;
    let before = at_the_start(&mut system).await;
    let (mut input, mut output) = (0.0, 0.0);
    for _ in 0..5 {
        let answer = send(&system, new_question("llama")).await.json().unwrap();
        input += usage(&answer, ["prompt_tokens", "input_tokens"]);
        output += usage(&answer, ["completion_tokens", "output_tokens"]);
    }
    let mut streamed: Value = serde_json::from_slice(&new_question("llama").body).unwrap();
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true});
    let answer = send(&system, Ask::post(CHAT, streamed.to_string())).await.text();
    let last = answer
        .lines()
        .filter_map(|line| line.strip_prefix("data: {"))
        .next_back()
        .unwrap();
    let last: Value = serde_json::from_str(&format!("{{{last}")).unwrap();
    input += usage(&last, ["prompt_tokens", "input_tokens"]);
    output += usage(&last, ["completion_tokens", "output_tokens"]);
    let message = json!({"model": "llama", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3});
    let message = send(&system, Ask::post("/v1/messages", message.to_string())).await;
    assert_eq!(message.status, 200);
    assert_eq!(send(&system, new_question("nobody")).await.status, 404);

    let page = wait_counted(&mut system, before + 8.0).await;
    let is = |series: String, expected: f64| assert_eq!(value(&page, &series), Some(expected), "{series} in\n{page}");
    is(
        format!(
            "kthena_router_requests_total{}",
            labels(CHAT, r#"status_code="200",error_type="""#)
        ),
        6.0,
    );
    is(
        format!(
            "kthena_router_requests_total{}",
            labels("/v1/messages", r#"status_code="200",error_type="""#)
        ),
        1.0,
    );
    let lost = r#"model="unknown",path="/v1/chat/completions",status_code="404",error_type="route_not_found""#;
    let nowhere = r#"model_route="none",backend_type="none",backend_name="none",upstream_model="none""#;
    is(format!("kthena_router_requests_total{{{lost},{nowhere}}}"), 1.0);
    is(
        format!("kthena_router_tokens_total{}", labels(CHAT, r#"token_type="input""#)),
        input,
    );
    is(
        format!("kthena_router_tokens_total{}", labels(CHAT, r#"token_type="output""#)),
        output,
    );
    let seconds = labels(CHAT, r#"status_code="200""#);
    is(format!("kthena_router_request_duration_seconds_count{seconds}"), 6.0);
    let sum = value(&page, &format!("kthena_router_request_duration_seconds_sum{seconds}")).unwrap();
    assert!((0.02..60.0).contains(&sum), "answers take some 20 ms each: {sum}");
    is(
        r#"kthena_router_prefix_cache_match_ratio_count{model="llama"}"#.to_owned(),
        7.0,
    );
    is(
        r#"gen_ai_server_time_to_first_token_seconds_count{gen_ai_operation_name="chat",gen_ai_request_model="llama"}"#
            .to_owned(),
        7.0,
    );
    assert_eq!(
        exposition::sum(&page, "kthena_controller_filter_counts_malformed_total"),
        Some(0.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_while_the_controller_is_away_is_told_when_it_is_back_and_nothing_twice() {
    let mut system = start(llama(2)).await;
    let before = at_the_start(&mut system).await;
    for _ in 0..10 {
        assert_eq!(send(&system, new_question("llama")).await.status, 200);
    }
    wait_counted(&mut system, before + 10.0).await;
    system.kill(Part::Controller).unwrap();
    wait_until("the loss to be told", SOON, async || {
        metric(&system, "kthena_connected").await == 0
    })
    .await
    .unwrap();
    for _ in 0..7 {
        assert_eq!(send(&system, new_question("llama")).await.status, 200);
    }
    system.restart(Part::Controller).await.unwrap();
    // Another process, which counts from zero.
    wait_counted(&mut system, 7.0).await;
    for _ in 0..3 {
        assert_eq!(send(&system, new_question("llama")).await.status, 200);
    }
    wait_counted(&mut system, 10.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_replaced_takes_nothing_with_it() {
    let options = Options { workers: 1, ..llama(2) };
    let mut system = start(dynamic(options)).await;
    let before = at_the_start(&mut system).await;
    for changes in 1..=3 {
        for _ in 0..4 {
            assert_eq!(send(&system, new_question("llama")).await.status, 200);
        }
        let configuration = json!({"explain": changes % 2 == 0});
        assert!(change_plugin(&system, &configuration, false).await);
    }
    wait_counted(&mut system, before + 12.0).await;
}
