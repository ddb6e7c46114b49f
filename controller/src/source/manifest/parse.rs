//! One document: from text to objects.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kthena_gateway_api::{
    ExternalModelProvider, FieldIssue, INFERENCE_GROUP, INFERENCE_VERSION, InferencePool, ModelRoute, ModelServer,
    NETWORKING_GROUP, NETWORKING_VERSION,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::document::{Content, Document, Fault};
use super::lines::Lines;
use super::split::Chunk;
use super::unknown;
use crate::source::object::{Kind, Object, ObjectKey};

// Groups whose other kinds will matter later, or matter to others of this platform.
const KNOWN_GROUPS: [&str; 4] = [
    NETWORKING_GROUP,
    "workload.serving.volcano.sh",
    INFERENCE_GROUP,
    "gateway.networking.k8s.io",
];

/// Reads one YAML document, which may be a list of objects.
pub(super) fn yaml(chunk: &Chunk<'_>, documents: &mut Vec<Document>) {
    let first_line = chunk.lines_before + 1;
    match serde_saphyr::from_str::<Value>(chunk.text) {
        Ok(value) => objects(value, chunk.text, first_line, documents),
        Err(error) => {
            let line = error
                .location()
                .and_then(|at| u32::try_from(at.line()).ok())
                .unwrap_or(1);
            let message = error.render_with_options(serde_saphyr::render_options! {
                line_offset: u64::from(chunk.lines_before),
                snippets: serde_saphyr::SnippetMode::Off,
            });
            let line = chunk.lines_before + line.max(1);
            documents.push(Document::refused(first_line, line, format!("is not YAML: {message}")));
        }
    }
}

/// Reads a JSON file: one value, or several one after the other.
pub(super) fn json(text: &str, documents: &mut Vec<Document>) {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let (mut line, mut counted) = (1u32, 0);
    loop {
        let rest = &text[values.byte_offset()..];
        let start = text.len() - rest.trim_start().len();
        line += u32::try_from(text[counted..start].matches('\n').count()).unwrap_or(0);
        counted = start;
        match values.next() {
            None => return,
            Some(Ok(value)) => objects(value, &text[start..values.byte_offset()], line, documents),
            Some(Err(error)) => {
                let at = u32::try_from(error.line()).unwrap_or(line);
                documents.push(Document::refused(line, at, format!("is not JSON: {error}")));
                return;
            }
        }
    }
}

/// Where a value came from.
struct Place<'a> {
    lines: &'a Lines<'a>,
    first_line: u32,
    // Path of the object in the document: empty, or an item of a list.
    prefix: String,
}

impl Place<'_> {
    fn fault(&self, field: &str, message: String) -> Fault {
        let path = match (self.prefix.as_str(), field) {
            ("", field) => field.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, field) => format!("{prefix}.{field}"),
        };
        let line = self.lines.line_of(&path).unwrap_or(1);
        Fault {
            line: self.first_line + line - 1,
            field: path,
            message,
        }
    }
}

fn objects(mut value: Value, text: &str, first_line: u32, documents: &mut Vec<Document>) {
    let lines = Lines::new(text);
    drop_nulls(&mut value);
    if value.is_null() {
        return;
    }
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    let item_kind = match kind.strip_suffix("List") {
        Some(item_kind) if value.get("items").is_some_and(Value::is_array) => item_kind.to_owned(),
        _ => {
            let place = Place {
                lines: &lines,
                first_line,
                prefix: String::new(),
            };
            let content = object(&value, &place);
            documents.push(Document {
                line: first_line,
                content,
            });
            return;
        }
    };
    let api_version = value.get("apiVersion").cloned();
    let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) else {
        return;
    };
    for (i, mut item) in items.into_iter().enumerate() {
        // The items of a typed list need not repeat what it says.
        if let (Some(fields), false) = (item.as_object_mut(), item_kind.is_empty()) {
            fields.entry("kind").or_insert_with(|| item_kind.clone().into());
            if let Some(api_version) = &api_version {
                fields.entry("apiVersion").or_insert_with(|| api_version.clone());
            }
        }
        let place = Place {
            lines: &lines,
            first_line,
            prefix: format!("items[{i}]"),
        };
        let content = object(&item, &place);
        documents.push(Document {
            line: first_line,
            content,
        });
    }
}

/// An API server leaves fields out that are null.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn object(value: &Value, place: &Place<'_>) -> Content {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    for (field, found) in [("apiVersion", api_version), ("kind", kind)] {
        if found.is_empty() {
            let message = format!("is not a Kubernetes object: {field} is missing");
            return Content::Refused(None, vec![place.fault("", message)]);
        }
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    match (group, version, kind) {
        (NETWORKING_GROUP, NETWORKING_VERSION, "ModelRoute") => {
            typed(Kind::ModelRoute, value, place, Object::ModelRoute, ModelRoute::validate)
        }
        (NETWORKING_GROUP, NETWORKING_VERSION, "ModelServer") => typed(
            Kind::ModelServer,
            value,
            place,
            Object::ModelServer,
            ModelServer::validate,
        ),
        (NETWORKING_GROUP, NETWORKING_VERSION, "ExternalModelProvider") => typed(
            Kind::ExternalModelProvider,
            value,
            place,
            Object::ExternalModelProvider,
            ExternalModelProvider::validate,
        ),
        (INFERENCE_GROUP, INFERENCE_VERSION, "InferencePool") => typed(
            Kind::InferencePool,
            value,
            place,
            Object::InferencePool,
            InferencePool::validate,
        ),
        ("", "v1", "Pod") => typed(Kind::Pod, value, place, Object::Pod, |pod: &Pod| {
            kthena_gateway_api::validate::metadata(&pod.metadata)
        }),
        _ if KNOWN_GROUPS.contains(&group) => {
            Content::LeftAside(format!("{api_version} {kind} is not used by this version"))
        }
        _ => Content::LeftAside(format!("{api_version} {kind} is not a kind that this controller reads")),
    }
}

fn typed<T: DeserializeOwned + Serialize>(
    kind: Kind,
    value: &Value,
    place: &Place<'_>,
    wrap: fn(Arc<T>) -> Object,
    validate: fn(&T) -> Vec<FieldIssue>,
) -> Content {
    let key = key_of(kind, value);
    let object: T = match serde_path_to_error::deserialize(value) {
        Ok(object) => object,
        Err(error) => {
            let path = error.path().to_string();
            let field = if path == "." { "" } else { path.as_str() };
            let fault = place.fault(field, error.inner().to_string());
            return Content::Refused(key, vec![fault]);
        }
    };
    let issues = validate(&object);
    if !issues.is_empty() {
        let faults = issues
            .into_iter()
            .map(|issue| place.fault(&issue.path, issue.message))
            .collect();
        return Content::Refused(key, faults);
    }
    // Kubernetes' own types are larger than what is read of them.
    let odd = match kind {
        Kind::Pod => Vec::new(),
        _ => serde_json::to_value(&object)
            .map(|understood| unknown::fields(value, &understood))
            .unwrap_or_default(),
    };
    Content::Object(wrap(Arc::new(object)), odd)
}

fn key_of(kind: Kind, value: &Value) -> Option<ObjectKey> {
    let metadata = value.get("metadata")?;
    let text = |field: &str| {
        metadata
            .get(field)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    Some(ObjectKey::new(
        kind,
        text("namespace").unwrap_or("default"),
        text("name")?,
    ))
}
