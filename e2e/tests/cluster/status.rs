//! Story: what became of an object stands in its status, in `kubectl describe` and in events; one controller of several writes it.

use kthena_e2e::cluster::kubelet::PodSpec;
use kthena_e2e::system::manifests::model_route;
use serde_json::json;

use super::*;

/// A condition as `status reason`.
async fn condition(system: &mut System, what: &str, type_: &str) -> String {
    let object = system.kubernetes().unwrap().get(what, "default").await.unwrap();
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == type_);
    found.map_or_else(String::new, |condition| {
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        format!("{} {}", text("status"), text("reason"))
    })
}

pub(crate) async fn wait_condition(system: &mut System, what: &str, type_: &str, wanted: &str) {
    let mut seen = String::new();
    wait_until(&format!("{what} to be {type_}={wanted}"), PATIENCE, async || {
        seen = condition(system, what, type_).await;
        seen == wanted
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen}"));
}

/// Waits until the message of an object's condition `Programmed` is this.
pub(crate) async fn wait_programmed(system: &mut System, what: &str, message: &str) {
    let mut seen = Value::Null;
    wait_until(&format!("{what} to say: {message}"), PATIENCE, async || {
        let object = system.kubernetes().unwrap().get(what, "default").await.unwrap();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let programmed = conditions.into_iter().find(|one| one["type"] == "Programmed");
        seen = programmed.unwrap_or_default();
        seen["message"] == message
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen}"));
}

/// What `kubectl get` prints in its columns, and what `kubectl explain` tells.
async fn kubectl_shows_and_explains(system: &mut System) {
    let port = system.fleet().port().to_string();
    let cluster = system.kubernetes().unwrap();
    let routes = cluster.kubectl(&["get", "mroute"], "").await.unwrap();
    let [head, row] = columns(&routes);
    assert_eq!(head, ["NAME", "MODEL", "ACCEPTED", "PROGRAMMED", "AGE"]);
    assert_eq!(row[..4], ["llama", "llama", "True", "True"]);
    let servers = cluster.kubectl(&["get", "mserver", "-o", "wide"], "").await.unwrap();
    let [head, row] = columns(&servers);
    assert_eq!(
        head,
        [
            "NAME",
            "ENGINE",
            "PORT",
            "PROTOCOL",
            "READY",
            "PROGRAMMED",
            "MODEL",
            "AGE"
        ]
    );
    assert_eq!(row[..7], ["llama", "vLLM", &port, "http", "2", "True", "meta/llama"]);
    let all = cluster.kubectl(&["get", "kthena", "-o", "name"], "").await.unwrap();
    assert_eq!(all.lines().count(), 2, "{all}");

    for (what, told) in [
        ("modelroute", "modelName"),
        ("modelroute.spec.rules.targetModels", "weight"),
        ("modelroute.status.conditions", "observedGeneration"),
        ("modelserver.spec.workloadSelector", "matchLabels"),
        ("modelserver.spec.trafficPolicy.retry", "attempts"),
        ("externalmodelprovider.spec", "baseURL"),
    ] {
        let text = cluster.kubectl(&["explain", what, "--recursive"], "").await.unwrap();
        assert!(text.contains(told), "{what}: {text}");
        let text = cluster.kubectl(&["explain", what], "").await.unwrap();
        let described = text
            .split("DESCRIPTION:")
            .nth(1)
            .and_then(|rest| rest.split("FIELDS:").next());
        assert!(
            described.is_some_and(|text| text.trim().len() > 10 && !text.contains("<empty>")),
            "{what}: {text}"
        );
    }
}

/// The first two lines, word by word.
fn columns(table: &str) -> [Vec<&str>; 2] {
    let mut lines = table.lines().map(|line| line.split_whitespace().collect());
    [lines.next().unwrap_or_default(), lines.next().unwrap_or_default()]
}

/// The ModelServer as the API server has it now.
async fn llama_server(system: &mut System) -> Value {
    let cluster = system.kubernetes().unwrap();
    cluster.get("modelserver/llama", "default").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_say_what_became_of_an_object() {
    let mut system = start(on_a_cluster(2)).await;
    wait_condition(&mut system, "modelroute/llama", "Programmed", "True Programmed").await;
    wait_condition(&mut system, "modelserver/llama", "Programmed", "True Programmed").await;
    wait_condition(&mut system, "modelserver/llama", "ResolvedRefs", "True ResolvedRefs").await;
    let server = llama_server(&mut system).await;
    assert_eq!(server["status"]["endpoints"], json!({"selected": 2, "ready": 2}));
    assert_eq!(server["status"]["observedGeneration"], server["metadata"]["generation"]);

    kubectl_shows_and_explains(&mut system).await;

    // A pod that is not ready is counted, and the last that goes is told of.
    let cluster = system.kubernetes().unwrap();
    cluster.set_pod_ready("default", "llama-0", false).await.unwrap();
    cluster.set_pod_ready("default", "llama-1", false).await.unwrap();
    wait_condition(&mut system, "modelserver/llama", "ResolvedRefs", "False NoEndpoints").await;
    let server = llama_server(&mut system).await;
    assert_eq!(server["status"]["endpoints"], json!({"selected": 2, "ready": 0}));

    // A target that is not there.
    let cluster = system.kubernetes().unwrap();
    cluster.apply(&[model_route("lost", "lost", "nowhere")]).await.unwrap();
    wait_condition(&mut system, "modelroute/lost", "ResolvedRefs", "False BackendNotFound").await;
    let told = system
        .kubernetes()
        .unwrap()
        .kubectl(&["describe", "modelroute/lost"], "")
        .await
        .unwrap();
    assert!(told.contains("there is no ModelServer default/nowhere"), "{told}");
    wait_until("an event", PATIENCE, async || {
        let cluster = system.kubernetes().unwrap();
        let events = cluster.kubectl(&["events", "--for=modelroute/lost"], "").await.unwrap();
        events.contains("Warning") && events.contains("BackendNotFound")
    })
    .await
    .unwrap();

    // What is not served yet says so.
    let provider = json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ExternalModelProvider",
        "metadata": {"namespace": "default", "name": "far"},
        "spec": {"providerType": "OpenAI", "baseURL": "https://api.example.com/v1"},
    });
    system.kubernetes().unwrap().apply(&[provider]).await.unwrap();
    wait_condition(
        &mut system,
        "externalmodelprovider/far",
        "Accepted",
        "False NotServedYet",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_nothing_is_written_and_nothing_is_asked() {
    let mut system = start(on_a_cluster(2)).await;
    wait_condition(&mut system, "modelserver/llama", "Programmed", "True Programmed").await;
    wait_condition(&mut system, "modelroute/llama", "Programmed", "True Programmed").await;
    let calls = |system: &mut System| {
        let audit = system.kubernetes().unwrap().audit().unwrap();
        let resource = |entry: &Value| entry["objectRef"]["resource"].as_str().unwrap_or_default().to_owned();
        let others: Vec<_> = audit
            .iter()
            .filter(|entry| resource(entry) != "leases")
            .cloned()
            .collect();
        (audit.len() - others.len(), others)
    };
    let (leases, before) = calls(&mut system);
    // As long as it takes to look at the Lease three times.
    wait_until("the Lease to be renewed", PATIENCE, async || {
        calls(&mut system).0 >= leases + 6
    })
    .await
    .unwrap();
    let (_, after) = calls(&mut system);
    let news: Vec<_> = after[before.len()..]
        .iter()
        .filter(|entry| entry["verb"] != "watch")
        .map(|entry| format!("{} {}", entry["verb"], entry["requestURI"]))
        .collect();
    assert!(news.is_empty(), "{news:?}");
    let refused: Vec<_> = after
        .iter()
        .filter(|entry| entry["responseStatus"]["code"] == 403)
        .collect();
    assert!(refused.is_empty(), "a right is missing: {refused:?}");

    // A change that no status speaks of is not written: a pod in its place makes the same counts.
    let writes = |system: &mut System| {
        let (_, others) = calls(system);
        others.iter().filter(|entry| entry["verb"] == "patch").count()
    };
    let before = writes(&mut system);
    let ip = system.fleet().addresses("llama")[0];
    let cluster = system.kubernetes().unwrap();
    cluster.remove_pod("default", "llama-0").await.unwrap();
    cluster.run_pod(&PodSpec::new("llama-0", "llama", ip)).await.unwrap();
    wait_known(&system, &system.fleet().addresses("llama")).await;
    assert!(
        writes(&mut system) <= before + 3,
        "one for each count on the way, at most"
    );
}
