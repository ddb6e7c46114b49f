//! Story: what we refuse an API server refuses, what we accept it accepts, and it warns of what we warn of: by schemas and policies as the chart
//! installs them. Where it can't be so, an example says why.

use kthena_e2e::cluster::parts::Part;
use kthena_gateway_api::{ExternalModelProvider, FieldIssue, InferencePool, ModelRoute, ModelServer};
use kthena_scheduler::profile::config::{PluginSet, Scheduler};
use kube::client::Body;
use serde_json::json;

use super::objects::{Example, examples};
use super::*;
use kthena_e2e::process::wait_until;

/// What we say of an object.
#[derive(Default)]
struct Judgement {
    issues: Vec<FieldIssue>,
    warnings: Vec<FieldIssue>,
}

fn ours(example: &Example) -> Judgement {
    match judge(example) {
        Ok(judgement) => judgement,
        Err(error) => Judgement {
            issues: vec![FieldIssue::new("", error.to_string())],
            ..Judgement::default()
        },
    }
}

fn judge(example: &Example) -> serde_json::Result<Judgement> {
    let object = example.object.clone();
    let (mut issues, mut warnings) = match example.kind() {
        "ModelRoute" => {
            let route: ModelRoute = serde_json::from_value(object)?;
            (route.validate(), route.warnings())
        }
        "ModelServer" => {
            let server: ModelServer = serde_json::from_value(object)?;
            (server.validate(), server.warnings())
        }
        "InferencePool" => {
            let pool: InferencePool = serde_json::from_value(object)?;
            (pool.validate(), Vec::new())
        }
        _ => {
            let provider: ExternalModelProvider = serde_json::from_value(object)?;
            (provider.validate(), provider.warnings())
        }
    };
    if let Some(block) = example.object["spec"].get("scheduling") {
        let scheduling = |message: String| FieldIssue::new("spec.scheduling", message);
        match serde_json::from_value::<Scheduler>(block.clone()).map(|block| block.for_server(&PluginSet::default())) {
            Ok(Ok((_, idle))) => warnings.extend(idle.into_iter().map(|warning| scheduling(warning.0))),
            Ok(Err(error)) => issues.push(scheduling(error.to_string())),
            Err(error) => issues.push(scheduling(error.to_string())),
        }
    }
    Ok(Judgement { issues, warnings })
}

/// What the API server says of it.
struct Answer {
    accepted: bool,
    says: String,
    warnings: Vec<String>,
}

async fn theirs(cluster: &Cluster, object: &Value) -> Answer {
    let plural = format!("{}s", object["kind"].as_str().unwrap().to_lowercase());
    let version = object["apiVersion"].as_str().unwrap();
    let path = format!("/apis/{version}/namespaces/default/{plural}?dryRun=All&fieldValidation=Strict");
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(Body::from(object.to_string().into_bytes()))
        .unwrap();
    let answer = cluster.client().send(request).await.unwrap();
    let accepted = answer.status().is_success();
    let warnings = answer.headers().get_all("warning").iter();
    // `299 - "text"`, with its quotes escaped.
    let text = |value: &str| {
        value
            .trim_start_matches("299 - ")
            .trim_matches('"')
            .replace("\\\"", "\"")
    };
    let warnings = warnings.map(|value| text(value.to_str().unwrap())).collect();
    let body = answer.into_body().collect_bytes().await.unwrap();
    let status: Value = serde_json::from_slice(&body).unwrap();
    Answer {
        accepted,
        says: status["message"].as_str().unwrap_or_default().to_owned(),
        warnings,
    }
}

/// A policy is in force some time after it is there.
async fn wait_in_force(cluster: &Cluster) {
    let bad = examples("fail")
        .into_iter()
        .find(|example| example.says("by") == Some("policy"))
        .unwrap();
    let idle = examples("pass")
        .into_iter()
        .find(|example| example.says("warns").is_some())
        .unwrap();
    wait_until("the policies to be in force", PATIENCE, async || {
        let (bad, idle) = (theirs(cluster, &bad.object).await, theirs(cluster, &idle.object).await);
        !bad.accepted && !idle.warnings.is_empty()
    })
    .await
    .unwrap();
}

async fn good_ones(cluster: &Cluster) {
    for example in examples("pass") {
        let Judgement { issues, mut warnings } = ours(&example);
        assert_eq!(issues, [], "{}", example.name);
        let paths: Vec<&str> = warnings.iter().map(|issue| issue.path.as_str()).collect();
        assert_eq!(paths, example.all("warns").collect::<Vec<_>>(), "{}", example.name);
        let answer = theirs(cluster, &example.object).await;
        assert!(answer.accepted, "{}: {}", example.name, answer.says);
        let told: Vec<(&str, &str)> = answer
            .warnings
            .iter()
            .map(|warning| field_and_message(warning))
            .collect();
        for (field, message) in &told {
            let ours = warnings.iter().find(|issue| issue.message == *message);
            let ours = ours.unwrap_or_else(|| panic!("{}: we do not say `{message}`", example.name));
            assert!(ours.path.starts_with(field), "{}: {field}, {ours}", example.name);
        }
        warnings.retain(|issue| !told.iter().any(|(_, message)| issue.message == *message));
        assert_eq!(warnings, [], "{}: the API server does not warn of it", example.name);
    }
}

