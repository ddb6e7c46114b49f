//! ExternalModelProvider: a model API outside the cluster. Accepted and judged; requests to it are not served yet.

// The schema derive repeats each type inside a function.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::ExternalModelProviderStatus;
use crate::schema::{MAX_ENTRIES, MAX_URL_CHARS};

/// A model API outside the cluster.
#[derive(CustomResource, JsonSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "networking.serving.volcano.sh",
    version = "v1alpha1",
    kind = "ExternalModelProvider",
    plural = "externalmodelproviders",
    namespaced,
    derive = "PartialEq",
    status = "ExternalModelProviderStatus",
    shortname = "emp",
    category = "kthena",
    doc = "A model API outside the cluster. Accepted and judged; requests to it are not served yet.",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.providerType","description":"Dialect that it speaks"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status","description":"Whether requests to it are served"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ExternalModelProviderSpec {
    /// The dialect it speaks.
    #[serde(default)]
    pub provider_type: ProviderType,
    /// Replaces the request's `model`. Left out: the request's stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub model: Option<String>,
    /// Where it is: an `https` URL with a host, without user, query or fragment.
    #[serde(rename = "baseURL")]
    #[schemars(schema_with = "base_url")]
    pub base_url: String,
    /// Accepts any certificate of the provider.
    #[serde(default)]
    pub insecure_skip_verify: bool,
    /// The credential. Left out: none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<ProviderAuth>,
    /// Headers added to every request. Those that the proxy sets itself or that carry a credential are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "headers")]
    pub headers: BTreeMap<String, String>,
}

// Mirrors `validate::provider`, one rule for each of its sentences.
fn base_url(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": MAX_URL_CHARS,
        "pattern": "^https://.+",
        "x-kubernetes-validations": [
            { "rule": r"!self.matches('[\\s\\p{Z}\\p{Cc}]')", "message": "must not contain spaces" },
            { "rule": "!self.matches('[?#]')", "message": "must have neither query nor fragment" },
            { "rule": "!self.matches('^https://[^/]*@')", "message": "must not contain a user or password" },
            {
                "rule": r"self.matches('^https://(\\[[0-9A-Fa-f:.]+\\]|[^/:\\[\\]]+)(:([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?(/|$)')",
                "message": "must name a host, with a port from 0 to 65535 or none",
            },
        ],
    })
}

// RFC 9110: a name is a token. Reserved are those that the proxy sets itself, and carriers of a credential.
fn headers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": MAX_ENTRIES,
        "additionalProperties": { "type": "string", "pattern": r"^[^\r\n]*$" },
        "x-kubernetes-validations": [
            { "rule": "self.all(name, name.matches('^[-!#$%&\\'*+.^_`|~0-9A-Za-z]+$'))", "message": "must hold names of headers" },
            {
                "rule": "!self.exists(name, name.matches('(?i)^(authorization|proxy-authorization|cookie|x-api-key|host|content-length|connection|keep-alive|proxy-connection|transfer-encoding|upgrade|trailer|te)$'))",
                "message": "must not set a reserved header: Authorization, Proxy-Authorization, Cookie, X-API-Key, Host, Content-Length, Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding, Upgrade, Trailer, TE",
            },
        ],
    })
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
    /// How it is sent. Left out: as the provider type expects, Bearer for OpenAI and APIKey for Anthropic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<AuthScheme>,
    /// The Secret that holds it, in the provider's namespace.
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
    validation = Rule::new("size(self.name) > 0").message("must be set").field_path(".name"),
    validation = Rule::new("!has(self.optional) || !self.optional").message("must not be true").field_path(".optional")
)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeySelector {
    /// The Secret's name.
    #[serde(default)]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1))]
    pub key: String,
    /// Must not be true: a provider without its credential serves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}
