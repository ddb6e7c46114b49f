//! Story: objects are judged by every rule, and the rules that an API server would run say the same.
//!
//! `e2e/tests/chart` puts the same objects before a real API server.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod objects;

use kthena_gateway_api::{ExternalModelProvider, FieldIssue, InferencePool, ModelRoute, ModelServer, definitions};
use kube::core::cel::Validator;
use objects::{Example, examples};
use serde_json::Value;

const PLACE: &str = "tests/objects";

/// What we say of an object.
struct Judgement {
    issues: Vec<FieldIssue>,
    warnings: Vec<FieldIssue>,
    /// With its defaults, as an API server would have it.
    whole: Value,
}

macro_rules! judge {
    ($kind:ty, $object:expr) => {
        serde_json::from_value::<$kind>($object).map(|object| Judgement {
            issues: object.validate(),
            warnings: object.warnings(),
            whole: serde_json::to_value(&object).unwrap(),
        })
    };
}

fn judge(example: &Example) -> Judgement {
    let object = example.object.clone();
    let judged = match example.kind() {
        "ModelRoute" => judge!(ModelRoute, object),
        "ModelServer" => judge!(ModelServer, object),
        "ExternalModelProvider" => judge!(ExternalModelProvider, object),
        "InferencePool" => serde_json::from_value::<InferencePool>(object).map(|pool| Judgement {
            issues: pool.validate(),
            warnings: Vec::new(),
            whole: serde_json::to_value(&pool).unwrap(),
        }),
        kind => panic!("{}: {kind}", example.name),
    };
    judged.unwrap_or_else(|error| Judgement {
        issues: vec![FieldIssue::new("", error.to_string())],
        warnings: Vec::new(),
        whole: example.object.clone(),
    })
}

/// What the rules in the schema say, run here.
fn rules(kind: &str, object: &Value) -> Result<(), String> {
    let definition = definitions().into_iter().find(|one| one.spec.names.kind == kind);
    // The definition of InferencePool is not ours.
    let Some(definition) = definition else { return Ok(()) };
    let schema = definition.spec.versions[0]
        .schema
        .as_ref()
        .unwrap()
        .open_api_v3_schema
        .as_ref();
    let schema = serde_json::to_value(schema).unwrap();
    Validator::new()
        .validate(&schema, object, None)
        .map_err(|errors| format!("{errors:?}"))
}

#[test]
fn what_is_good_passes_and_its_idle_fields_are_named() {
    for example in examples("pass") {
        let Judgement {
            issues,
            warnings,
            whole,
        } = judge(&example);
        assert_eq!(issues, [], "{}", example.name);
        let warned: Vec<&str> = warnings.iter().map(|issue| issue.path.as_str()).collect();
        // The scheduler's own types judge what is in that block.
        let expected: Vec<&str> = example.all("warns").filter(|path| *path != "spec.scheduling").collect();
        assert_eq!(warned, expected, "{}", example.name);
        assert_eq!(rules(example.kind(), &whole), Ok(()), "{}", example.name);
    }
}

#[test]
fn what_is_bad_is_refused_with_its_field() {
    for example in examples("fail") {
        let by = example.says("by").unwrap();
        let Judgement { issues, whole, .. } = judge(&example);
        let refused = rules(example.kind(), &whole);
        // What the rest of the schema refuses may break a rule as well.
        match by {
            "rule" => assert!(refused.is_err(), "{}: no rule is against it", example.name),
            "policy" => assert_eq!(refused, Ok(()), "{}", example.name),
            _ => assert!(["schema", "server"].contains(&by), "{}: {by}", example.name),
        }
        if example.says("field") == Some("spec.scheduling") {
            assert_eq!(
                issues,
                [],
                "{}: the scheduler's own types judge the block",
                example.name
            );
            continue;
        }
        let [issue] = issues.as_slice() else {
            panic!("{}: {issues:?}", example.name)
        };
        assert_eq!(
            Some(issue.path.as_str()),
            example.says("field"),
            "{}: {issue}",
            example.name
        );
        assert!(
            issue.message.contains(example.says("says").unwrap()),
            "{}: {issue}",
            example.name
        );
    }
}

#[test]
fn where_we_differ_from_an_api_server_there_is_a_reason() {
    for example in examples("differ") {
        assert!(example.says("why").is_some(), "{}", example.name);
        let Judgement { issues, .. } = judge(&example);
        let Some(field) = example.says("field").filter(|field| *field != "spec.scheduling") else {
            assert_eq!(issues, [], "{}", example.name);
            continue;
        };
        assert_eq!(issues.len(), 1, "{}: {issues:?}", example.name);
        assert_eq!(issues[0].path, field, "{}", example.name);
        assert!(
            issues[0].message.contains(example.says("says").unwrap()),
            "{}: {}",
            example.name,
            issues[0]
        );
    }
}

#[test]
fn a_model_name_stays_what_it_is() {
    let definition = definitions()
        .into_iter()
        .find(|one| one.spec.names.kind == "ModelRoute")
        .unwrap();
    let schema = definition.spec.versions[0]
        .schema
        .as_ref()
        .unwrap()
        .open_api_v3_schema
        .as_ref();
    let schema = serde_json::to_value(schema).unwrap();
    let plain = examples("pass")
        .into_iter()
        .find(|example| example.name == "pass/route-plain")
        .unwrap();
    let old = judge(&plain).whole;
    let mut new = old.clone();
    assert!(Validator::new().validate(&schema, &new, Some(&old)).is_ok());
    new["spec"]["modelName"] = "other".into();
    let errors = Validator::new().validate(&schema, &new, Some(&old)).unwrap_err();
    assert!(format!("{errors:?}").contains("modelName is immutable"), "{errors:?}");
}
