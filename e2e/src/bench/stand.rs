//! What is measured: one fleet, and a chain of Envoy and processor for every configuration, all up at the same time.
//!
//! All Envoys are started from `docs/envoy.yaml` or `docs/envoy-wasm.yaml` and read the same cluster and endpoint files, which the controller writes. They differ
//! in the processor, and the bare one has none: no ext_proc, no metadata filters, no access-log service, a static route. What must
//! always hold: every chain has answered a request before it is measured, and the prefix index of `kthena-ext-proc` is full.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::load::{self, Length, Load};
use super::sink::Sink;
use super::traffic::{ALIAS, Expected, MODEL, Shape, Traffic};
use crate::envoy::{self, Envoy, place};
use crate::ports::Reserved;
use crate::process::{Launch, Process, wait_until};
use crate::system::binaries::{binary, wasm_module};
use crate::system::fleet::Group;
use crate::system::manifests::model_route;
use crate::system::{Options, System};

/// Name of the ModelServer.
const GROUP: &str = "bench";

/// A chain answers within this time of its start, or something is wrong.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The index is full within this time, or its bound is too large for a benchmark.
const FULL_WITHIN: Duration = Duration::from_secs(120);

/// Requests that fill the index, and how many are sent before looking again.
const FILLING: Shape = Shape {
    bytes: 64_000,
    tokens: 1,
    stream: false,
};
const FILLED_BY: u64 = 400;

/// How requests go to the model servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Config {
    /// Envoy alone.
    Bare,
    /// Envoy and a processor that decides nothing.
    Noop,
    /// The same, sending every body back as a rewritten model name makes necessary.
    NoopEcho,
    /// Envoy and kthena-ext-proc.
    ExtProc,
    /// Envoy with a wasm filter that reads bodies and decides nothing.
    WasmNoop,
    /// Envoy with our wasm filter.
    Wasm,
}

impl Config {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Bare,
        Self::Noop,
        Self::NoopEcho,
        Self::ExtProc,
        Self::WasmNoop,
        Self::Wasm,
    ];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Noop => "noop",
            Self::NoopEcho => "noop-echo",
            Self::ExtProc => "ext-proc",
            Self::WasmNoop => "wasm-noop",
            Self::Wasm => "wasm",
        }
    }

    /// The model's name that its clients use: only we know the alias.
    #[must_use]
    pub fn model(self) -> &'static str {
        match self {
            Self::ExtProc | Self::Wasm => ALIAS,
            Self::Bare | Self::Noop | Self::NoopEcho | Self::WasmNoop => MODEL,
        }
    }
}

/// What a stand is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The chains beside that of kthena-ext-proc.
    pub beside: Vec<Config>,
    /// Model servers.
    pub endpoints: u8,
    /// Profile of the model servers and changes to it.
    pub figures: String,
    /// Bound of the prefix index, bytes.
    pub index_bytes: u64,
    /// Worker threads of each Envoy.
    pub workers: u32,
}

/// One Envoy with its processor.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Which.
    pub config: Config,
    /// Where clients connect.
    pub address: SocketAddr,
    /// The process id of Envoy.
    pub envoy: u32,
    /// The process id of the processor, if there is one.
    pub processor: Option<u32>,
}

/// Everything that is measured, running. Dropping it ends all of it.
#[derive(Debug)]
pub struct Stand {
    chains: Vec<Chain>,
    // Fields are dropped in this order: who asks goes before who answers.
    _envoys: Vec<Envoy>,
    _noops: Vec<Process>,
    system: System,
    sink: Sink,
    index_bytes: u64,
    _ports: Vec<Reserved>,
}

impl Stand {
    /// Starts everything, waits until each chain answers, and fills the index.
    ///
    /// # Errors
    /// When a program is missing, or a part is not ready in time.
    pub async fn start(plan: &Plan) -> Result<Self> {
        let sink = Sink::start().await?;
        let mut system = System::start(options(plan, &sink)).await?;
        let mut stand = Self {
            chains: vec![own_chain(&mut system)?],
            _envoys: Vec::new(),
            _noops: Vec::new(),
            system,
            sink,
            index_bytes: plan.index_bytes,
            _ports: Vec::new(),
        };
        for config in &plan.beside {
            stand.add(*config, plan.workers).await?;
        }
        stand.chains.sort_by_key(|chain| chain.config);
        for chain in &stand.chains {
            wait_until(
                &format!("an answer of {}", chain.config.name()),
                READY_WITHIN,
                async || stand.answers(chain).await,
            )
            .await?;
        }
        stand.fill_index().await?;
        Ok(stand)
    }

