//! ExternalModelProvider: a model API outside the cluster. Accepted and judged; requests to it are not served yet.

// The schema derive repeats each type inside a function.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A model API outside the cluster.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "networking.serving.volcano.sh",
    version = "v1alpha1",
    kind = "ExternalModelProvider",
    plural = "externalmodelproviders",
    namespaced,
    derive = "PartialEq",
    doc = "A model API outside the cluster.",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.providerType"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ExternalModelProviderSpec {
    /// The dialect it speaks.
    #[serde(default)]
    pub provider_type: ProviderType,
    /// Replaces the request's model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub model: Option<String>,
    /// Where it is; https only.
    #[serde(rename = "baseURL")]
    #[schemars(regex(pattern = r"^https://.+"))]
    pub base_url: String,
    /// Accepts any certificate.
    #[serde(default)]
    pub insecure_skip_verify: bool,
    /// The credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<ProviderAuth>,
    /// Headers added to every request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// The dialect of a provider.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ProviderType {
    #[default]
    OpenAI,
    Anthropic,
}

/// The credential of a provider.
#[derive(JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProviderAuth {
    /// How it is sent; absent = as the provider type expects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<AuthScheme>,
    /// Where it is kept.
    pub secret_ref: SecretKeySelector,
}

/// How a credential is sent.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum AuthScheme {
    Bearer,
    APIKey,
}

/// A key of a Secret of the same namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.optional) || !self.optional").message("optional must not be true")
)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeySelector {
    /// The Secret's name.
    #[serde(default)]
    pub name: String,
    /// The key in it.
    pub key: String,
    /// Must not be true: a provider without its credential serves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}
