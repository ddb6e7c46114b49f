//! The schema that an API server would enforce: names, limits, defaults and rules are Kthena's.

#![allow(missing_docs, clippy::unwrap_used)]

use kthena_gateway_api::{ExternalModelProvider, ModelRoute, ModelServer};
use kube::CustomResourceExt;
use serde_json::{Value, json};

fn crd<T: CustomResourceExt>() -> Value {
    serde_json::to_value(T::crd()).unwrap()
}

/// The schema at a path of properties; `[]` = the items of a list.
fn schema<'a>(crd: &'a Value, path: &str) -> &'a Value {
    let mut at = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for name in path.split('.') {
        at = match name {
            "[]" => &at["items"],
            name => &at["properties"][name],
        };
    }
    assert!(!at.is_null(), "{path} is not in the schema");
    at
}

fn rules(schema: &Value) -> Vec<&str> {
    let rules = schema["x-kubernetes-validations"].as_array();
    rules
        .into_iter()
        .flatten()
        .filter_map(|rule| rule["rule"].as_str())
        .collect()
}

#[test]
fn the_kinds_are_kthenas() {
    for (crd, name) in [
        (crd::<ModelRoute>(), "modelroutes"),
        (crd::<ModelServer>(), "modelservers"),
        (crd::<ExternalModelProvider>(), "externalmodelproviders"),
    ] {
        assert_eq!(
            crd["metadata"]["name"],
            json!(format!("{name}.networking.serving.volcano.sh"))
        );
        assert_eq!(crd["spec"]["scope"], json!("Namespaced"));
        assert_eq!(crd["spec"]["versions"][0]["name"], json!("v1alpha1"));
    }
}

#[test]
fn a_model_route_has_its_limits_and_rules() {
    let crd = crd::<ModelRoute>();
    assert_eq!(schema(&crd, "spec.loraAdapters")["maxItems"], json!(10));
    assert_eq!(schema(&crd, "spec.rules")["maxItems"], json!(16));
    let targets = schema(&crd, "spec.rules.[].targetModels");
    assert_eq!((&targets["minItems"], &targets["maxItems"]), (&json!(1), &json!(16)));
    let weight = schema(&crd, "spec.rules.[].targetModels.[].weight");
    assert_eq!(
        (&weight["default"], &weight["maximum"].as_f64()),
        (&json!(100), &Some(100.0))
    );
    assert_eq!(schema(&crd, "spec.rateLimit.unit")["default"], json!("second"));
    assert_eq!(schema(&crd, "spec")["required"], json!(["rules"]));
    assert_eq!(rules(schema(&crd, "spec.modelName")), ["self == oldSelf"]);
    assert_eq!(rules(schema(&crd, "spec")).len(), 1);
    assert_eq!(rules(schema(&crd, "spec.rules.[].targetModels.[]")).len(), 1);
}

#[test]
fn a_model_server_has_its_limits_and_defaults() {
    let crd = crd::<ModelServer>();
    let spec = schema(&crd, "spec");
    assert_eq!(
        spec["required"],
        json!(["inferenceEngine", "workloadPort", "workloadSelector"])
    );
    assert_eq!(schema(&crd, "spec.model")["maxLength"], json!(256));
    assert_eq!(schema(&crd, "spec.inferenceEngine")["enum"], json!(["vLLM", "SGLang"]));
    let port = schema(&crd, "spec.workloadPort.port");
    assert_eq!(
        (port["minimum"].as_f64(), port["maximum"].as_f64()),
        (Some(1.0), Some(65535.0))
    );
    assert_eq!(schema(&crd, "spec.workloadPort.protocol")["default"], json!("http"));
    assert_eq!(
        schema(&crd, "spec.trafficPolicy.retry.retryInterval")["default"],
        json!("100ms")
    );
    assert_eq!(schema(&crd, "spec.kvConnector.type")["default"], json!("http"));
    assert_eq!(
        schema(&crd, "spec.scheduling")["x-kubernetes-preserve-unknown-fields"],
        json!(true)
    );
}

#[test]
fn a_provider_speaks_https() {
    let crd = crd::<ExternalModelProvider>();
    assert_eq!(schema(&crd, "spec.baseURL")["pattern"], json!("^https://.+"));
    assert_eq!(schema(&crd, "spec.providerType")["default"], json!("OpenAI"));
    assert_eq!(rules(schema(&crd, "spec.auth.secretRef")).len(), 1);
}
