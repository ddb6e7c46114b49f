//! The documents are true: Envoy accepts them, and they say the same thing twice where they say it twice.

use kthena_e2e::client::Client;
use kthena_e2e::clusters::{self, Cluster};
use kthena_e2e::envoy::{self, DOCUMENT};
use kthena_e2e::noop::Decision;
use kthena_e2e::scratch::Scratch;
use kthena_ext_proc::envoy_check;
use serde_json::Value;

use crate::rig::{LLAMA, QWEN, Rig, named, route, who};

const CLUSTERS: &str = include_str!("../fixtures/envoy/cds.json");
const ENDPOINTS: &str = include_str!("../fixtures/envoy/eds/default.llama.8000.json");
const SECURE_ENDPOINTS: &str = include_str!("../fixtures/envoy/eds/default.secure.8443.json");
const IN_THE_DOCUMENT: &str = "/var/lib/kthena/envoy";

#[test]
fn envoy_accepts_the_reference_configuration_with_the_files_that_the_controller_writes() {
    let scratch = Scratch::new("accepts").unwrap();
    let folder = scratch.path().to_str().unwrap();
    let here = |text: &str| text.replace(IN_THE_DOCUMENT, folder);
    std::fs::create_dir(scratch.path().join("eds")).unwrap();
    std::fs::write(scratch.path().join("cds.json"), here(CLUSTERS)).unwrap();
    std::fs::write(scratch.path().join("eds/default.llama.8000.json"), ENDPOINTS).unwrap();
    std::fs::write(scratch.path().join("eds/default.secure.8443.json"), SECURE_ENDPOINTS).unwrap();
    let mut configuration: Value = serde_saphyr::from_str(&here(DOCUMENT)).unwrap();
    envoy::validate(scratch.path(), &configuration).unwrap();

    *envoy::place(&mut configuration, "/static_resources/listeners/0/name").unwrap() = Value::Bool(true);
    let error = envoy::validate(scratch.path(), &configuration).unwrap_err().to_string();
    assert!(error.contains("refuses the configuration"), "{error}");
}

#[test]
fn the_cluster_that_the_document_explains_is_the_one_in_the_fixtures() {
    let commented = |from: &str, to: Option<&str>| -> Value {
        let start = DOCUMENT.split_once(from).unwrap().1;
        let block = to.map_or(start, |to| start.split_once(to).unwrap().0);
        let yaml: Vec<&str> = block
            .lines()
            .map(|line| line.strip_prefix("# ").unwrap_or_default())
            .collect();
        serde_saphyr::from_str(&yaml.join("\n")).unwrap()
    };
    let fixtures: Value = serde_json::from_str(CLUSTERS).unwrap();
    let mut explained = commented("# --- cluster\n", Some("# --- endpoints\n"));
    let tls = explained.as_object_mut().unwrap().remove("transport_socket").unwrap();
    assert_eq!(explained, fixtures["resources"][0]);
    assert_eq!(tls, fixtures["resources"][1]["transport_socket"]);

    let endpoints: Value = serde_json::from_str(ENDPOINTS).unwrap();
    assert_eq!(commented("# --- endpoints\n", None), endpoints["resources"][0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_of_a_running_envoy_finds_nothing_in_the_reference_configuration_and_a_change_to_it() {
    let pod = named("pod").await;
    let clusters = [Cluster::new(LLAMA, [pod.address()])];
    let rig = Rig::start(&clusters, Decision::default()).await;
    assert_eq!(envoy_check::check(&rig.envoy.config_dump().await.unwrap()), []);

    let changed = Rig::start_changed(&clusters, Decision::default(), |configuration| {
        let listener = envoy::place(configuration, "/static_resources/listeners/0").unwrap();
        listener["filter_chains"][0]["filters"][0]["typed_config"]["stream_idle_timeout"] = "30s".into();
    })
    .await;
    let findings = envoy_check::check(&changed.envoy.config_dump().await.unwrap());
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].setting, "listener llm, stream_idle_timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_and_endpoints_come_and_go_with_their_files() {
    let (first, second) = (named("first").await, named("second").await);
    let rig = Rig::start(&[Cluster::new(LLAMA, [first.address()])], route(LLAMA, &[])).await;
    assert_eq!(who(&rig.chat().await), "first");

    let both = [
        Cluster::new(LLAMA, [second.address()]),
        Cluster::new(QWEN, [first.address(), second.address()]),
    ];
    clusters::write(rig.scratch.path(), &both).unwrap();
    rig.wait_for(QWEN, "membership_total", 2).await;
    rig.noop.decide(route(LLAMA, &[second.address()]));
    assert_eq!(who(&rig.chat().await), "second");

    clusters::write(rig.scratch.path(), &both[1..]).unwrap();
    rig.noop.decide(route(QWEN, &[first.address()]));
    assert_eq!(who(&rig.chat().await), "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_clients_are_served_on_the_same_port() {
    let pod = named("pod").await;
    let mut rig = Rig::start(&[Cluster::new(LLAMA, [pod.address()])], route(LLAMA, &[pod.address()])).await;
    rig.client = Client::http2(rig.envoy.address());
    assert_eq!(who(&rig.chat().await), "pod");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_made_when_absent_kept_when_given_passed_on_and_returned() {
    let pod = named("pod").await;
    let rig = Rig::start(&[Cluster::new(LLAMA, [pod.address()])], route(LLAMA, &[pod.address()])).await;
    let made = rig.chat().await.header("x-request-id");
    assert_eq!(made.len(), 36, "{made}");
    assert_eq!(pod.take_seen()[0].headers["x-request-id"], made.as_str());

    // A UUID, as Envoy would mark such an id with its trace decision if it were let.
    let given = "9f1c2d3e-4a5b-4c6d-8e7f-001122334455";
    rig.noop.decide(Decision {
        reply: Some((429, "{}".to_owned())),
        ..Decision::default()
    });
    let ask = kthena_e2e::client::Ask::post("/v1/completions", "{}").header("x-request-id", given);
    assert_eq!(rig.client.send(ask).await.unwrap().header("x-request-id"), given);
}
