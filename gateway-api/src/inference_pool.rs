//! InferencePool (`inference.networking.k8s.io/v1`): a set of pods behind a Gateway, of the Gateway API Inference Extension.
//!
//! Written by hand from its published definition, as no library has it; read, never written. The definition in the API
//! server is the extension's own, so there is no schema here. Its status belongs to gateways and is passed over.

use std::collections::BTreeMap;

use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// A set of pods that serve the same models, and who picks among them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "inference.networking.k8s.io",
    version = "v1",
    kind = "InferencePool",
    plural = "inferencepools",
    namespaced,
    schema = "disabled",
    derive = "PartialEq",
    doc = "A set of pods that serve the same models, and who picks among them."
)]
#[serde(rename_all = "camelCase")]
pub struct InferencePoolSpec {
    /// Which pods, of the pool's namespace.
    pub selector: PoolSelector,
    /// Ports that each of the pods listens on, 1 to 8: a pod is as many endpoints.
    pub target_ports: Vec<TargetPort>,
    /// What is spoken on them: `http` where it is absent, or `kubernetes.io/h2c`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// Who picks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_picker_ref: Option<EndpointPickerRef>,
}

/// Selects pods by their labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolSelector {
    /// Labels that a pod must have, all of them.
    pub match_labels: BTreeMap<String, String>,
}

/// A port of the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetPort {
    /// 1 to 65535.
    pub number: i32,
}

/// The service that picks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPickerRef {
    /// API group; empty = the core group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Its kind.
    #[serde(default = "service")]
    pub kind: String,
    /// Its name, in the pool's namespace.
    pub name: String,
    /// Its port; a Service needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PickerPort>,
    /// What a gateway does without an answer of the picker.
    #[serde(default)]
    pub failure_mode: FailureMode,
}

/// The port of a picker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PickerPort {
    /// 1 to 65535.
    pub number: i32,
}

/// What a gateway does without an answer of the picker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureMode {
    /// It chooses an endpoint itself.
    FailOpen,
    /// It refuses the request.
    #[default]
    FailClose,
}

fn service() -> String {
    "Service".to_owned()
}
