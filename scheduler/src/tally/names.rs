//! Names, labels and buckets that dashboards know: Kthena's own, and OpenTelemetry's for generative AI.
//!
//! What must always hold: a label's value comes from a set that clients cannot enlarge: a model that no ModelRoute names
//! is `unknown`, a path that is not an API's is `other`, an error type that is not ours is `other`.

use crate::exchange::Record;
use crate::request::ApiForm;

/// Kthena's buckets for the durations of requests, seconds.
pub const REQUEST_SECONDS: [f64; 13] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Kthena's buckets for the part of a prompt that a pod already holds.
pub const MATCH_RATIO: [f64; 9] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0];

/// OpenTelemetry's buckets for the durations of requests, seconds.
pub const SERVER_SECONDS: [f64; 14] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];

/// OpenTelemetry's buckets for the time to the first token, seconds.
pub const FIRST_TOKEN_SECONDS: [f64; 16] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// OpenTelemetry's buckets for tokens of a request: powers of four.
pub const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Buckets for the time that a plugin takes, seconds: finer ones before Kthena's, as ours take microseconds.
pub const PLUGIN_SECONDS: [f64; 9] = [0.000_001, 0.000_01, 0.000_1, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5];

/// Buckets for the time that a decision takes, seconds.
pub const DECISION_SECONDS: [f64; 10] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.1,
];

/// The value of a label whose subject is absent.
pub const NONE: &str = "none";
/// The value of a label that would otherwise grow without bound.
pub const OTHER: &str = "other";

/// The longest name that is a label's value, bytes; those of Kubernetes objects are shorter.
const LONGEST_NAME: usize = 512;

const PATHS: [(&str, &str); 6] = [
    ("/v1/chat/completions", "chat"),
    ("/v1/completions", "text_completion"),
    ("/v1/responses", "chat"),
    ("/v1/embeddings", "embeddings"),
    ("/v1/messages", "chat"),
    ("/v1/models", "list_models"),
];

const ERROR_TYPES: [&str; 10] = [
    "request_parsing",
    "prompt_parsing",
    "input_rate_limit",
    "output_rate_limit",
    "rate_limit",
    "route_not_found",
    "pod_discovery",
    "provider_discovery",
    "scheduling",
    "proxy",
];

/// What is counted of a request that is over. Strings are as they came; they are bounded here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// The model asked for, where a ModelRoute has that name.
    pub model: Option<&'a str>,
    /// The path without query.
    pub path: &'a str,
    /// The status that the client saw; `None` = not known.
    pub status: Option<u16>,
    /// Kthena's `error_type`, where the request failed.
    pub error_type: Option<&'a str>,
    /// The ModelRoute that took it.
    pub route: Option<&'a str>,
    /// The ModelServer it went to.
    pub server: Option<&'a str>,
    /// The model name sent to the engine.
    pub upstream_model: Option<&'a str>,
    /// From the first byte of the request to the last of the answer, seconds.
    pub duration_s: Option<f64>,
    /// From the first byte of the request to the first of the answer, seconds.
    pub first_byte_s: Option<f64>,
    /// Tokens of the prompt, as the engine counted.
    pub input_tokens: Option<u64>,
    /// Tokens generated, as the engine counted.
    pub output_tokens: Option<u64>,
}

impl<'a> Request<'a> {
    /// What an exchange knows of its request.
    pub fn of(record: &'a Record) -> Self {
        Self {
            model: record.model.as_deref().filter(|_| record.model_known),
            path: path_of(record.form),
            status: record.status,
            error_type: record.error_type,
            route: record.route.as_ref().map(|route| &*route.name),
            server: record.server.as_ref().map(|server| &*server.name),
            upstream_model: record.upstream_model.as_deref(),
            duration_s: None,
            first_byte_s: None,
            input_tokens: record.usage.input_tokens,
            output_tokens: record.usage.output_tokens,
        }
    }
}

/// The path of an API form.
fn path_of(form: Option<ApiForm>) -> &'static str {
    match form {
        Some(ApiForm::ChatCompletions) => "/v1/chat/completions",
        Some(ApiForm::Completions) => "/v1/completions",
        Some(ApiForm::Responses) => "/v1/responses",
        Some(ApiForm::Embeddings) => "/v1/embeddings",
        Some(ApiForm::Messages) => "/v1/messages",
        Some(ApiForm::Other) | None => OTHER,
    }
}

/// A path as a label's value.
pub fn path(path: &str) -> &'static str {
    let known = PATHS.iter().find(|(known, _)| *known == path);
    known.map_or(OTHER, |(known, _)| known)
}

/// OpenTelemetry's name of what an API at this path does.
pub fn operation(path: &str) -> &'static str {
    let known = PATHS.iter().find(|(known, _)| *known == path);
    known.map_or("generate_content", |(_, operation)| operation)
}

/// An error type as a label's value; empty = no error.
pub fn error_type(error_type: Option<&str>) -> &'static str {
    let Some(given) = error_type else { return "" };
    ERROR_TYPES
        .iter()
        .find(|known| **known == given)
        .copied()
        .unwrap_or(OTHER)
}

/// A name as a label's value: names of resources are short, and what is not is none.
pub fn bounded(name: &str) -> &str {
    if name.len() <= LONGEST_NAME { name } else { OTHER }
}
