//! The JSON of a cluster and of its endpoints, as Envoy 1.40 reads it.
//!
//! Every value is explained in `docs/envoy.yaml`; the fixtures of the end-to-end tests hold the same form, and a test here
//! compares the two.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::compile::Cluster;

/// Metadata namespace and key, and header, that carry the decision's list of endpoints.
const DESTINATION: &str = "x-gateway-destination-endpoint";
/// Metadata key under which Envoy says who answered.
const SERVED: &str = "x-gateway-destination-endpoint-served";

/// The name of a cluster's endpoint file: `namespace.name.port.json`. Characters that could leave the folder or make two
/// names alike are written as `%` and two digits.
pub(super) fn file_name(cluster: &str) -> String {
    let path = cluster.strip_prefix("model-server/").unwrap_or(cluster);
    let mut name = String::with_capacity(path.len() + 5);
    for (at, part) in path.split('/').enumerate() {
        if at > 0 {
            name.push('.');
        }
        for byte in part.bytes() {
            // The namespace has no dots, and the port is last: dots in the name between them are no matter.
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
                b'.' if at == 1 => name.push('.'),
                _ => name.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    name.push_str(".json");
    name
}

/// The file that lists all clusters.
pub(super) fn cluster_list<'a>(clusters: impl Iterator<Item = &'a Cluster>, folder: &Path) -> Vec<u8> {
    document(clusters.map(|one| cluster(&one.name, one.https, folder)).collect())
}

/// The file that lists the endpoints of one cluster.
pub(super) fn endpoint_list(cluster: &Cluster) -> Vec<u8> {
    let endpoints: Vec<_> = cluster.endpoints.iter().map(endpoint).collect();
    let list = json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster.name,
        "endpoints": [{"lb_endpoints": endpoints}],
    });
    document(vec![list])
}

/// The version is of the content, so that Envoy's admin page tells which file it has read.
fn document(resources: Vec<Value>) -> Vec<u8> {
    let resources = Value::Array(resources);
    let version = twox_hash::XxHash3_64::oneshot(resources.to_string().as_bytes());
    let document = json!({"version_info": format!("{version:016x}"), "resources": resources});
    let mut bytes = format!("{document:#}").into_bytes();
    bytes.push(b'\n');
    bytes
}

fn endpoint(address: &SocketAddr) -> Value {
    let socket = json!({"address": address.ip().to_string(), "port_value": address.port()});
    json!({"endpoint": {"address": {"socket_address": socket}}})
}

fn cluster(name: &str, https: bool, folder: &Path) -> Value {
    let endpoints = folder.join("eds");
    let mut cluster = json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": 1_048_576,
        "eds_cluster_config": {"eds_config": {
            "resource_api_version": "V3",
            "path_config_source": {
                "path": endpoints.join(file_name(name)).to_string_lossy(),
                "watched_directory": {"path": endpoints.to_string_lossy()},
            },
        }},
        "load_balancing_policy": {"policies": [override_host()]},
        "circuit_breakers": {"thresholds": [{
            "max_connections": 65536,
            "max_pending_requests": 65536,
            "max_requests": 65536,
            "retry_budget": {"budget_percent": {"value": 20.0}, "min_retry_concurrency": 10},
        }]},
        "outlier_detection": {
            "enforcing_consecutive_5xx": 0,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "enforcing_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_time": "60s",
            "max_ejection_percent": 50,
        },
        "common_lb_config": {"healthy_panic_threshold": {"value": 0.0}},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"idle_timeout": "4s"},
            "explicit_http_config": {"http_protocol_options": {}},
        }},
    });
    if https {
        cluster["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {"alpn_protocols": ["http/1.1"]},
            },
        });
    }
    cluster
}

fn override_host() -> Value {
    json!({"typed_extension_config": {
        "name": "envoy.load_balancing_policies.override_host",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost",
            "override_host_sources": [
                {"metadata": {"key": "envoy.lb", "path": [{"key": DESTINATION}]}},
                {"header": DESTINATION},
            ],
            "selected_host_key": {"key": "envoy.lb", "path": [{"key": SERVED}]},
            "fallback_policy": {"policies": [{"typed_extension_config": {
                "name": "envoy.load_balancing_policies.least_request",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
                },
            }}]},
        },
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "model-server/default/llama/8000";
    const SECURE: &str = "model-server/default/secure/8443";

    fn of(name: &str, port: u16, https: bool) -> Cluster {
        let addresses = [2, 3].map(|host| SocketAddr::from(([127, 0, 0, host], port)));
        Cluster {
            https,
            ..Cluster::of(name, addresses)
        }
    }

    /// What was checked on a real Envoy.
    fn golden(text: &str, ours: &[u8]) {
        let mut golden: Value = serde_json::from_str(text).unwrap();
        let mut ours: Value = serde_json::from_slice(ours).unwrap();
        golden["version_info"] = Value::Null;
        assert!(ours["version_info"].take().is_string());
        assert_eq!(ours, golden);
    }

    #[test]
    fn files_have_the_form_that_envoy_was_tested_with() {
        let (plain, secure) = (of(NAME, 8000, false), of(SECURE, 8443, true));
        let list = cluster_list([&plain, &secure].into_iter(), Path::new("/var/lib/kthena/envoy"));
        golden(include_str!("../../../e2e/tests/fixtures/envoy/cds.json"), &list);
        let text = include_str!("../../../e2e/tests/fixtures/envoy/eds/default.llama.8000.json");
        golden(text, &endpoint_list(&plain));
        let text = include_str!("../../../e2e/tests/fixtures/envoy/eds/default.secure.8443.json");
        golden(text, &endpoint_list(&secure));
    }

    #[test]
    fn file_names_stay_in_the_folder_and_apart() {
        assert_eq!(file_name(NAME), "default.llama.8000.json");
        assert_eq!(
            file_name("model-server/default/llama-3.1/80"),
            "default.llama-3.1.80.json"
        );
        let odd = [
            "model-server/a/../80",
            "model-server/../a/80",
            "model-server/a.b/c/80",
            "model-server/a/b.c/80",
        ];
        let names: std::collections::BTreeSet<_> = odd.iter().map(|name| file_name(name)).collect();
        assert_eq!(names.len(), odd.len());
        assert!(names.iter().all(|name| !name.contains('/') && !name.starts_with('.')));
    }
}
