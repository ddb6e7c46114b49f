//! Part of the corpus through two real Envoys: one asks an ext_proc server, one has the wasm filter.
//!
//! Each has a controller of its own, so that neither learns from what the other did, and both have the same fleet: the same addresses, the same
//! starts of the same engines. Loads stand still, requests come one after the other, each to one Envoy and then to the other.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use kthena_e2e::client::{Answer, Ask, Client};
use kthena_e2e::envoy::place;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::story::log_line;
use kthena_e2e::system::{Change, Filter, Options, Part, System};
use kthena_simulator::Fault;
use serde_json::{Value, json};

use crate::corpus::{self, Entry};
use crate::picture::Picture;
use crate::sense::arrives;
use crate::{CHAT, SOON, send};

/// Whose requests go through Envoys.
const PICTURE: &str = "everyday";

/// How many of them.
const REQUESTS: usize = 50;

/// What became of a request, as far as it can be seen from outside.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u16,
    /// Type, `retry-after` and body, where no model server answered.
    answer: Option<(String, String, String)>,
    explanation: String,
    served: String,
    /// What arrived at the model server: path, headers, body.
    arrived: Option<(String, BTreeMap<String, String>, Vec<u8>)>,
}

/// What the access log says of a decision.
const LOGGED: [&str; 7] = [
    "status_code",
    "cluster",
    "destinations",
    "model_name",
    "model_route",
    "model_server",
    "selected_pod",
];

fn options(routes: Vec<Value>) -> Options {
    Options {
        routes,
        ext_procs: 1,
        // One worker, as each has an index of its own.
        workers: 1,
        // A sample is believed entirely for two seconds: these are never so old.
        controller_flags: vec!["--scrape-interval=200ms".to_owned()],
        change_envoy: Change::new(|configuration| {
            let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
            let keys = format!("{manager}/access_log/0/typed_config/log_format/json_format");
            let keys = place(configuration, &keys).unwrap();
            keys["destinations"] = json!("%DYNAMIC_METADATA(envoy.lb:x-gateway-destination-endpoint)%");
            keys["cluster"] = json!("%UPSTREAM_CLUSTER_RAW%");
        }),
        ..Options::default()
    }
}

/// The model servers of the picture.
fn groups(picture: &Picture) -> Vec<Group> {
    let of_kind = |kind: &'static str| picture.objects.iter().filter(move |object| object["kind"] == kind);
    let group = |server: &Value| {
        let name = server["metadata"]["name"].as_str().unwrap();
        let pods = of_kind("Pod")
            .filter(|pod| pod["metadata"]["labels"]["app"] == name)
            .count();
        // An engine whose ModelServer does not say serves what its clients ask for.
        let model = server["spec"]["model"].as_str().unwrap_or("embedder");
        let adapters = if name == "code" {
            vec!["sql-lora".to_owned(), "org/rust-lora".to_owned()]
        } else {
            Vec::new()
        };
        Group {
            adapters,
            figures: "profile=test-nodelay,step_ms=1,answer_tokens=2".to_owned(),
            ..Group::instant(name, model, u8::try_from(pods).unwrap())
        }
    };
    of_kind("ModelServer").map(group).collect()
}

/// The same fleet behind an ext_proc server and behind the wasm filter.
async fn start() -> [System; 2] {
    let picture = Picture::read(PICTURE);
    let routes: Vec<Value> = picture
        .objects
        .iter()
        .filter(|object| object["kind"] == "ModelRoute")
        .cloned()
        .collect();
    let asking = Options {
        groups: groups(&picture),
        ..options(routes.clone())
    };
    let asking = kthena_e2e::system::story::start(asking).await;
    let groups = asking.fleet().groups();
    let deciding = Options {
        further: groups
            .iter()
            .flat_map(|group| asking.fleet().manifests(&group.name))
            .collect(),
        filter: Filter::Wasm(json!({"explain": true})),
        ..options(routes)
    };
    let deciding = kthena_e2e::system::story::start(deciding).await;
    for group in groups {
        let endpoints = u64::from(group.endpoints);
        deciding
            .wait_for_cluster(&asking.cluster(&group.name), "membership_total", endpoints)
            .await
            .unwrap();
    }
    [asking, deciding]
}

