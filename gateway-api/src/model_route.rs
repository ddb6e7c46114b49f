//! ModelRoute: which backend serves which model name.
//!
//! Field names, defaults and limits are Kthena's. What a schema can say is said in it; doc comments become its descriptions,
//! which `kubectl explain` shows. The bounds on headers and regular expressions are ours: an API server refuses rules on
//! what has none.

// The schema derive repeats each type inside a function.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::ModelRouteStatus;
use crate::schema::{MAX_ENTRIES, MAX_REGEX_CHARS};

/// Which model names are served, and by what.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "networking.serving.volcano.sh",
    version = "v1alpha1",
    kind = "ModelRoute",
    plural = "modelroutes",
    namespaced,
    derive = "PartialEq",
    status = "ModelRouteStatus",
    shortname = "mroute",
    category = "kthena",
    doc = "Says which backends serve a model name, and by which rules. The backends are in the route's own namespace.",
    printcolumn = r#"{"name":"Model","type":"string","jsonPath":".spec.modelName","description":"Name that clients ask for"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status","description":"Whether the newest version is in force"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status","description":"Whether all filters have it"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[x_kube(
    validation = Rule::new("(has(self.modelName) && size(self.modelName) > 0) || (has(self.loraAdapters) && size(self.loraAdapters) > 0)").message("at least one of modelName and loraAdapters must be set"),
    validation = Rule::new("!has(self.loraAdapters) || size(self.loraAdapters) == 0 || self.rules.all(rule, rule.targetModels.all(target, !has(target.externalModelProviderName) || size(target.externalModelProviderName) == 0))").message("a route with loraAdapters cannot have an external target (externalModelProviderName)").field_path(".rules")
)]
#[serde(rename_all = "camelCase")]
pub struct ModelRouteSpec {
    /// The model name that clients ask for. It can't be changed later: delete the route and create it anew. This or
    /// `loraAdapters` must be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == oldSelf").message("modelName is immutable"))]
    pub model_name: Option<String>,
    /// Names of LoRA adapters that clients may ask for as well, at most 10. The request's `model` then stays as it is. A
    /// name counts only where no route has it as its `modelName`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "adapters")]
    pub lora_adapters: Vec<String>,
    /// Gateways that the route belongs to. Not evaluated yet: the route serves requests of every gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentReference>,
    /// At most 16, tried in order: the first whose conditions all hold decides. If none holds, the next route for the
    /// same model name is tried.
    #[schemars(length(max = 16))]
    pub rules: Vec<RouteRule>,
    /// How many tokens this model may use in a time. Not enforced yet: nothing is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
}

/// Names of LoRA adapters, none empty.
fn adapters(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 10,
        "items": {
            "type": "string",
            "x-kubernetes-validations": [
                { "rule": "size(self) > 0", "message": "lora adapter name cannot be an empty string" },
            ],
        },
    })
}

/// Conditions, and where a request goes when they all hold.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.targetModels.exists(target, target.weight > 0)").message("the weights must sum to more than zero").field_path(".targetModels")
)]
#[serde(rename_all = "camelCase")]
pub struct RouteRule {
    /// A name for people; it has no effect.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What must hold of a request. Left out: every request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_match: Option<ModelMatch>,
    /// Backends, 1 to 16. One is drawn for each request, by weight.
    #[schemars(length(min = 1, max = 16))]
    pub target_models: Vec<TargetModel>,
}

/// Conditions on a request; all that are set must hold.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelMatch {
    /// By header name, without regard to case: what the header's first value must be. A missing header counts as empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = MAX_ENTRIES))]
    pub headers: BTreeMap<String, StringMatch>,
    /// What the request's path must be, without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<StringMatch>,
    /// What must hold of the request's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyMatch>,
}

/// Conditions on the request's body.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BodyMatch {
    /// What the body's `model` must be, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// How a string is compared. Where several are set, the first of exact, prefix, regex counts; none set holds always.
// A pattern that does not compile makes `matches` fail, and with it the rule: that is the judgement.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.exact) || has(self.prefix) || !has(self.regex) || ''.matches(self.regex) in [true, false]").message("regex must be a regular expression of RE2").field_path(".regex")
)]
#[serde(rename_all = "camelCase")]
pub struct StringMatch {
    /// It must be equal to this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// It must begin with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// This regular expression (RE2) must be found somewhere in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_REGEX_CHARS))]
    pub regex: Option<String>,
}

/// A backend and its share of the requests.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("(has(self.modelServerName) && size(self.modelServerName) > 0) != (has(self.externalModelProviderName) && size(self.externalModelProviderName) > 0)").message("exactly one of modelServerName and externalModelProviderName must be set")
)]
#[serde(rename_all = "camelCase")]
pub struct TargetModel {
    /// A ModelServer of the route's namespace. Exactly one of this and `externalModelProviderName` must be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_server_name: Option<String>,
    /// An ExternalModelProvider of the route's namespace. Not served yet: a request that falls on it is answered 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_model_provider_name: Option<String>,
    /// Its share of the rule's requests, relative to the other targets.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 0, max = 100))]
    pub weight: u32,
}

impl Default for TargetModel {
    fn default() -> Self {
        Self {
            model_server_name: None,
            external_model_provider_name: None,
            weight: default_weight(),
        }
    }
}

fn default_weight() -> u32 {
    100
}

/// The Gateway API's reference to a parent, usually a Gateway.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// API group of the parent; empty = the core group.
    #[serde(default = "gateway_group")]
    #[schemars(length(max = 253), regex(pattern = GROUP))]
    pub group: String,
    /// Kind of the parent.
    #[serde(default = "gateway_kind")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    pub kind: String,
    /// Namespace of the parent. Left out: the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// Name of the parent.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of a listener of the Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN))]
    pub section_name: Option<String>,
    /// Port of a listener of the Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const GROUP: &str = r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

fn gateway_group() -> String {
    "gateway.networking.k8s.io".to_owned()
}

fn gateway_kind() -> String {
    "Gateway".to_owned()
}

/// Tokens per unit of time.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Prompt tokens in a unit of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = u32::MAX))]
    pub input_tokens_per_unit: Option<u32>,
    /// Generated tokens in a unit of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = u32::MAX))]
    pub output_tokens_per_unit: Option<u32>,
    /// The unit of time.
    #[serde(default)]
    pub unit: RateLimitUnit,
    /// Shares the limit between replicas. Left out: each replica has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global: Option<GlobalRateLimit>,
}

/// A unit of time for limits.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum RateLimitUnit {
    #[default]
    Second,
    Minute,
    Hour,
    Day,
    Month,
}

/// Where shared counts live.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalRateLimit {
    /// A Redis server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisConfig>,
}

/// A Redis server.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisConfig {
    /// `host:port`.
    pub address: String,
}
