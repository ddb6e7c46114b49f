//! Story: Helm installs, upgrades and uninstalls the chart on an API server. What remains are the definitions and what users applied.

use std::collections::BTreeSet;

use serde_json::json;

use super::objects::examples;
use super::*;
use kthena_e2e::process::wait_until;

/// Every object that there is, as `kind.group namespace/name`, but for what Kubernetes writes by itself all the time.
async fn everything(cluster: &Cluster) -> BTreeSet<String> {
    let kinds = cluster
        .kubectl(&["api-resources", "--verbs=list", "-o", "name"], "")
        .await
        .unwrap();
    let passing = [
        "events",
        "events.events.k8s.io",
        "leases.coordination.k8s.io",
        "endpointslices.discovery.k8s.io",
        "endpoints",
        "apiservices.apiregistration.k8s.io",
    ];
    let kinds: Vec<&str> = kinds
        .lines()
        .filter(|kind| !passing.contains(kind) && !kind.ends_with("metrics.k8s.io"))
        .collect();
    let columns = "custom-columns=K:.kind,A:.apiVersion,S:.metadata.namespace,N:.metadata.name";
    let args = [
        "get",
        &kinds.join(","),
        "-A",
        "--ignore-not-found",
        "--no-headers",
        "-o",
        columns,
    ];
    let text = cluster.kubectl(&args, "").await.unwrap();
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

async fn object(cluster: &Cluster, what: &str) -> Value {
    cluster.get(what, NAMESPACE).await.unwrap()
}

async fn users_objects(cluster: &Cluster) {
    for name in ["pass/route-plain", "pass/server-with-everything", "pass/provider-plain"] {
        let example = examples("pass")
            .into_iter()
            .find(|example| example.name == name)
            .unwrap();
        cluster.apply(&[example.object]).await.unwrap();
    }
}

/// The definitions, as the documented command puts them in.
async fn upgrade_definitions(cluster: &Cluster) {
    let folder = chart::folder();
    let definitions = chart::helm(&["show", "crds", folder.to_str().unwrap()]).unwrap();
    let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    cluster.kubectl(&args, &definitions).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_remains_are_the_definitions_and_what_users_applied() {
    let folder = Scratch::new("installed").unwrap();
    let cluster = bare(
        &folder,
        &["garbage-collector-controller", "clusterrole-aggregation-controller"],
    )
    .await;
    let before = everything(&cluster).await;
    helm(&cluster, "install", &["--create-namespace"]);
    upgrade_definitions(&cluster).await;
    users_objects(&cluster).await;
    let secret = object(&cluster, "secret/kthena-state-server").await;
    assert!(secret["data"]["tls.key"].is_string());

    helm(&cluster, "upgrade", &["--set", "networking.kthenaRouter.replicas=5"]);
    assert_eq!(
        object(&cluster, "deployment/kthena-ext-proc").await["spec"]["replicas"],
        json!(5)
    );
    let after = object(&cluster, "secret/kthena-state-server").await;
    assert_eq!(secret["data"], after["data"], "an upgrade keeps the certificates");

    // Those who may edit a namespace may edit its routes.
    wait_until("the roles to be aggregated", PATIENCE, async || {
        let role = cluster.get("clusterrole/edit", "").await.unwrap();
        role["rules"].to_string().contains("modelroutes")
    })
    .await
    .unwrap();

    helm(&cluster, "uninstall", &[]);
    let remains: Vec<String> = everything(&cluster).await.difference(&before).cloned().collect();
    let crd = "CustomResourceDefinition apiextensions.k8s.io/v1 <none>";
    let ours = "networking.serving.volcano.sh";
    assert_eq!(
        remains,
        [
            format!("{crd} externalmodelproviders.{ours}"),
            format!("{crd} modelroutes.{ours}"),
            format!("{crd} modelservers.{ours}"),
            format!("ExternalModelProvider {ours}/v1alpha1 default provider-plain"),
            format!("ModelRoute {ours}/v1alpha1 default route-plain"),
            format!("ModelServer {ours}/v1alpha1 default server-with-everything"),
            // Made by --create-namespace, which Helm leaves, too.
            format!("Namespace v1 <none> {NAMESPACE}"),
        ]
    );
    helm(&cluster, "install", &[]);
    assert_eq!(
        cluster.get("modelroute/route-plain", "default").await.unwrap()["spec"]["modelName"],
        json!("m")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_of_an_older_version_are_upgraded_by_the_documented_command() {
    let folder = Scratch::new("upgraded").unwrap();
    let cluster = bare(&folder, &[]).await;
    // As another tool left them: without rules, columns and status.
    for definition in kthena_gateway_api::definitions() {
        let mut definition = serde_json::to_value(definition).unwrap();
        let version = &mut definition["spec"]["versions"][0];
        version.as_object_mut().unwrap().remove("additionalPrinterColumns");
        version["subresources"] = json!({});
        version["schema"] =
            json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        cluster.apply(&[definition]).await.unwrap();
    }
    let crd = "crd/modelservers.networking.serving.volcano.sh";
    let older = cluster.get(crd, "").await.unwrap();
    let generation = older["metadata"]["generation"].as_i64().unwrap();
    upgrade_definitions(&cluster).await;
    // Only then: Helm would find definitions that are not its own in its way.
    helm(&cluster, "install", &["--create-namespace"]);
    let newer = cluster.get(crd, "").await.unwrap();
    assert_eq!(
        newer["metadata"]["generation"],
        json!(generation + 1),
        "Helm leaves them as they are"
    );
    users_objects(&cluster).await;
    wait_until("kubectl get to show our columns", PATIENCE, async || {
        let table = cluster.kubectl(&["get", "kthena"], "").await.unwrap();
        ["ENGINE", "PORT", "PROTOCOL", "READY", "PROGRAMMED", "MODEL", "ACCEPTED"]
            .iter()
            .all(|column| table.contains(column))
    })
    .await
    .unwrap();
    let table = cluster.kubectl(&["get", "mserver"], "").await.unwrap();
    assert!(
        table.contains("SGLang") && table.contains("65535") && table.contains("https"),
        "{table}"
    );
    for (field, says) in [
        ("modelserver.spec.scheduling.plugins.Score", "give endpoints points"),
        (
            "modelroute.spec.rules.targetModels.weight",
            "relative to the other targets",
        ),
        ("externalmodelprovider.spec.baseURL", "an `https` URL with a host"),
        ("modelserver.status.endpoints", "How many pods there are for it"),
    ] {
        let text = cluster.kubectl(&["explain", field], "").await.unwrap();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(says), "{field}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_finds_nothing_wrong_with_what_is_installed() {
    let folder = Scratch::new("sound").unwrap();
    let cluster = bare(&folder, &["validatingadmissionpolicy-status-controller"]).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    cluster.apply(&[namespace]).await.unwrap();
    helm(&cluster, "install", &[]);
    // Each pod keeps to the strictest of Kubernetes' standards, and one that does not is refused here.
    let pod = |name: &str, spec: &Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
    let create = ["create", "--dry-run=server", "-f", "-"];
    for component in ["controller", "ext-proc"] {
        let deployment = object(&cluster, &format!("deployment/kthena-{component}")).await;
        let mut spec = deployment["spec"]["template"]["spec"].clone();
        cluster
            .kubectl(&create, &pod(component, &spec).to_string())
            .await
            .unwrap();
        spec["securityContext"] = json!({});
        let error = cluster
            .kubectl(&create, &pod(component, &spec).to_string())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("violates PodSecurity"), "{error}");
    }
    // The API server has compiled the policies against our schemas.
    wait_until("the policies to be checked", PATIENCE, async || {
        let mut checked = true;
        for name in ["kthena-scheduling", "kthena-idle-fields"] {
            let policy = cluster
                .get(&format!("validatingadmissionpolicy/{name}"), "")
                .await
                .unwrap();
            let warnings = &policy["status"]["typeChecking"]["expressionWarnings"];
            assert!(warnings.is_null(), "{name}: {warnings:#}");
            checked &= policy["status"]["observedGeneration"] == policy["metadata"]["generation"];
        }
        checked
    })
    .await
    .unwrap();
}