/// Makes some model servers say for ever that they are busy.
async fn freeze_loads(fleet: &System) {
    let port = fleet.fleet().port();
    let chat = fleet.fleet().addresses("chat");
    let body =
        json!({"model": "meta-llama/Llama-3.1-8B-Instruct", "prompt": "go on", "max_tokens": 4000, "ignore_eos": true});
    let mut busy = tokio::task::JoinSet::new();
    for (address, requests) in [(chat[1], 3), (chat[2], 1)] {
        for _ in 0..requests {
            let ask = Ask {
                within: Duration::from_secs(120),
                ..Ask::post("/v1/completions", body.to_string())
            };
            busy.spawn(async move { Client::http1((address, port).into()).send(ask).await });
        }
    }
    wait_until("four busy requests", SOON, async || {
        let endpoints = fleet.fleet().endpoints().await.unwrap();
        endpoints.iter().map(|endpoint| endpoint.running).sum::<u64>() == 4
    })
    .await
    .unwrap();
    fleet.fleet().inflict(&Fault::FrozenMetrics, &[]).await.unwrap();
    busy.shutdown().await;
}

/// Waits until both know the frozen loads, and nothing of before.
async fn wait_loads(systems: &[System; 2]) {
    for system in systems {
        // What is asked here leaves a trace that no request of the corpus finds: none has this prompt.
        wait_until("the frozen loads", SOON, async || {
            let body = r#"{"model":"assistant","messages":[{"role":"user","content":"Who is busy?"}]}"#;
            let answer = send(
                system,
                Ask::post(CHAT, body)
                    .header("x-kthena-explain", "1")
                    .header("x-request-id", "probe"),
            )
            .await;
            let why: Value = serde_json::from_str(&answer.header("x-kthena-explanation")).unwrap_or_default();
            let top = why["top"].as_array().map(Vec::as_slice).unwrap_or_default();
            let points = |pod: &str| {
                let entry = top.iter().find(|entry| entry["pod"] == format!("default/{pod}"));
                entry.and_then(|entry| entry["scores"]["least-request"][0].as_f64())
            };
            let found: Option<Vec<f64>> = ["chat-0", "chat-1", "chat-2", "chat-3"]
                .into_iter()
                .map(points)
                .collect();
            found.is_some_and(|found| found[0] == found[3] && found[0] > found[2] && found[2] > found[1])
        })
        .await
        .unwrap();
    }
}

/// Waits until nothing is in flight, as the next decision would see it.
async fn wait_idle(asking: &System) {
    wait_until("nothing in flight", SOON, async || {
        let page = asking
            .debug(Part::ExtProc(0), "/debug/config_dump/pods")
            .await
            .unwrap_or_default();
        let page: Value = serde_json::from_str(&page).unwrap_or_default();
        let idle = |pod: &Value| pod["inFlight"].as_f64() == Some(0.0);
        page["pods"]
            .as_array()
            .is_some_and(|pods| !pods.is_empty() && pods.iter().all(idle))
    })
    .await
    .unwrap();
}

/// A request of the corpus as an HTTP client sends it; `None` for those that are about how a host tells of them.
fn ask(entry: &Entry) -> Option<Ask> {
    let request = &entry.request;
    let body = request.body.bytes();
    let length = request.headers.get("content-length");
    let has_id = request.headers.contains_key("x-request-id");
    if !has_id || length.is_some_and(|length| *length != body.len().to_string()) {
        return None;
    }
    let headers = request.headers.iter().filter(|(name, _)| *name != "content-length");
    let mut headers: Vec<_> = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
    headers.push(("host".to_owned(), request.host.clone()));
    if !request.headers.contains_key("x-kthena-explain") {
        headers.push(("x-kthena-explain".to_owned(), "1".to_owned()));
    }
    Some(Ask {
        method: Method::from_bytes(request.method.as_bytes()).unwrap(),
        path: request.path.clone(),
        headers,
        body: body.into(),
        within: SOON,
    })
}

