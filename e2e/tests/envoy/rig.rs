//! An Envoy with two no-op processors, and scripted model servers behind it.

use std::net::SocketAddr;
use std::time::Duration;

use kthena_e2e::client::{Answer, Ask, Client};
use kthena_e2e::clusters::{self, Cluster};
use kthena_e2e::envoy::{Envoy, Settings};
use kthena_e2e::noop::{Decision, Noop};
use kthena_e2e::ports::Reserved;
use kthena_e2e::process::wait_until;
use kthena_e2e::scratch::Scratch;
use kthena_e2e::scripted::{Behaviour, Scripted};
use serde_json::Value;
use tokio::net::TcpListener;

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const LLAMA: &str = "model-server/default/llama/8000";
pub(crate) const QWEN: &str = "model-server/default/qwen/8000";

/// Patience for what takes milliseconds, on a machine that does much else.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Rig {
    pub(crate) envoy: Envoy,
    pub(crate) noop: Noop,
    pub(crate) client: Client,
    pub(crate) scratch: Scratch,
    _ports: Vec<Reserved>,
}

impl Rig {
    pub(crate) async fn start(clusters: &[Cluster], decision: Decision) -> Self {
        Self::start_changed(clusters, decision, |_| ()).await
    }

    /// Starts with a change to the reference configuration.
    pub(crate) async fn start_changed(
        clusters: &[Cluster],
        decision: Decision,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let noop = Noop::new(decision);
        let mut processors = Vec::new();
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            processors.push(listener.local_addr().unwrap());
            tokio::spawn(noop.clone().serve(listener));
        }
        Self::start_with_processors(clusters, noop, processors, change).await
    }

    pub(crate) async fn start_with_processors(
        clusters: &[Cluster],
        noop: Noop,
        processors: Vec<SocketAddr>,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let scratch = Scratch::new("envoy").unwrap();
        clusters::write(scratch.path(), clusters).unwrap();
        let ports = vec![Reserved::loopback().unwrap(), Reserved::loopback().unwrap()];
        let settings = Settings {
            folder: scratch.path().to_owned(),
            listen: ports[0].address(),
            admin: ports[1].address(),
            processors,
            wasm: None,
            clusters: scratch.path().to_owned(),
            workers: 2,
        };
        let mut configuration = settings.bootstrap().unwrap();
        change(&mut configuration);
        let envoy = Envoy::start(settings, &configuration).await.unwrap();
        let rig = Self {
            client: Client::http1(envoy.address()),
            envoy,
            noop,
            scratch,
            _ports: ports,
        };
        rig.wait_for("kthena-ext-proc", "membership_healthy", 2).await;
        rig
    }

    /// Waits until a gauge of an Envoy cluster has this value.
    pub(crate) async fn wait_for(&self, cluster: &str, gauge: &str, value: u64) {
        let name = format!("cluster.{cluster}.{gauge}");
        wait_until(&format!("{name} = {value}"), SOON, async || {
            self.envoy
                .stats(&name)
                .await
                .is_ok_and(|stats| stats.get(&name) == Some(&value))
        })
        .await
        .unwrap();
    }

    pub(crate) async fn chat(&self) -> Answer {
        self.client.send(Ask::post(CHAT, "{}")).await.unwrap()
    }

    /// The access-log line of a request; Envoy writes lines after the answer.
    pub(crate) async fn log_line(&self, request_id: &str) -> Value {
        let mut found = None;
        wait_until(&format!("the access-log line of {request_id}"), SOON, async || {
            let lines = self.envoy.access_log().await.unwrap_or_default();
            found = lines.into_iter().find(|line| line["request_id"] == request_id);
            found.is_some()
        })
        .await
        .unwrap();
        found.unwrap()
    }
}

/// Routes to a cluster, to these endpoints in order.
pub(crate) fn route(cluster: &str, endpoints: &[SocketAddr]) -> Decision {
    Decision {
        cluster: Some(cluster.to_owned()),
        endpoints: endpoints.to_vec(),
        ends_stream: true,
        ..Decision::default()
    }
}

/// A model server that answers 200 and says who it is.
pub(crate) async fn named(name: &str) -> Scripted {
    Scripted::start(Behaviour::Answer(200, format!("{{\"id\":\"{name}\"}}")))
        .await
        .unwrap()
}

/// The name that the answering model server gave.
pub(crate) fn who(answer: &Answer) -> String {
    answer.json().unwrap()["id"].as_str().unwrap_or_default().to_owned()
}
