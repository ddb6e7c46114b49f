//! The schema that an API server would enforce: names, limits, defaults and rules are Kthena's.

#![allow(missing_docs, clippy::unwrap_used)]

use kthena_gateway_api::{ExternalModelProvider, ModelRoute, ModelServer, definitions};
use kube::CustomResourceExt;
use serde_json::{Value, json};

fn crd<T: CustomResourceExt>() -> Value {
    let found = definitions()
        .into_iter()
        .find(|definition| definition.metadata.name.as_deref() == Some(T::crd_name()));
    serde_json::to_value(found.unwrap()).unwrap()
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
    assert_eq!(rules(schema(&crd, "spec")).len(), 2);
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
        schema(&crd, "spec.scheduling.pluginConfig.[].args")["x-kubernetes-preserve-unknown-fields"],
        json!(true)
    );
}

#[test]
fn a_provider_speaks_https() {
    let crd = crd::<ExternalModelProvider>();
    assert_eq!(schema(&crd, "spec.baseURL")["pattern"], json!("^https://.+"));
    assert_eq!(schema(&crd, "spec.providerType")["default"], json!("OpenAI"));
    assert_eq!(rules(schema(&crd, "spec.auth.secretRef")).len(), 2);
}

fn columns(crd: &Value) -> Vec<&str> {
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"]
        .as_array()
        .unwrap();
    columns.iter().map(|column| column["name"].as_str().unwrap()).collect()
}

#[test]
fn kubectl_get_shows_kthenas_columns_and_what_has_become_of_the_object() {
    assert_eq!(
        columns(&crd::<ModelRoute>()),
        ["Model", "Accepted", "Programmed", "Age"]
    );
    assert_eq!(
        columns(&crd::<ModelServer>()),
        ["Engine", "Port", "Protocol", "Ready", "Programmed", "Model", "Age"]
    );
    assert_eq!(columns(&crd::<ExternalModelProvider>()), ["Type", "Accepted", "Age"]);
    for definition in definitions() {
        assert_eq!(definition.spec.names.categories.unwrap(), ["kthena"]);
        assert!(
            definition.spec.versions[0]
                .subresources
                .as_ref()
                .unwrap()
                .status
                .is_some()
        );
    }
}

/// Every schema below one, with its path.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, visit);
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&format!("{path}{suffix}"), &schema[key], visit);
        }
    }
}

#[test]
fn kubectl_explain_has_something_to_say_of_every_field() {
    for definition in definitions() {
        let definition = serde_json::to_value(definition).unwrap();
        let spec = schema(&definition, "spec");
        walk("spec", spec, &mut |path, schema| {
            let is_field = !path.ends_with(']') && !path.ends_with('}');
            assert!(
                !is_field || schema["description"].is_string(),
                "{path} has no description"
            );
            assert!(schema["nullable"].is_null(), "{path} is nullable");
            assert!(
                !schema["description"].as_str().unwrap_or_default().contains('\n'),
                "{path} has a broken line"
            );
            let format = schema["format"].as_str().unwrap_or("int32");
            assert!(
                ["int32", "int64", "date-time"].contains(&format),
                "{path} has format {format}"
            );
        });
    }
}
