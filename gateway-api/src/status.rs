//! What is said of an object in its `status`, where an API server keeps it.
//!
//! Conditions are Kubernetes' own, one of each type, each for the generation that it judged. What must always hold: a status
//! that an older or newer controller wrote can be read, or is left aside with the object kept; nothing here decides anything.

// The schema derive repeats each type inside a function.
#![allow(unreachable_pub)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Condition type: the newest version of the object breaks no rule and is in force.
pub const ACCEPTED: &str = "Accepted";
/// Condition type: everything that the object refers to is there.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Condition type: every connected filter has acknowledged this generation.
pub const PROGRAMMED: &str = "Programmed";

/// What has become of a ModelRoute.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRouteStatus {
    /// The generation of the object that this status judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: it breaks no rule and is in force. `ResolvedRefs`: all its targets exist. `Programmed`: every connected
    /// filter has acknowledged this generation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What has become of a ModelServer.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelServerStatus {
    /// The generation of the object that this status judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: it breaks no rule and is in force. `ResolvedRefs`: its labels select pods that can serve. `Programmed`:
    /// every connected filter has acknowledged this generation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// How many pods there are for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointCounts>,
}

/// Pods of a ModelServer, counted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointCounts {
    /// Pods that the labels select.
    #[serde(default)]
    pub selected: i32,
    /// Of those, the ones that serve: running, ready, not ending, with an address of their own.
    #[serde(default)]
    pub ready: i32,
    /// Of the ready ones, those that prefill. Set where `pdGroup` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill: Option<i32>,
    /// Of the ready ones, those that decode. Set where `pdGroup` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode: Option<i32>,
}

/// What has become of an ExternalModelProvider.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalModelProviderStatus {
    /// The generation of the object that this status judges.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Accepted`: False with reason `NotServedYet` until requests to external providers are served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