    /// All chains, each configuration once.
    #[must_use]
    pub fn chains(&self) -> &[Chain] {
        &self.chains
    }

    /// The chain of kthena-ext-proc.
    ///
    /// # Errors
    /// Never: every stand has one.
    pub fn own(&self) -> Result<Chain> {
        let own = self.chains.iter().find(|chain| chain.config == Config::ExtProc);
        own.copied().context("a stand has a chain of kthena-ext-proc")
    }

    /// Bytes of traces that have been received.
    #[must_use]
    pub fn traces(&self) -> u64 {
        self.sink.received()
    }

    /// The sum of a metric of kthena-ext-proc over those label sets that contain a text, such as `token_type="output"`.
    ///
    /// # Errors
    /// When the metrics are not served.
    pub async fn metric(&mut self, name: &str, labelled: &str) -> Result<f64> {
        let page = self.system.ext_proc(0)?.page("/metrics").await?;
        Ok(sum(&page, name, labelled))
    }

    /// The same of what filters have told the controller.
    ///
    /// # Errors
    /// When the metrics are not served.
    pub async fn told(&mut self, name: &str, labelled: &str) -> Result<f64> {
        let page = self.system.controller().page("/metrics").await?;
        Ok(sum(&page, name, labelled))
    }

    /// The whole system around kthena-ext-proc.
    pub fn system(&mut self) -> &mut System {
        &mut self.system
    }

    async fn add(&mut self, config: Config, workers: u32) -> Result<()> {
        let reserved = || Reserved::loopback().context("no free port on 127.0.0.1");
        let ports = [reserved()?, reserved()?, reserved()?];
        let folder = self.system.folder().join(config.name());
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let cluster = self.system.cluster(GROUP);
        let mut processor = None;
        if matches!(config, Config::Noop | Config::NoopEcho) {
            let noop = start_noop(config, ports[2].address(), &cluster, &folder)?;
            processor = Some(noop.id());
            self._noops.push(noop);
        }
        let settings = envoy::Settings {
            folder,
            listen: ports[0].address(),
            admin: ports[1].address(),
            processors: vec![ports[2].address()],
            wasm: self.wasm(config, &cluster)?,
            clusters: self.system.envoy()?.settings().clusters.clone(),
            workers,
        };
        let mut configuration = settings.bootstrap()?;
        if config == Config::Bare {
            strip(&mut configuration, &cluster)?;
        }
        let envoy = Envoy::start(settings, &configuration).await?;
        self.chains.push(Chain {
            config,
            address: envoy.address(),
            envoy: envoy.id(),
            processor,
        });
        self._envoys.push(envoy);
        self._ports.extend(ports);
        Ok(())
    }

    /// The module that decides, where one does. Ours learns what kthena-ext-proc placed, so both indexes are full of the same.
    fn wasm(&self, config: Config, cluster: &str) -> Result<Option<envoy::Wasm>> {
        let (module, configuration) = match config {
            Config::WasmNoop => ("kthena_noop_filter", json!(cluster)),
            Config::Wasm => ("kthena_wasm_filter", json!({"prefix_index_bytes": self.index_bytes})),
            Config::Bare | Config::Noop | Config::NoopEcho | Config::ExtProc => return Ok(None),
        };
        Ok(Some(envoy::Wasm {
            module: wasm_module(module)?,
            controllers: vec![self.system.state_address()],
            configuration,
        }))
    }

    async fn answers(&self, chain: &Chain) -> bool {
        let sent = load::send(filling(chain, 4, 1)).await;
        sent.is_ok_and(|outcome| outcome.errors == 0)
    }

    /// Sends prompts until old beginnings have to give way to new ones.
    async fn fill_index(&mut self) -> Result<()> {
        let chain = self.own()?;
        let deadline = Instant::now() + FULL_WITHIN;
        while self.metric("kthena_router_prefix_cache_evictions_total", "").await? == 0.0 {
            if Instant::now() > deadline {
                bail!("the prefix index is not full after {FULL_WITHIN:?}: give it less with --index-bytes");
            }
            load::send(filling(&chain, FILLED_BY, 16)).await?.all_good()?;
        }
        Ok(())
    }
}

