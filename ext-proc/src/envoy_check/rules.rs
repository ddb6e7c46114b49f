//! The settings that we depend on, as tables: where, what is expected, and what goes wrong otherwise.
//!
//! `docs/envoy.yaml` explains the same settings at length; a change there is a change here.

use serde_json::Value;

use super::dump::{holds, milliseconds, number, text};

/// What a value has to be.
#[derive(Clone, Copy)]
pub(super) enum Expected {
    /// One of these texts, numbers or truth values, as JSON prints them without quotes.
    OneOf(&'static [&'static str]),
    /// Text or list that holds all of these.
    Holds(&'static [&'static str]),
    /// Text that holds none of these words between commas.
    Lacks(&'static [&'static str]),
    /// At least this number.
    AtLeast(u64),
    /// A duration between these, milliseconds; `0s`, which switches a limit off, passes where the upper end is open.
    Between(u64, u64),
    /// Anything.
    Present,
}

pub(super) struct Rule {
    /// JSON pointer from what is checked.
    pub(super) at: &'static str,
    pub(super) expected: Expected,
    pub(super) why: &'static str,
}

const fn rule(at: &'static str, expected: Expected, why: &'static str) -> Rule {
    Rule { at, expected, why }
}

use Expected::{AtLeast, Between, Holds, Lacks, OneOf, Present};

pub(super) const MANAGER: &[Rule] = &[
    rule(
        "/early_header_mutation_extensions",
        Holds(&["x-kthena-cluster", "x-gateway-destination-endpoint", "x-envoy-"]),
        "a client could choose cluster, endpoint and retries by itself",
    ),
    rule(
        "/always_set_request_id_in_response",
        OneOf(&["true"]),
        "clients would not get x-request-id back",
    ),
    rule(
        "/preserve_external_request_id",
        OneOf(&["true"]),
        "a client's own x-request-id would be replaced",
    ),
    rule(
        "/request_id_extension/typed_config/pack_trace_reason",
        OneOf(&["false"]),
        "a client's own x-request-id would be changed",
    ),
    rule(
        "/stream_idle_timeout",
        Between(600_000, u64::MAX),
        "long prompts are silent for minutes before the first token",
    ),
    rule(
        "/local_reply_config/mappers",
        Holds(&["kthena_", "/v1/messages"]),
        "Envoy's own errors would be plain text, or ours would be overwritten",
    ),
    rule(
        "/access_log",
        Holds(&["HttpGrpcAccessLogConfig"]),
        "leases could not be settled by the access log, and usage stays unknown",
    ),
];

pub(super) const FILTER: &[Rule] = &[
    rule(
        "/processing_mode/request_body_mode",
        OneOf(&["BUFFERED", "FULL_DUPLEX_STREAMED"]),
        "the model is named in the body",
    ),
    rule(
        "/failure_mode_allow",
        OneOf(&["absent", "false"]),
        "undecided requests would go on",
    ),
    rule(
        "/status_on_error/code",
        OneOf(&["ServiceUnavailable", "503"]),
        "clients retry a 503, not a 500",
    ),
    rule(
        "/mutation_rules/allow_envoy",
        OneOf(&["true"]),
        "trafficPolicy.timeout and retry are set by x-envoy-* headers",
    ),
    rule(
        "/metadata_options/receiving_namespaces/untyped",
        Holds(&["envoy.lb", "kthena"]),
        "the endpoint list, the lease and the access-log facts travel in metadata",
    ),
    rule(
        "/route_cache_action",
        OneOf(&["absent", "DEFAULT"]),
        "a request would miss its cluster, or every request pay for route matching",
    ),
];

pub(super) const MESSAGE_TIMEOUT: Rule = rule(
    "/message_timeout",
    Between(6_000, u64::MAX),
    "a request is held for up to 5 s when there is no state yet",
);

pub(super) const GRPC_ACCESS_LOG: &[Rule] = &[
    rule(
        "/common_config/buffer_flush_interval",
        Between(1, 500),
        "what is in flight would be counted too long",
    ),
    rule(
        "/common_config/buffer_size_bytes",
        AtLeast(1 << 20),
        "Envoy drops entries while bodies back up the connection that they share",
    ),
];