/// `Validation failed for ValidatingAdmissionPolicy 'a' with binding 'b': spec.x: message`.
fn field_and_message(warning: &str) -> (&str, &str) {
    let of_policy = warning.split_once("idle-fields': ").map(|(_, rest)| rest);
    let of_policy = of_policy.unwrap_or_else(|| panic!("not a warning of ours: {warning}"));
    of_policy.split_once(": ").unwrap()
}

async fn bad_ones(cluster: &Cluster) {
    for example in examples("fail") {
        let says = example.says("says").unwrap();
        let Judgement { issues, .. } = ours(&example);
        let field = example.says("field").unwrap();
        // A block that the scheduler's types can't even read is named by its own field, which is not in these types.
        assert!(
            issues.len() == 1 && issues[0].path == field && issues[0].message.contains(says),
            "{}: {issues:?}",
            example.name
        );
        let answer = theirs(cluster, &example.object).await;
        assert!(!answer.accepted, "{} is accepted by the API server", example.name);
        let expected = example.says("server").unwrap_or(says);
        assert!(answer.says.contains(expected), "{}: {}", example.name, answer.says);
        // The message leads to the field.
        let top = field.split(['[', '.']).take(2).collect::<Vec<_>>().join(".");
        assert!(answer.says.contains(&top), "{}: {}", example.name, answer.says);
        let denied = answer.says.contains("ValidatingAdmissionPolicy");
        assert_eq!(
            denied,
            example.says("by") == Some("policy"),
            "{}: {}",
            example.name,
            answer.says
        );
    }
}

async fn those_that_differ(cluster: &Cluster) {
    for example in examples("differ") {
        let Judgement { issues, .. } = ours(&example);
        let answer = theirs(cluster, &example.object).await;
        match example.says("server") {
            Some(says) => {
                assert_eq!(issues, [], "{}", example.name);
                assert!(answer.says.contains(says), "{}: {}", example.name, answer.says);
            }
            None => {
                assert!(
                    answer.accepted,
                    "{}: it is no difference: {}",
                    example.name, answer.says
                );
                let says = example.says("says").unwrap();
                assert!(
                    issues.iter().any(|issue| issue.message.contains(says)),
                    "{}: {issues:?}",
                    example.name
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn we_and_an_api_server_judge_alike() {
    let folder = Scratch::new("judged").unwrap();
    let cluster = bare(&folder, &[]).await;
    helm(&cluster, "install", &["--create-namespace"]);
    let pools = Part::InferencePoolDefinition.path().unwrap();
    cluster
        .kubectl(&["apply", "-f", pools.to_str().unwrap()], "")
        .await
        .unwrap();
    let established = ["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"];
    cluster.kubectl(&established, "").await.unwrap();
    wait_in_force(&cluster).await;
    good_ones(&cluster).await;
    bad_ones(&cluster).await;
    those_that_differ(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubectl_applies_is_refused_in_words_that_name_the_field() {
    let folder = Scratch::new("kubectl").unwrap();
    let cluster = bare(&folder, &[]).await;
    // Before the policies were there, objects came in that they would refuse.
    helm(
        &cluster,
        "install",
        &["--create-namespace", "--set", "admissionPolicy.enabled=false"],
    );
    let bad = examples("fail")
        .into_iter()
        .find(|example| example.says("by") == Some("policy"))
        .unwrap();
    let mut object = bad.object.clone();
    object["metadata"]["name"] = "older".into();
    cluster.apply(std::slice::from_ref(&object)).await.unwrap();
    helm(&cluster, "upgrade", &["--set", "admissionPolicy.enabled=true"]);
    wait_in_force(&cluster).await;

    let error = cluster
        .apply(std::slice::from_ref(&bad.object))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(bad.says("server").unwrap()), "{error}");

    // The older one can be labelled and deleted, and must be mended to be changed.
    cluster
        .kubectl(&["label", "modelserver", "older", "a=b"], "")
        .await
        .unwrap();
    let patch = |port: u16| json!({"spec": {"workloadPort": {"port": port}}}).to_string();
    let change = patch(9000);
    let error = cluster
        .kubectl(&["patch", "modelserver", "older", "--type=merge", "-p", &change], "")
        .await;
    assert!(error.unwrap_err().to_string().contains(bad.says("server").unwrap()));
    cluster.kubectl(&["delete", "modelserver", "older"], "").await.unwrap();

    // A name that clients use stays what it is.
    let plain = examples("pass")
        .into_iter()
        .find(|example| example.name == "pass/route-plain")
        .unwrap();
    let mut route = plain.object.clone();
    cluster.apply(std::slice::from_ref(&route)).await.unwrap();
    route["spec"]["modelName"] = "other".into();
    let error = cluster.apply(&[route]).await.unwrap_err().to_string();
    assert!(
        error.contains("spec.modelName") && error.contains("modelName is immutable"),
        "{error}"
    );

    // A slip of the pen is no silence.
    let mut route = plain.object.clone();
    route["spec"]["modelname"] = "m".into();
    let error = cluster.apply(&[route]).await.unwrap_err().to_string();
    assert!(
        error.contains("unknown field") && error.contains("modelname"),
        "{error}"
    );
}
