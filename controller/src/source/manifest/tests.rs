//! Stories of manifests.

use proptest::prelude::*;

use super::document::Fault;
use super::*;
use crate::source::{Kind, ObjectKey};

const GOOD: &str = "\
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {name: good, creationTimestamp: null}
spec:
  inferenceEngine: vLLM
  workloadSelector: {matchLabels: {app: m}}
  workloadPort: {port: 8000}
";

fn yaml(text: &str) -> Vec<Document> {
    read(text, Syntax::Yaml, 100)
}

fn key(document: &Document) -> Option<String> {
    match &document.content {
        Content::Object(object, _) => Some(object.key().to_string()),
        Content::Refused(key, _) => key.as_ref().map(ToString::to_string),
        Content::LeftAside(_) => None,
    }
}

fn faults(document: &Document) -> &[Fault] {
    match &document.content {
        Content::Refused(_, faults) => faults,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_bad_document_takes_nothing_else_down() {
    let text = format!("{GOOD}---\nkind: [\n---\n{}", GOOD.replace("good", "other"));
    let documents = yaml(&text);
    let keys: Vec<_> = documents.iter().map(key).collect();
    assert_eq!(
        keys,
        [
            Some("ModelServer default/good".into()),
            None,
            Some("ModelServer default/other".into())
        ]
    );
    assert_eq!((documents[0].line, documents[1].line, documents[2].line), (1, 8, 10));
    let fault = &faults(&documents[1])[0];
    assert!(
        (8..=10).contains(&fault.line) && fault.message.starts_with("is not YAML"),
        "{fault:?}"
    );
}

#[test]
fn a_wrong_type_is_named_with_line_and_field() {
    let text = format!("# first\n---\n{}", GOOD.replace("{port: 8000}", "\n    port: eighty"));
    let documents = yaml(&text);
    assert_eq!(key(&documents[0]).as_deref(), Some("ModelServer default/good"));
    let [fault] = faults(&documents[0]) else { panic!() };
    assert_eq!((fault.line, fault.field.as_str()), (10, "spec.workloadPort.port"));
    assert!(fault.message.contains("eighty"), "{fault:?}");
}

#[test]
fn a_broken_rule_is_named_with_line_and_field() {
    let documents = yaml(&GOOD.replace("8000", "0").replace("app: m", "app: '-'"));
    let found: Vec<_> = faults(&documents[0])
        .iter()
        .map(|fault| (fault.line, fault.field.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (6, "spec.workloadSelector.matchLabels[app]"),
            (7, "spec.workloadPort.port")
        ]
    );
}

#[test]
fn a_missing_field_is_named() {
    let documents = yaml(&GOOD.replace("  inferenceEngine: vLLM\n", ""));
    let [fault] = faults(&documents[0]) else { panic!() };
    assert!(
        fault.field == "spec" && fault.message.contains("inferenceEngine"),
        "{fault:?}"
    );
}

#[test]
fn a_slip_of_the_pen_is_told_and_counts_for_nothing() {
    let documents = yaml(&GOOD.replace("  workloadPort", "  modle: x\n  workloadPort"));
    let Content::Object(_, odd) = &documents[0].content else {
        panic!()
    };
    let paths: Vec<_> = odd.iter().map(|issue| issue.path.as_str()).collect();
    assert_eq!(paths, ["spec.modle"]);
}

#[test]
fn lists_hold_objects_and_a_bad_item_stays_alone() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n- apiVersion: v1\n  \
                kind: Pod\n  metadata: {name: B}\n";
    let documents = yaml(text);
    assert_eq!(key(&documents[0]).as_deref(), Some("Pod default/a"));
    let [fault] = faults(&documents[1]) else { panic!() };
    assert_eq!((fault.line, fault.field.as_str()), (9, "items[1].metadata.name"));
    let typed = yaml("apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: a}\n");
    assert_eq!(key(&typed[0]).as_deref(), Some("Pod default/a"));
}

#[test]
fn other_kinds_are_left_aside_and_told_apart() {
    let left = |text: &str| match &yaml(text)[0].content {
        Content::LeftAside(why) => why.clone(),
        other => panic!("{other:?}"),
    };
    assert!(
        left("apiVersion: workload.serving.volcano.sh/v1alpha1\nkind: ModelServing\n")
            .contains("not used by this version")
    );
    assert!(left("apiVersion: apps/v1\nkind: Deployment\n").contains("not a kind"));
    assert!(faults(&yaml("a: 1")[0])[0].message.contains("apiVersion is missing"));
    assert!(
        faults(&yaml("[1, 2]")[0])[0]
            .message
            .contains("not a Kubernetes object")
    );
}

#[test]
fn json_files_hold_one_or_many() {
    let pod = |name: &str| {
        format!("{{\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n\t\"metadata\": {{\"name\": \"{name}\"}}}}")
    };
    let documents = read(&format!("{}\n{}\n{{\"kind\":", pod("a"), pod("Bad")), Syntax::Json, 100);
    assert_eq!(key(&documents[0]).as_deref(), Some("Pod default/a"));
    assert_eq!(
        (documents[1].line, key(&documents[1]).as_deref()),
        (3, Some("Pod default/Bad"))
    );
    assert_eq!(faults(&documents[1])[0].line, 4);
    assert_eq!(faults(&documents[2])[0].line, 5);
    assert!(read(" \n", Syntax::Json, 100).is_empty());
}

#[test]
fn the_limit_of_documents_is_said() {
    let text = GOOD.to_owned() + "---\n" + &GOOD.replace("good", "b") + "---\n" + &GOOD.replace("good", "c");
    let documents = read(&text, Syntax::Yaml, 2);
    assert_eq!(documents.len(), 3);
    assert!(faults(&documents[2])[0].message.contains("limit of 2"));
    assert_eq!(
        key(&documents[0]),
        Some(ObjectKey::new(Kind::ModelServer, "default", "good").to_string())
    );
}

proptest! {
    #[test]
    fn garbage_never_panics_and_never_hides_other_documents(
        before in "[ -~\n\t\u{e9}]{0,80}",
        after in "(?s).{0,80}",
    ) {
        let text = format!("{before}\n---\n{GOOD}---\n{after}");
        let found = yaml(&text).iter().any(|document| key(document).as_deref() == Some("ModelServer default/good")
            && matches!(document.content, Content::Object(..)));
        prop_assert!(found, "{}", text);
    }

    #[test]
    fn structured_garbage_never_panics(
        text in proptest::collection::vec(
            proptest::sample::select(vec![
                "apiVersion: v1\n", "kind: Pod\n", "kind: List\n", "items:\n", "- ", "metadata:\n", "  name: a\n", "{", "}", "[", "]",
                "&a ", "*a ", "<<: ", "!!binary ", "|\n", ">-\n", "---\n", "...\n", ": ", "? ", "\"", "'", "#", "%YAML 1.2\n", "\t", "null",
                "networking.serving.volcano.sh/v1alpha1", "spec: {rules: [{}]}\n", "1e999", "0x", "~",
            ]),
            0..25,
        )
    ) {
        let text = text.concat();
        let _ = yaml(&text);
        let _ = read(&text, Syntax::Json, 100);
    }
}

#[test]
fn a_pool_is_read_and_judged_like_the_rest() {
    let pool = |ports: &str| {
        format!(
            "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {{name: p}}\nspec:\n  \
             selector: {{matchLabels: {{app: m}}}}\n  targetPorts: {ports}\n  endpointPickerRef: {{name: e, port: {{number: 9002}}}}\n\
             status: {{parents: [{{parentRef: {{name: g}}}}]}}\n"
        )
    };
    let good = &yaml(&pool("[{number: 8000}]"))[0];
    assert_eq!(key(good).as_deref(), Some("InferencePool default/p"));
    assert!(
        matches!(&good.content, Content::Object(_, odd) if odd.is_empty()),
        "{good:?}"
    );
    let bad = &yaml(&pool("[{number: 8000}, {number: 8000}]"))[0];
    assert_eq!(faults(bad)[0].field, "spec.targetPorts[1].number");
}
