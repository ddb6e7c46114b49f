//! Traces go through: the client's header reaches the model server as it came where Envoy does not trace; where it does, its span stands between
//! them and carries what was decided.

use std::net::SocketAddr;

use kthena_e2e::client::Ask;
use kthena_e2e::envoy::place;
use kthena_e2e::system::{Change, Options};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use serde_json::{Value, json};

use crate::spans::{Receiver, attribute, hex};
use crate::{last_received, llama, new_question, send, start};

const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

fn traced(ask: Ask) -> Ask {
    ask.header("traceparent", &format!("00-{TRACE}-{CLIENT}-01"))
        .header("tracestate", "vendor=value")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_trace_reaches_the_model_server() {
    let system = start(llama(1)).await;
    assert_eq!(send(&system, traced(new_question("llama"))).await.status, 200);
    let received = last_received(&system).await;
    assert_eq!(received.header("traceparent"), format!("00-{TRACE}-{CLIENT}-01"));
    assert_eq!(received.header("tracestate"), "vendor=value");
}

/// Envoy's OpenTelemetry tracer, with facts of the decision as the documentation shows them.
fn trace(configuration: &mut Value, collector: SocketAddr) {
    let fact = |name: &str| json!({"tag": name, "value": format!("%FILTER_STATE(wasm.{name}:PLAIN)%")});
    place(configuration, MANAGER).unwrap()["tracing"] = json!({
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}, "timeout": "1s"},
                "service_name": "envoy",
            },
        },
        "custom_tags": [fact("kthena.model_name"), fact("kthena.model_server"), fact("kthena.selected_pod"), fact("kthena.upstream_model")],
    });
    let at = json!({"socket_address": {"address": collector.ip().to_string(), "port_value": collector.port()}});
    let clusters = place(configuration, "/static_resources/clusters")
        .unwrap()
        .as_array_mut()
        .unwrap();
    clusters.push(json!({
        "name": "collector",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "collector",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_own_span_carries_what_was_decided() {
    let (receiver, collector) = Receiver::listen().await;
    let system = start(Options {
        change_envoy: Change::new(move |configuration| trace(configuration, collector)),
        ..llama(1)
    })
    .await;
    assert_eq!(send(&system, traced(new_question("llama"))).await.status, 200);
    let span = receiver.find(|span| hex(&span.trace_id) == TRACE).await;
    assert_eq!(hex(&span.parent_span_id), CLIENT);
    let passed = last_received(&system).await.header("traceparent").to_owned();
    assert_eq!(
        passed,
        format!("00-{TRACE}-{}-01", hex(&span.span_id)),
        "the model server's parent is Envoy's"
    );
    for (key, value) in [
        ("kthena.model_name", "llama"),
        ("kthena.model_server", "default/llama"),
        ("kthena.selected_pod", "default/llama-0"),
        ("kthena.upstream_model", "meta/llama"),
    ] {
        assert_eq!(
            attribute(&span, key),
            Some(Attribute::StringValue(value.to_owned())),
            "{key}: {span:?}"
        );
    }
}
