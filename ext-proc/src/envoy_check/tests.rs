//! `recorded.json` is what Envoy 1.40 answered to `/config_dump` when it ran `docs/envoy.yaml`, with repetitive parts cut. Each case breaks
//! one setting and expects to be told of that setting alone.

use serde_json::{Value, json};

use super::check;
use super::dump::milliseconds;

const MANAGER: &str = "/configs/1/static_listeners/0/listener/filter_chains/0/filters/0/typed_config";
const PROCESSOR: &str = "/configs/0/static_clusters/0/cluster";
const MODEL_SERVER: &str = "/configs/0/dynamic_active_clusters/0/cluster";

fn recorded() -> Value {
    serde_json::from_str(include_str!("recorded.json")).unwrap()
}

/// Sets a field in the recorded dump; `null` removes it.
fn broken(scope: &str, field: &str, value: Value) -> Value {
    let mut dump = recorded();
    let (parent, name) = field.rsplit_once('/').unwrap();
    let parent = dump.pointer_mut(&format!("{scope}{parent}")).unwrap();
    if value.is_null() {
        parent.as_object_mut().unwrap().remove(name).unwrap();
    } else {
        parent[name] = value;
    }
    dump
}

#[test]
fn the_reference_configuration_has_no_finding() {
    assert_eq!(check(&recorded()), []);
}

#[test]
fn each_setting_that_we_depend_on_is_found_when_it_is_missing_or_wrong() {
    let filter = "/http_filters/0/typed_config";
    let route = "/route_config/virtual_hosts/0/routes/0";
    let cases = [
        (MANAGER, "/early_header_mutation_extensions".to_owned(), Value::Null),
        (MANAGER, "/always_set_request_id_in_response".to_owned(), Value::Null),
        (MANAGER, "/preserve_external_request_id".to_owned(), json!(false)),
        (
            MANAGER,
            "/request_id_extension/typed_config/pack_trace_reason".to_owned(),
            Value::Null,
        ),
        (MANAGER, "/stream_idle_timeout".to_owned(), json!("300s")),
        (MANAGER, "/local_reply_config/mappers".to_owned(), json!([])),
        (
            MANAGER,
            "/access_log/1/typed_config/common_config/buffer_flush_interval".to_owned(),
            json!("1s"),
        ),
        (
            MANAGER,
            "/access_log/1/typed_config/common_config/buffer_size_bytes".to_owned(),
            json!(16_384),
        ),
        (MANAGER, format!("{filter}/message_timeout"), Value::Null),
        (MANAGER, format!("{filter}/failure_mode_allow"), json!(true)),
        (MANAGER, format!("{filter}/status_on_error"), Value::Null),
        (MANAGER, format!("{filter}/mutation_rules/allow_envoy"), json!(false)),
        (
            MANAGER,
            format!("{filter}/metadata_options/receiving_namespaces/untyped"),
            json!(["envoy.lb"]),
        ),
        (MANAGER, format!("{filter}/route_cache_action"), json!("CLEAR")),
        (
            MANAGER,
            "/http_filters/1/typed_config/@type".to_owned(),
            json!("another"),
        ),
        (
            MANAGER,
            "/http_filters/2/typed_config/@type".to_owned(),
            json!("another"),
        ),
        (MANAGER, format!("{route}/route/timeout"), Value::Null),
        (
            MANAGER,
            format!("{route}/route/retry_policy/retry_host_predicate"),
            Value::Null,
        ),
        (
            MANAGER,
            format!("{route}/route/retry_policy/retry_on"),
            json!("connect-failure,reset,gateway-error,5xx"),
        ),
        (MANAGER, format!("{route}/request_headers_to_remove"), Value::Null),
        (MANAGER, format!("{route}/route/cluster_header"), json!("x-other")),
        (
            MANAGER,
            "/route_config/virtual_hosts/0/request_body_buffer_limit".to_owned(),
            Value::Null,
        ),
        (
            PROCESSOR,
            "/circuit_breakers/thresholds/0/max_requests".to_owned(),
            Value::Null,
        ),
        (PROCESSOR, "/health_checks/0/interval".to_owned(), json!("5s")),
        (MODEL_SERVER, "/load_balancing_policy".to_owned(), Value::Null),
        (
            MODEL_SERVER,
            "/circuit_breakers/thresholds/0/retry_budget".to_owned(),
            Value::Null,
        ),
        (MODEL_SERVER, "/connect_timeout".to_owned(), json!("30s")),
        (
            MODEL_SERVER,
            "/outlier_detection/enforcing_consecutive_5xx".to_owned(),
            Value::Null,
        ),
    ];
    for (scope, field, value) in cases {
        let findings = check(&broken(scope, &field, value));
        assert_eq!(findings.len(), 1, "{field}: {findings:?}");
    }
}

#[test]
fn a_finding_says_where_what_and_why() {
    let dump = broken(MODEL_SERVER, "/connect_timeout", json!("30s"));
    assert_eq!(
        check(&dump)[0].to_string(),
        "cluster model-server/default/llama/8000, connect_timeout: expected 1 to 5000 ms, found \"30s\": a pod that is gone would hold requests"
    );
}

#[test]
fn an_envoy_without_the_filter_is_one_finding_and_so_is_no_envoy_at_all() {
    for dump in [
        broken(MANAGER, "/http_filters/0/typed_config", json!({})),
        json!({}),
        json!(null),
    ] {
        let findings = check(&dump);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].expected.contains("ext_proc"));
    }
}

#[test]
fn full_duplex_needs_no_message_timeout_and_a_large_listener_buffer_no_limit_of_its_own() {
    let mut dump = broken(MANAGER, "/http_filters/0/typed_config/message_timeout", Value::Null);
    *dump
        .pointer_mut(&format!(
            "{MANAGER}/http_filters/0/typed_config/processing_mode/request_body_mode"
        ))
        .unwrap() = json!("FULL_DUPLEX_STREAMED");
    let host = dump
        .pointer_mut(&format!("{MANAGER}/route_config/virtual_hosts/0"))
        .unwrap();
    host.as_object_mut().unwrap().remove("request_body_buffer_limit");
    dump["configs"][1]["static_listeners"][0]["listener"]["per_connection_buffer_limit_bytes"] = json!(16_777_216);
    assert_eq!(check(&dump), []);
}

#[test]
fn routes_that_a_control_plane_pushes_are_checked_as_those_in_the_listener() {
    let mut dump = recorded();
    let manager = dump.pointer_mut(MANAGER).unwrap();
    let mut routes = manager.as_object_mut().unwrap().remove("route_config").unwrap();
    manager["rds"] = json!({"route_config_name": "llm"});
    routes["virtual_hosts"][0]["routes"][0]["route"]["timeout"] = json!("15s");
    let section = json!({
        "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
        "dynamic_route_configs": [{"route_config": routes}],
    });
    dump["configs"].as_array_mut().unwrap().push(section);
    let findings = check(&dump);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].setting.ends_with("route.timeout"));
}

#[test]
fn durations_are_read_as_protobuf_prints_them() {
    let cases = [
        ("0s", Some(0)),
        ("0.100s", Some(100)),
        ("1.5s", Some(1_500)),
        ("3600s", Some(3_600_000)),
        ("5", None),
        ("xs", None),
    ];
    for (text, expected) in cases {
        assert_eq!(milliseconds(&json!(text)), expected, "{text}");
    }
}
