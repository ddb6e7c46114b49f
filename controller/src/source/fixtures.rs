//! Small objects for tests.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Event, Object, ObjectKey, OrderKey, Origin};

const API: &str = "networking.serving.volcano.sh/v1alpha1";

pub(crate) fn route(name: &str, spec: Value) -> Object {
    Object::ModelRoute(Arc::new(
        serde_json::from_value(json!({
            "apiVersion": API, "kind": "ModelRoute", "metadata": {"name": name, "namespace": "default"}, "spec": spec,
        }))
        .unwrap(),
    ))
}

pub(crate) fn server_with(name: &str, app: &str, change: impl FnOnce(&mut Value)) -> Object {
    let mut spec = json!({
        "inferenceEngine": "vLLM",
        "workloadSelector": {"matchLabels": {"app": app}},
        "workloadPort": {"port": 8000},
    });
    change(&mut spec);
    Object::ModelServer(Arc::new(
        serde_json::from_value(json!({
            "apiVersion": API, "kind": "ModelServer", "metadata": {"name": name, "namespace": "default"}, "spec": spec,
        }))
        .unwrap(),
    ))
}

pub(crate) fn server(name: &str, app: &str) -> Object {
    server_with(name, app, |_| {})
}

pub(crate) fn pool(name: &str, app: &str, ports: &[u16]) -> Object {
    let ports: Vec<_> = ports.iter().map(|port| json!({"number": port})).collect();
    Object::InferencePool(Arc::new(
        serde_json::from_value(json!({
            "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": app}}, "targetPorts": ports},
        }))
        .unwrap(),
    ))
}

pub(crate) fn pod_with(name: &str, labels: Value, ip: &str) -> Object {
    Object::Pod(Arc::new(
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": labels}, "status": {"podIP": ip},
        }))
        .unwrap(),
    ))
}

pub(crate) fn pod(name: &str, app: &str, ip: &str) -> Object {
    pod_with(name, json!({"app": app}), ip)
}

/// As a folder would give it, from a file named like the object.
pub(crate) fn apply(object: Object) -> Event {
    let ObjectKey { name, .. } = object.key();
    let origin = Origin {
        place: format!("{name}.yaml:1"),
        order: OrderKey::Place(format!("{name}.yaml"), 0),
        warnings: Vec::new(),
    };
    Event::Apply(object, origin)
}
