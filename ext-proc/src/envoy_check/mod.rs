//! Compares a running Envoy with the settings that we depend on.
//!
//! `docs/envoy.yaml` explains every one of them; this is the same list as rules over a config dump (`GET /config_dump` of the admin
//! interface). What must always hold: a rule names the place, what is expected there, what was found and why it matters, and a
//! configuration that works by other means (full-duplex bodies, another route layout) is not called wrong. An Envoy without our filter
//! is one finding, not a list of consequences. The function is pure; fetching the dump is its caller's.

mod dump;
mod fetch;
mod rules;

pub use fetch::{FetchError, fetch};

use serde_json::Value;

use self::dump::{clusters, holds, http_filter, list, listeners, managers, number, route_configs, text};
use self::rules::{FILTER, GRPC_ACCESS_LOG, MANAGER, MESSAGE_TIMEOUT, MODEL_CLUSTER, PROCESSOR_CLUSTER, ROUTE, Rule};

/// Largest body that we accept by default, bytes; Envoy has to let it through.
const BODY_BOUND: u64 = 16 << 20;

/// A setting that is not as we need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: listener or cluster, then the path of the field.
    pub setting: String,
    /// What is expected, in words.
    pub expected: String,
    /// What the dump has there, as JSON; `absent` when there is nothing.
    pub found: String,
    /// What goes wrong otherwise.
    pub why: &'static str,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: expected {}, found {}: {}",
            self.setting, self.expected, self.found, self.why
        )
    }
}

/// Every way in which the configuration differs from what we depend on; empty when there is none.
///
/// The argument is the whole answer of Envoy's `/config_dump`.
#[must_use]
pub fn check(config_dump: &Value) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut processors = Vec::new();
    for listener in listeners(config_dump) {
        let name = text(&listener["name"]);
        for manager in managers(listener) {
            let Some(filter) = http_filter(manager, "ext_proc.v3.ExternalProcessor") else {
                continue;
            };
            processors.push(text(&filter["grpc_service"]["envoy_grpc"]["cluster_name"]));
            let place = format!("listener {name}");
            apply(&place, manager, MANAGER, &mut findings);
            check_filter(&format!("{place}, ext_proc"), filter, &mut findings);
            check_usage(&place, manager, &mut findings);
            for log in list(&manager["access_log"]) {
                if text(&log["typed_config"]["@type"]).ends_with("HttpGrpcAccessLogConfig") {
                    apply(
                        &format!("{place}, access log"),
                        &log["typed_config"],
                        GRPC_ACCESS_LOG,
                        &mut findings,
                    );
                }
            }
            check_routes(&place, config_dump, listener, manager, &mut findings);
        }
    }
    if processors.is_empty() {
        return vec![Finding {
            setting: "listeners".to_owned(),
            expected: "an HTTP connection manager with the filter envoy.filters.http.ext_proc".to_owned(),
            found: "none".to_owned(),
            why: "no request is decided",
        }];
    }
    for cluster in clusters(config_dump) {
        let name = text(&cluster["name"]);
        if processors.contains(&name) {
            apply(&format!("cluster {name}"), cluster, PROCESSOR_CLUSTER, &mut findings);
        } else if name.starts_with("model-server/") {
            apply(&format!("cluster {name}"), cluster, MODEL_CLUSTER, &mut findings);
        }
    }
    findings
}

fn check_filter(place: &str, filter: &Value, findings: &mut Vec<Finding>) {
    apply(place, filter, FILTER, findings);
    // In full duplex Envoy has no such timer.
    if filter["processing_mode"]["request_body_mode"] == "BUFFERED" {
        apply(place, filter, &[MESSAGE_TIMEOUT], findings);
    }
}

/// Usage comes through us, where the answer's body does, or through Envoy's own filters.
fn check_usage(place: &str, manager: &Value, findings: &mut Vec<Finding>) {
    let reads_bodies = http_filter(manager, "ext_proc.v3.ExternalProcessor")
        .is_some_and(|filter| !matches!(text(&filter["processing_mode"]["response_body_mode"]), "" | "NONE"));
    for filter in ["json_to_metadata.v3.JsonToMetadata", "sse_to_metadata.v3.SseToMetadata"] {
        let found = http_filter(manager, filter);
        if !reads_bodies && !found.is_some_and(|found| holds(found, "kthena.usage")) {
            findings.push(Finding {
                setting: format!("{place}, http_filters"),
                expected: format!("{filter} that writes to kthena.usage, or a response_body_mode of ext_proc"),
                found: found.map_or_else(|| "absent".to_owned(), Value::to_string),
                why: "token usage stays unknown",
            });
        }
    }
}

fn check_routes(place: &str, dump: &Value, listener: &Value, manager: &Value, findings: &mut Vec<Finding>) {
    let mut decided = 0;
    for host in route_configs(dump, manager)
        .into_iter()
        .flat_map(|routes| list(&routes["virtual_hosts"]))
    {
        for route in list(&host["routes"]) {
            // The catch-all by which a request starts has no retry policy of its own: only routes for decided requests count.
            if route["route"]["cluster_header"] != "x-kthena-cluster" || !holds(&route["match"], "x-kthena-cluster") {
                continue;
            }
            decided += 1;
            let place = format!("{place}, virtual host {}", text(&host["name"]));
            apply(&place, route, ROUTE, findings);
            check_body_bound(&place, listener, host, findings);
        }
    }
    if decided == 0 {
        findings.push(Finding {
            setting: format!("{place}, routes"),
            expected: "a route that matches the header x-kthena-cluster, with cluster_header: x-kthena-cluster"
                .to_owned(),
            found: "none".to_owned(),
            why: "decided requests have nowhere to go",
        });
    }
}

fn check_body_bound(place: &str, listener: &Value, host: &Value, findings: &mut Vec<Finding>) {
    let of_host = number(&host["request_body_buffer_limit"]);
    let of_listener = number(&listener["per_connection_buffer_limit_bytes"]).unwrap_or(1 << 20);
    if of_host.unwrap_or(of_listener) < BODY_BOUND {
        findings.push(Finding {
            setting: format!("{place}, request_body_buffer_limit"),
            expected: format!("at least {BODY_BOUND}"),
            found: of_host.map_or_else(|| format!("absent, hence {of_listener}"), |limit| limit.to_string()),
            why: "Envoy would refuse large prompts before we see them",
        });
    }
}

fn apply(place: &str, scope: &Value, rules: &[Rule], findings: &mut Vec<Finding>) {
    for rule in rules {
        let found = scope.pointer(rule.at);
        if !rule.expected.holds(found) {
            findings.push(Finding {
                setting: format!("{place}, {}", rule.at.trim_start_matches('/').replace('/', ".")),
                expected: rule.expected.words(),
                found: found.map_or_else(|| "absent".to_owned(), Value::to_string),
                why: rule.why,
            });
        }
    }
}

#[cfg(test)]
mod tests;
