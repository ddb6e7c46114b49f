//! ModelServer: which pods serve a model, on which port, and how they are talked to.
//!
//! Field names, defaults and limits are Kthena's; `scheduling` is ours and optional.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::Duration;

/// A group of pods that serve one model.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "networking.serving.volcano.sh",
    version = "v1alpha1",
    kind = "ModelServer",
    plural = "modelservers",
    namespaced,
    derive = "PartialEq",
    doc = "A group of pods that serve one model.",
    printcolumn = r#"{"name":"Model","type":"string","jsonPath":".spec.model"}"#,
    printcolumn = r#"{"name":"Engine","type":"string","jsonPath":".spec.inferenceEngine"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ModelServerSpec {
    /// The name under which the engine serves the model: it replaces the request's model, unless the route matched by adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub model: Option<String>,
    /// The engine that runs in the pods.
    pub inference_engine: InferenceEngine,
    /// Which pods, in the ModelServer's namespace.
    pub workload_selector: WorkloadSelector,
    /// The port that the engine listens on.
    pub workload_port: WorkloadPort,
    /// Timeout and retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
    /// How KV blocks travel from prefill to decode pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_connector: Option<KvConnector>,
    /// Overrides the global scheduling profile for this ModelServer: the `scheduler` section of the router configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub scheduling: Option<serde_json::Value>,
}

// The scheduler's own configuration types judge it: written once, there.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// An inference engine.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InferenceEngine {
    /// vLLM.
    #[serde(rename = "vLLM")]
    Vllm,
    /// SGLang.
    #[serde(rename = "SGLang")]
    Sglang,
}

/// Selects pods by their labels.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels that a pod must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Splits the selected pods into prefill and decode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pd_group: Option<PdGroup>,
}

/// Prefill and decode pods pair when they share the value of a label.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PdGroup {
    /// Label whose value names the group of a pod.
    pub group_key: String,
    /// Labels of prefill pods.
    pub prefill_labels: BTreeMap<String, String>,
    /// Labels of decode pods.
    pub decode_labels: BTreeMap<String, String>,
}

/// The engine's port.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    /// Port number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// What is spoken on it.
    #[serde(default)]
    pub protocol: PortProtocol,
}

/// Plain or with TLS.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// Plain HTTP.
    #[default]
    Http,
    /// HTTP over TLS.
    Https,
}

/// Timeout and retries.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// Bounds each try until the answer's headers; absent = unbounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// Retries on another endpoint.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Tries after the first.
    pub attempts: i32,
    /// Base of the back-off between tries.
    #[serde(default = "default_retry_interval")]
    pub retry_interval: Duration,
}

fn default_retry_interval() -> Duration {
    Duration::from_millis(100)
}

/// How KV blocks travel from prefill to decode pods.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KvConnector {
    /// The mechanism.
    #[serde(rename = "type", default)]
    pub kind: KvConnectorType,
}

/// A mechanism that moves KV blocks.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum KvConnectorType {
    #[default]
    Http,
    Lmcache,
    Nixl,
    Mooncake,
}