/// The sum of a metric over those label sets that contain a text.
fn sum(page: &str, name: &str, labelled: &str) -> f64 {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name));
    let lines = lines.filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(labelled));
    lines
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn filling(chain: &Chain, requests: u64, connections: usize) -> Load {
    Load {
        to: chain.address,
        traffic: Arc::new(Traffic::new(FILLING, chain.config.model(), Expected::Answer)),
        connections,
        length: Length::Requests(requests),
    }
}

fn options(plan: &Plan, sink: &Sink) -> Options {
    let mut group = Group::instant(GROUP, MODEL, plan.endpoints);
    group.figures.clone_from(&plan.figures);
    Options {
        groups: vec![group],
        routes: vec![model_route(GROUP, ALIAS, GROUP)],
        ext_procs: 1,
        ext_proc_flags: vec![
            format!("--prefix-index-bytes={}", plan.index_bytes),
            format!("--otlp-endpoint={}", sink.url()),
            "--trace-share=0.01".to_owned(),
        ],
        workers: plan.workers,
        ..Options::default()
    }
}

fn own_chain(system: &mut System) -> Result<Chain> {
    let processor = system.ext_proc(0)?.process().map(|process| process.id());
    Ok(Chain {
        config: Config::ExtProc,
        address: system.address(),
        envoy: system.envoy()?.id(),
        processor,
    })
}

fn start_noop(config: Config, listen: SocketAddr, cluster: &str, folder: &Path) -> Result<Process> {
    let mut args = vec![format!("--listen={listen}"), format!("--cluster={cluster}")];
    if config == Config::NoopEcho {
        args.push("--returns-body".to_owned());
    }
    Process::start(Launch {
        name: config.name().to_owned(),
        program: binary("kthena-noop")?,
        args: args.into_iter().map(Into::into).collect(),
        env: Vec::new(),
        log: folder.join("noop.log"),
    })
}

/// Makes of the reference configuration that of an Envoy which only forwards to one cluster.
pub(super) fn strip(configuration: &mut Value, cluster: &str) -> Result<()> {
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let filters = place(configuration, &format!("{manager}/http_filters"))?;
    if let Some(filters) = filters.as_array_mut() {
        filters.retain(|filter| filter["name"] == "envoy.filters.http.router");
    }
    let logs = place(configuration, &format!("{manager}/access_log"))?;
    if let Some(logs) = logs.as_array_mut() {
        logs.retain(|log| log["name"] == "envoy.access_loggers.file");
    }
    // Clusters come as files, later than the route that names one.
    place(configuration, &format!("{manager}/route_config"))?["validate_clusters"] = json!(false);
    let routes = place(configuration, &format!("{manager}/route_config/virtual_hosts/0/routes"))?;
    let mut retries = routes[0]["route"]["retry_policy"].take();
    if retries.is_null() {
        retries = json!({});
    }
    *routes = json!([{
        "match": {"prefix": "/"},
        "route": {"cluster": cluster, "timeout": "0s", "retry_policy": retries},
    }]);
    *place(configuration, "/static_resources/clusters")? = json!([]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_envoy_asks_nobody() {
        let at = "127.0.0.1:1".parse().unwrap();
        let settings = envoy::Settings {
            folder: "/tmp/x".into(),
            listen: at,
            admin: at,
            processors: vec![at],
            wasm: None,
            clusters: "/tmp/x".into(),
            workers: 1,
        };
        let mut configuration = settings.bootstrap().unwrap();
        strip(&mut configuration, "one-cluster").unwrap();
        let text = configuration.to_string();
        for gone in ["ext_proc", "ext-proc", "_to_metadata", "http_grpc", "cluster_header"] {
            let at = text.find(gone).map(|at| &text[at.saturating_sub(60)..at + 20]);
            // Messages of local replies name the code details of ext_proc.
            let told = at.is_none_or(|around| around.contains("code_details"));
            assert!(told, "{gone}: {at:?}");
        }
        assert!(text.contains(r#""cluster":"one-cluster""#) && text.contains("envoy.access_loggers.file"));
    }
}