/// Fifty requests, spread over the picture in its order, with all that an HTTP client can send of them.
fn chosen() -> Vec<(Entry, Ask)> {
    let all: Vec<_> = corpus::read(PICTURE)
        .into_iter()
        .filter_map(|entry| ask(&entry).map(|ask| (entry, ask)))
        .collect();
    let step = all.len() as f64 / REQUESTS as f64;
    let wanted: Vec<usize> = (0..REQUESTS).map(|n| (n as f64 * step) as usize).collect();
    let numbered = all.into_iter().enumerate();
    numbered
        .filter(|(at, _)| wanted.contains(at))
        .map(|(_, chosen)| chosen)
        .collect()
}

/// Sends a request through an Envoy, and sees what became of it.
async fn look(through: &System, fleet: &System, ask: &Ask) -> Seen {
    let last = fleet
        .fleet()
        .received(0)
        .await
        .unwrap()
        .last()
        .map_or(0, |received| received.number);
    let answer = send(through, ask.clone()).await;
    let received = fleet.fleet().received(last).await.unwrap();
    assert!(received.len() <= 1, "one try each: {received:?}");
    let arrived = match received.into_iter().next() {
        None => None,
        Some(received) => {
            let body = fleet.fleet().body(received.number).await.unwrap().to_vec();
            let headers = received.headers.into_iter().collect();
            Some((received.path, headers, body))
        }
    };
    let is_local = arrived.is_none();
    Seen {
        status: answer.status.as_u16(),
        answer: is_local.then(|| {
            (
                answer.header("content-type"),
                answer.header("retry-after"),
                answer.text(),
            )
        }),
        explanation: answer.header("x-kthena-explanation"),
        served: served(&answer),
        arrived,
    }
}

fn served(answer: &Answer) -> String {
    answer.header("x-simulator-endpoint")
}

/// What the corpus says as well: status, words of our own, and bytes.
fn assert_as_in_the_corpus(entry: &Entry, seen: &Seen) {
    let (name, got) = (&entry.request.name, entry.got());
    let status = got["status"].as_u64().unwrap();
    if status >= 400 || got["answer"].is_object() {
        let body: Value = serde_json::from_str(&seen.answer.as_ref().unwrap().2).unwrap();
        assert_eq!((u64::from(seen.status), &body), (status, &got["answer"]), "{name}");
    }
    if got["cluster"].is_string() {
        let (_, _, body) = seen.arrived.as_ref().unwrap_or_else(|| panic!("{name}: {seen:?}"));
        assert_eq!(*body, arrives(entry, &got), "{name}");
    }
    if status == 0 {
        assert_eq!(seen.status, 404, "{name}: nothing is served there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_real_envoys_do_the_same_with_fifty_of_them() {
    if crate::is_generating() {
        return;
    }
    let systems = start().await;
    let [asking, deciding] = &systems;
    freeze_loads(asking).await;
    wait_loads(&systems).await;
    let chosen = chosen();
    let mut sent_on = 0;
    for (entry, ask) in &chosen {
        wait_idle(asking).await;
        let one = look(asking, asking, ask).await;
        let other = look(deciding, asking, ask).await;
        assert_eq!(
            one, other,
            "{}: ext_proc on the left, wasm on the right",
            entry.request.name
        );
        assert_as_in_the_corpus(entry, &one);
        sent_on += usize::from(!one.served.is_empty());
    }
    assert!(
        chosen.len() == REQUESTS && sent_on * 10 >= REQUESTS * 6,
        "{sent_on} of {}",
        chosen.len()
    );
    for (entry, _) in &chosen {
        let id = &entry.request.headers["x-request-id"];
        let mut logged = [Vec::new(), Vec::new()];
        for (lines, system) in logged.iter_mut().zip(&systems) {
            let line = log_line(system, id).await;
            lines.extend(LOGGED.map(|key| (key, line[key].clone())));
        }
        assert_eq!(logged[0], logged[1], "{}", entry.request.name);
        if entry.got()["cluster"].is_string() {
            assert!(logged[0].iter().all(|(_, value)| !value.is_null()), "{logged:?}");
        }
    }
}
