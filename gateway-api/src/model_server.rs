//! ModelServer: which pods serve a model, on which port, and how they are talked to.
//!
//! Field names, defaults and limits are Kthena's; `scheduling` is ours and optional. Doc comments become the schema's
//! descriptions, which `kubectl explain` shows.

// The schema derive repeats each type inside a function.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::schema::{any_object, label_key, labels};
use crate::{Duration, ModelServerStatus};

/// A group of pods that serve one model.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "networking.serving.volcano.sh",
    version = "v1alpha1",
    kind = "ModelServer",
    plural = "modelservers",
    namespaced,
    derive = "PartialEq",
    status = "ModelServerStatus",
    shortname = "mserver",
    category = "kthena",
    doc = "Says which pods serve a model, on which port, with which engine, and how they are talked to.",
    printcolumn = r#"{"name":"Engine","type":"string","jsonPath":".spec.inferenceEngine","description":"Engine in the pods"}"#,
    printcolumn = r#"{"name":"Port","type":"integer","jsonPath":".spec.workloadPort.port","description":"Port of the engine"}"#,
    printcolumn = r#"{"name":"Protocol","type":"string","jsonPath":".spec.workloadPort.protocol","description":"Protocol of the engine"}"#,
    printcolumn = r#"{"name":"Ready","type":"integer","jsonPath":".status.endpoints.ready","description":"Pods that serve"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status","description":"Whether all filters have it"}"#,
    printcolumn = r#"{"name":"Model","type":"string","jsonPath":".spec.model","description":"Name under which the engine serves the model","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ModelServerSpec {
    /// The name under which the engine serves the model. It replaces the request's `model`, unless the route matched by
    /// adapter. Left out: the request's stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub model: Option<String>,
    /// The engine that runs in the pods: it decides how they are observed.
    pub inference_engine: InferenceEngine,
    /// Which pods of the ModelServer's namespace serve.
    pub workload_selector: WorkloadSelector,
    /// Where the engine listens in each pod.
    pub workload_port: WorkloadPort,
    /// How long an answer may take, and how often it is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
    /// How KV blocks travel from prefill to decode pods. Not used yet: no KV blocks are moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_connector: Option<KvConnector>,
    /// How endpoints of this ModelServer are chosen: laid over the `scheduler` section of the router configuration, whose
    /// form it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "scheduling")]
    pub scheduling: Option<serde_json::Value>,
}

/// The form of the block. The scheduler's own configuration types judge names and arguments: written once, there.
fn scheduling(generator: &mut SchemaGenerator) -> Schema {
    let list = |description: &str| json_schema!({ "description": description, "type": "array", "items": { "type": "string" } });
    let disabled = list("Names of plugins that are taken off the list.");
    let mut args = any_object(generator);
    args.insert("description".into(), "Its arguments.".into());
    json_schema!({
        "type": "object",
        "properties": {
            "pluginConfig": {
                "description": "Arguments of plugins, laid over those of the router configuration one by one.",
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": { "description": "Name of the plugin.", "type": "string" },
                        "args": args,
                    },
                },
            },
            "plugins": {
                "description": "Which plugins run.",
                "type": "object",
                "properties": {
                    "Filter": {
                        "description": "Plugins that take endpoints out of a decision.",
                        "type": "object",
                        "properties": {
                            "enabled": list("Names of plugins, instead of the router configuration's list."),
                            "disabled": disabled,
                        },
                    },
                    "Score": {
                        "description": "Plugins that give endpoints points, and the weight of each.",
                        "type": "object",
                        "properties": {
                            "enabled": {
                                "description": "Plugins, instead of the router configuration's list.",
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["name"],
                                    "properties": {
                                        "name": { "description": "Name of the plugin.", "type": "string" },
                                        "weight": {
                                            "description": "Its points are multiplied by this. Default: 1.",
                                            "type": "integer",
                                            "minimum": 0,
                                            "maximum": u32::MAX,
                                        },
                                    },
                                },
                            },
                            "disabled": disabled,
                        },
                    },
                },
            },
        },
    })
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
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.matchLabels)").message("must hold at least one label").field_path(".matchLabels")
)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels that a pod must have, all of them. At least one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub match_labels: BTreeMap<String, String>,
    /// Splits the selected pods into those that prefill and those that decode. Not split yet: the decode pods alone serve,
    /// each doing its own prefill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pd_group: Option<PdGroup>,
}

/// Prefill and decode pods pair when they share the value of a label.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PdGroup {
    /// Key of the label whose value names a pod's group.
    #[schemars(schema_with = "label_key")]
    pub group_key: String,
    /// Labels of the pods that prefill. At least one.
    #[schemars(schema_with = "labels")]
    pub prefill_labels: BTreeMap<String, String>,
    /// Labels of the pods that decode. At least one. A pod that has these and `prefillLabels` decodes.
    #[schemars(schema_with = "labels")]
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
    /// How long each try may take until the answer's headers; a stream may then take as long as it likes. Left out or
    /// `0s`: unbounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Retries on another endpoint. Left out: the controller's default number of attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// Retries on another endpoint.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Tries after the first; 0 = none.
    #[schemars(range(min = 0))]
    pub attempts: i32,
    /// Base of the pause between tries, which grows from one to the next.
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