pub(super) const ROUTE: &[Rule] = &[
    rule(
        "/route/timeout",
        OneOf(&["0s"]),
        "an answer may take minutes; limits are set by ModelServer and try",
    ),
    rule(
        "/route/retry_policy/retry_on",
        Holds(&["connect-failure", "reset", "gateway-error"]),
        "a failing pod would fail requests that another could serve",
    ),
    rule(
        "/route/retry_policy/retry_on",
        Lacks(&["5xx", "retriable-4xx"]),
        "an engine's refusal would be tried on every pod",
    ),
    rule(
        "/route/retry_policy/retry_host_predicate",
        Holds(&["previous_hosts"]),
        "the pod that failed could be tried again",
    ),
    rule(
        "/request_headers_to_remove",
        Holds(&["x-kthena-cluster"]),
        "control headers would reach the model server",
    ),
];

pub(super) const PROCESSOR_CLUSTER: &[Rule] = &[
    rule(
        "/circuit_breakers/thresholds/0/max_requests",
        AtLeast(16_384),
        "each request in flight is one stream; Envoy's default is 1024",
    ),
    rule(
        "/circuit_breakers/thresholds/0/max_pending_requests",
        AtLeast(16_384),
        "each request in flight is one stream; Envoy's default is 1024",
    ),
    rule(
        "/health_checks/0/grpc_health_check",
        Present,
        "a dead or draining replica would be asked until its connection breaks",
    ),
    rule(
        "/health_checks/0/interval",
        Between(1, 1_000),
        "a dead replica would be noticed late",
    ),
    rule(
        "/health_checks/0/no_traffic_interval",
        Between(1, 1_000),
        "Envoy's default is 60 s before the first request",
    ),
];

pub(super) const MODEL_CLUSTER: &[Rule] = &[
    rule(
        "/load_balancing_policy",
        Holds(&[
            "override_host",
            "x-gateway-destination-endpoint",
            "x-gateway-destination-endpoint-served",
        ]),
        "the chosen endpoint would not be used, or not be told",
    ),
    rule(
        "/circuit_breakers/thresholds/0/retry_budget",
        Present,
        "retries could double the load of a failing fleet",
    ),
    rule(
        "/circuit_breakers/thresholds/0/max_requests",
        AtLeast(16_384),
        "Envoy would answer 503 below the engines' own limits",
    ),
    rule(
        "/connect_timeout",
        Between(1, 5_000),
        "a pod that is gone would hold requests",
    ),
    rule(
        "/outlier_detection/enforcing_consecutive_5xx",
        OneOf(&["0"]),
        "an engine's 500 about one request would take its pod out",
    ),
];

impl Expected {
    pub(super) fn holds(self, found: Option<&Value>) -> bool {
        let Some(found) = found else {
            return matches!(self, OneOf(values) if values.contains(&"absent"));
        };
        match self {
            OneOf(values) => values.contains(&found.as_str().map_or_else(|| found.to_string(), str::to_owned).as_str()),
            Holds(words) => words.iter().all(|word| holds(found, word)),
            Lacks(words) => !text(found)
                .split(',')
                .any(|condition| words.contains(&condition.trim())),
            AtLeast(least) => number(found).is_some_and(|number| number >= least),
            Between(least, most) => milliseconds(found)
                .is_some_and(|duration| (least..=most).contains(&duration) || (duration == 0 && most == u64::MAX)),
            Present => true,
        }
    }

    pub(super) fn words(self) -> String {
        match self {
            OneOf(values) => values.join(" or "),
            Holds(words) => format!("something that holds {}", words.join(", ")),
            Lacks(words) => format!("none of {}", words.join(", ")),
            AtLeast(least) => format!("at least {least}"),
            Between(least, u64::MAX) => format!("0s or at least {least} ms"),
            Between(least, most) => format!("{least} to {most} ms"),
            Present => "any value".to_owned(),
        }
    }
}
