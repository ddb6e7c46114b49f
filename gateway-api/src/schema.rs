//! Pieces of schemas that several kinds share, and the custom resource definitions of all of them.
//!
//! What must always hold: a limit written here is one that [`crate::validate`] holds to as well, so that an object from a
//! folder and one from an API server are judged alike; every rule says in words what it wants.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::{ExternalModelProvider, ModelRoute, ModelServer};

/// Labels, headers and the like that one field may hold. An API server runs no rule on a map without a bound.
pub(crate) const MAX_ENTRIES: usize = 64;
/// Characters of a regular expression.
pub(crate) const MAX_REGEX_CHARS: usize = 1024;
/// Characters of a provider's URL.
pub(crate) const MAX_URL_CHARS: usize = 2048;

/// `name` or `domain/name`.
const LABEL_KEY: &str = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

/// The definitions of our kinds, as an API server takes them.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut definitions = vec![ModelRoute::crd(), ModelServer::crd(), ExternalModelProvider::crd()];
    let versions = definitions
        .iter_mut()
        .flat_map(|definition| &mut definition.spec.versions);
    let schemas = versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut());
    schemas.for_each(as_kubernetes_writes);
    definitions
}

/// Takes off what only Rust says: an API server leaves out what is null, warns of formats that it does not know, and
/// descriptions are paragraphs without line breaks.
fn as_kubernetes_writes(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.title = None;
    schema
        .enum_
        .iter_mut()
        .for_each(|values| values.retain(|value| !value.0.is_null()));
    schema.format = schema.format.take().filter(|format| !format.starts_with("uint"));
    if let Some(text) = &mut schema.description {
        let paragraphs: Vec<String> = text
            .split("\n\n")
            .map(|paragraph| paragraph.replace('\n', " "))
            .collect();
        *text = paragraphs.join("\n\n");
    }
    schema
        .properties
        .iter_mut()
        .flat_map(|fields| fields.values_mut())
        .for_each(as_kubernetes_writes);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => as_kubernetes_writes(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(as_kubernetes_writes),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        as_kubernetes_writes(value);
    }
}

/// At least one label.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": MAX_ENTRIES,
        "additionalProperties": { "type": "string", "maxLength": 63, "pattern": LABEL_VALUE },
        "x-kubernetes-validations": [{
            "rule": format!("self.all(key, key.matches('{LABEL_KEY}') && key.indexOf('/') <= 253)"),
            "message": "must hold label keys: `name` or `domain/name`, the name at most 63 letters, digits, `-`, `_`, `.`",
        }],
    })
}

/// A label key.
pub(crate) fn label_key(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 317,
        "x-kubernetes-validations": [{
            "rule": format!("self.matches('{LABEL_KEY}') && self.indexOf('/') <= 253"),
            "message": "must be a label key: `name` or `domain/name`, the name at most 63 letters, digits, `-`, `_`, `.`",
        }],
    })
}

/// Any object: another part of the product judges what is in it.
pub(crate) fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}
