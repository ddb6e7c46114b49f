//! Stories of the whole controller: a folder on one side, Envoy's files and a filter on the other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a story's helpers may fail it

mod engine;
mod filter;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use engine::{Engine, metrics};
use filter::{Filter, PATIENCE, eventually};
use kthena_controller::config::Config;
use kthena_controller::publish::Key;
use kthena_controller::serve::serve;
use kthena_scheduler::state::proto::{Endpoint, Endpoints, ResourceType};
use prost::Message;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

struct World {
    folder: PathBuf,
    state: String,
    admin: String,
    debug: String,
    controller: Option<JoinHandle<()>>,
}

const SERVER: &str = "
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {name: llama, namespace: ns}
spec:
  inferenceEngine: vLLM
  workloadSelector: {matchLabels: {app: llama}}
  workloadPort: {port: PORT}
---
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelRoute
metadata: {name: llama, namespace: ns}
spec:
  modelName: llama
  rules:
  - targetModels: [{modelServerName: llama}]
";

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A free port on which engines can listen on several loopback addresses.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl World {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("kthena-whole-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("manifests")).unwrap();
        Self {
            folder,
            state: free_address(),
            admin: free_address(),
            debug: free_address(),
            controller: None,
        }
    }

    async fn start(&mut self, flags: &[&str]) {
        let (manifests, envoy) = (self.folder.join("manifests"), self.folder.join("envoy"));
        let mut all = vec!["kthena-controller", "--folder", manifests.to_str().unwrap()];
        all.extend(["--envoy-dir", envoy.to_str().unwrap(), "--state-listen", &self.state]);
        all.extend(["--admin-listen", &self.admin, "--debug-listen", &self.debug]);
        all.extend(["--scrape-interval", "50ms", "--scrape-timeout", "300ms"]);
        all.extend(flags);
        let config = Config::try_parse_from(all).unwrap();
        self.controller = Some(tokio::spawn(async move {
            serve(&config, std::future::pending()).await.unwrap();
        }));
        let ready = async {
            while !get(&self.admin, "/readyz")
                .await
                .is_some_and(|answer| answer.contains(" 200 "))
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, ready).await.expect("ready in time");
    }

    async fn stop(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.abort();
            let _ = controller.await;
        }
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.join("manifests").join(file), text).unwrap();
    }

    fn pod(&self, host: u8) {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{host}, namespace: ns, uid: uid-{host}, labels: {{app: llama}}}}\n\
             status: {{podIP: 127.0.0.{host}}}\n"
        );
        self.write(&format!("pod-{host}.yaml"), &text);
    }

    fn remove_pod(&self, host: u8) {
        std::fs::remove_file(self.folder.join(format!("manifests/pod-{host}.yaml"))).unwrap();
    }

    /// Whether Envoy's endpoint file names this host.
    fn envoy_knows(&self, port: u16, host: u8) -> bool {
        let path = self.folder.join(format!("envoy/eds/ns.llama.{port}.json"));
        std::fs::read_to_string(path).is_ok_and(|text| text.contains(&format!("\"127.0.0.{host}\"")))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn get(address: &str, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

fn endpoints(filter: &Filter) -> Vec<Endpoint> {
    let body = filter
        .held
        .get(&Key::new(ResourceType::Endpoints, "ns/llama"))
        .map(|held| held.1.clone());
    body.map(|body| Endpoints::decode(body).unwrap().endpoints)
        .unwrap_or_default()
}

async fn engines(port: u16, hosts: &[u8]) -> Vec<Engine> {
    let mut engines = Vec::new();
    for host in hosts {
        engines.push(Engine::start_on(([127, 0, 0, *host], port).into(), None).await);
    }
    engines
}

#[tokio::test]
async fn a_folder_becomes_files_for_envoy_and_state_for_filters() {
    let port = free_port();
    let _engines = engines(port, &[11, 12]).await;
    let mut world = World::new("folder");
    world.write("model.yaml", &SERVER.replace("PORT", &port.to_string()));
    world.pod(11);
    world.start(&[]).await;
    let mut filter = Filter::connect(&world.state, "f", Vec::new()).await;
    filter.until("state", |f| f.synced).await;
    let first = endpoints(&filter);
    assert_eq!(first.len(), 1);
    assert_eq!(
        (first[0].incarnation, first[0].models.len()),
        (5000, 2),
        "it was asked before it was named"
    );
    assert!(world.envoy_knows(port, 11));

    let begun = Instant::now();
    world.pod(12);
    filter.until("the new pod", |f| endpoints(f).len() == 2).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(world.envoy_knows(port, 12), "Envoy knows it before decisions name it");
    assert!(endpoints(&filter).iter().all(|endpoint| endpoint.incarnation == 5000));

    world.write(
        "bad.yaml",
        "apiVersion: networking.serving.volcano.sh/v1alpha1\nkind: ModelRoute\nmetadata: {name: bad}\nspec: 7\n",
    );
    eventually_told(&world, "bad.yaml").await;
    assert_eq!(endpoints(&filter).len(), 2, "a bad document takes nothing else down");
    let status = get(&world.debug, "/debug/status").await.unwrap();
    assert!(status.contains("\"programmed\":true"), "{status}");
    world.stop().await;
}

async fn eventually_told(world: &World, what: &str) {
    let told = async {
        while !get(&world.debug, "/debug/status")
            .await
            .is_some_and(|status| status.contains(what))
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, told).await.expect("told in time");
}

#[tokio::test]
async fn what_an_older_filter_refuses_is_in_the_objects_status_and_in_a_metric() {
    let port = free_port();
    let _engines = engines(port, &[11]).await;
    let mut world = World::new("refused");
    world.write("model.yaml", &SERVER.replace("PORT", &port.to_string()));
    world.pod(11);
    world.start(&[]).await;
    let mut older = Filter::connect(&world.state, "older", Vec::new()).await;
    older.until("state", |f| f.synced).await;
    older.refuses = Some("ns/llama");
    let scheduled = SERVER.replace(
        "spec:\n  inferenceEngine",
        "spec:\n  scheduling: {plugins: {Score: {enabled: [{name: random, weight: 1}]}, Filter: {enabled: []}}}\n  inferenceEngine",
    );
    world.write("model.yaml", &scheduled.replace("PORT", &port.to_string()));
    let profile = Key::new(ResourceType::Profile, "ns/llama");
    older.until("the profile", |f| f.received.contains(&profile)).await;
    eventually_told(&world, "no such plugin").await;
    let status = get(&world.debug, "/debug/status").await.unwrap();
    let (_, page) = status.split_once("\r\n\r\n").unwrap();
    let page: serde_json::Value = serde_json::from_str(page).unwrap();
    let objects = page["objects"].as_array().unwrap();
    let server = objects.iter().find(|object| object["kind"] == "ModelServer").unwrap();
    assert_eq!(server["programmed"], false, "{server}");
    assert_eq!(
        server["filters"]["refused"][0],
        serde_json::json!(["older", "no such plugin"])
    );
    let metrics = get(&world.admin, "/metrics").await.unwrap();
    assert!(
        metrics.contains("kthena_controller_refusals_total{kind=\"PROFILE\"} 1"),
        "{metrics}"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_removed_pod_leaves_envoy_after_the_filters_have_answered() {
    let port = free_port();
    let _engines = engines(port, &[21, 22, 23]).await;
    let mut world = World::new("removed");
    world.write("model.yaml", &SERVER.replace("PORT", &port.to_string()));
    world.pod(21);
    world.pod(22);
    world.start(&["--envoy-removal-timeout", "600s"]).await;
    let mut filter = Filter::connect(&world.state, "f", Vec::new()).await;
    filter.until("state", |f| f.synced && endpoints(f).len() == 2).await;
    world.remove_pod(22);
    // The filter is told, but does not answer yet.
    let removal = async {
        loop {
            let message = filter.down.message().await.unwrap().unwrap();
            if filter::names(&message, ResourceType::Endpoints) {
                return message;
            }
            filter.take(message).await;
        }
    };
    let message = timeout(PATIENCE, removal).await.unwrap();
    // Envoy's files are written meanwhile, and keep it.
    world.pod(23);
    eventually("another pod in Envoy", || world.envoy_knows(port, 23)).await;
    assert!(world.envoy_knows(port, 22), "decisions may still name it");
    filter.take(message).await;
    filter
        .until("both that are left", |f| {
            let pods: BTreeSet<_> = endpoints(f).into_iter().map(|endpoint| endpoint.pod).collect();
            pods == ["ns/p21", "ns/p23"].map(String::from).into()
        })
        .await;
    eventually("it leaves Envoy", || !world.envoy_knows(port, 22)).await;
    assert!(world.envoy_knows(port, 21));
    world.stop().await;
}

#[tokio::test]
async fn a_pod_that_hangs_from_the_start_holds_nothing_up_and_goes_down() {
    let port = free_port();
    let all = engines(port, &[31, 32]).await;
    all[1].answers.lock().hangs = true;
    let mut world = World::new("hangs");
    world.write("model.yaml", &SERVER.replace("PORT", &port.to_string()));
    world.pod(31);
    world.pod(32);
    world.start(&[]).await;
    let mut filter = Filter::connect(&world.state, "f", Vec::new()).await;
    filter.until("both", |f| endpoints(f).len() == 2).await;
    let down = |filter: &Filter| {
        let (_, body) = filter.held.get(&Key::new(ResourceType::Load, "ns/llama"))?;
        let load = kthena_scheduler::state::proto::Load::decode(body.clone()).unwrap();
        Some(load.endpoints.iter().filter(|endpoint| endpoint.down).count())
    };
    filter.until("one is down", |f| down(f) == Some(1)).await;
    all[1].answers.lock().hangs = false;
    filter
        .until("it is up, as what it is", |f| {
            down(f) == Some(0) && endpoints(f).iter().all(|endpoint| endpoint.incarnation == 5000)
        })
        .await;
    world.stop().await;
}

#[tokio::test]
async fn a_restarted_controller_takes_nothing_from_a_filter_that_returns() {
    let port = free_port();
    let all = engines(port, &[41, 42]).await;
    let mut world = World::new("restart");
    world.write("model.yaml", &SERVER.replace("PORT", &port.to_string()));
    world.pod(41);
    world.pod(42);
    world.start(&[]).await;
    let mut filter = Filter::connect(&world.state, "f", Vec::new()).await;
    filter.until("state", |f| f.synced && endpoints(f).len() == 2).await;
    let have = filter.have();
    let before = filter.held.clone();
    drop(filter);
    world.stop().await;
    let files = modified(&world.folder.join("envoy"));

    world.start(&[]).await;
    let mut filter = Filter::connect(&world.state, "f", have).await;
    filter.held = before;
    filter.until("state", |f| f.synced).await;
    let sent: Vec<_> = filter
        .received
        .iter()
        .filter(|key| key.kind != ResourceType::Load)
        .collect();
    assert!(sent.is_empty(), "{sent:?}");
    assert_eq!(
        modified(&world.folder.join("envoy")),
        files,
        "nor are Envoy's files touched"
    );

    let old = endpoints(&filter);
    all[0].answers.lock().metrics = Some(metrics(0, 9));
    filter
        .until("another incarnation", |f| {
            endpoints(f).iter().any(|e| e.incarnation == 9000)
        })
        .await;
    let new = endpoints(&filter);
    let kept = new
        .iter()
        .filter(|endpoint| old.iter().any(|other| other.id == endpoint.id))
        .count();
    assert_eq!((new.len(), kept), (2, 1), "an engine that restarts is another endpoint");
    world.stop().await;
}

/// When each file was last changed.
fn modified(folder: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(modified(&path));
        } else {
            files.push((path.clone(), path.metadata().unwrap().modified().unwrap()));
        }
    }
    files.sort();
    files
}
