//! The whole system on this machine: a simulated fleet, the controller on a folder of YAML (or on a real Kubernetes API server, see
//! [`Options::cluster`]), ext_proc servers and a real Envoy.
//!
//! ```text
//! client -> Envoy -> kthena-ext-proc (two) <- state - kthena-controller <- folder of YAML
//!             |                                          |    |
//!             +--- clusters and endpoints: files --------+    +- /metrics of every model server
//!             +--> kthena-simulator: the model servers
//! ```
//!
//! Every part is the real program, as a child process on ports and in a folder of its own, so that systems run side by side. Each can be
//! killed and started again at the same address. What must always hold: nothing outlives the [`System`], however its process ends; every
//! wait has a deadline; what fails says which part it was and shows the end of its log.
//!
//! ```no_run
//! # async fn story() -> anyhow::Result<()> {
//! use kthena_e2e::client::Ask;
//! use kthena_e2e::system::fleet::Group;
//! use kthena_e2e::system::manifests::model_route;
//! use kthena_e2e::system::{Options, Part, System};
//!
//! let mut system = System::start(Options {
//!     groups: vec![Group::instant("llama", "meta/llama", 4)],
//!     routes: vec![model_route("llama", "llama", "llama")],
//!     ..Options::default()
//! })
//! .await?;
//! system.kill(Part::ExtProc(0))?;
//! let body = r#"{"model":"llama","messages":[{"role":"user","content":"hello"}]}"#;
//! let answer = system.client().send(Ask::post("/v1/chat/completions", body)).await?;
//! system.restart(Part::ExtProc(0)).await?;
//! # Ok(()) }
//! ```

pub mod binaries;
pub mod fleet;
pub mod load;
pub mod manifests;
mod options;
mod program;
mod services;
pub mod story;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::client::{Ask, Client};
use crate::cluster::Cluster;
use crate::cluster::kubelet::PodSpec;
use crate::envoy::{self, Envoy};
use crate::ports::Reserved;
use crate::process::wait_until;
use crate::scratch::Scratch;
use fleet::Fleet;
use manifests::Manifests;
pub use options::{Change, Filter, Options};
pub use program::Program;
use services::{Ports, Service};

/// State reaches every part within this time, or something is wrong.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// The manifest file of the routes.
pub const ROUTES: &str = "routes.yaml";

/// The manifest file of [`Options::further`].
pub const FURTHER: &str = "further.yaml";

/// A part that can be killed and restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All model servers.
    Fleet,
    /// The controller; the first where there are several.
    Controller,
    /// One of several controllers, from 0 on.
    OneController(usize),
    /// One of the ext_proc servers, from 0 on.
    ExtProc(usize),
    /// Envoy.
    Envoy,
}

/// The running system. Dropping it ends all of it.
#[derive(Debug)]
pub struct System {
    // Fields are dropped in this order: who asks goes before who answers.
    envoy: Option<Envoy>,
    settings: envoy::Settings,
    configuration: Value,
    ext_procs: Vec<Service>,
    controllers: Vec<Service>,
    kubernetes: Option<Cluster>,
    fleet: Fleet,
    manifests: Manifests,
    client: Client,
    _ports: [Reserved; 2],
    scratch: Scratch,
}

/// Another controller, or ext_proc server.
#[derive(Debug)]
pub struct Another(Service);

impl Another {
    /// Its program, for its pages, its log and signals.
    pub fn program(&mut self) -> &mut Program {
        &mut self.0.program
    }
}

impl System {
    /// Starts all parts, one after the other, and waits until requests for every route of the options are served.
    ///
    /// # Errors
    /// When a program is missing, a part ends or is not ready in time; the error says which and shows the end of its log.
    pub async fn start(options: Options) -> Result<Self> {
        let scratch = Scratch::new("system").context("cannot make a folder for temporary files")?;
        let folder = scratch.path();
        let fleet = Fleet::start(options.groups.clone(), options.time_scale, folder).await?;
        let manifests = Manifests::new(&folder.join("manifests"))?;
        let kubernetes = match &options.cluster {
            Some(cluster) => Some(Cluster::start(cluster, folder).await?),
            None => None,
        };
        match &kubernetes {
            Some(cluster) => fill_cluster(cluster, &options, &fleet).await?,
            None => fill_folder(&manifests, &options, &fleet)?,
        }
        let controllers = start_controllers(&options, folder, &manifests, kubernetes.as_ref()).await?;
        let state: Vec<SocketAddr> = controllers.iter().map(Service::address).collect();
        let mut ext_procs = Vec::new();
        for number in 0..options.ext_procs {
            let own = number % state.len();
            let state = match options.ext_procs_know_all {
                true => &state[..],
                false => &state[own..=own],
            };
            ext_procs.push(services::start_ext_proc(number, &options, folder, state).await?);
        }
        let reserved = || Reserved::loopback().context("no free port on 127.0.0.1");
        let ports = [reserved()?, reserved()?];
        let settings = envoy::Settings {
            folder: folder.to_owned(),
            listen: options.listen.unwrap_or(ports[0].address()),
            admin: ports[1].address(),
            processors: ext_procs.iter().map(|one| one.address()).collect(),
            wasm: wasm(&options, state)?,
            clusters: folder.join("envoy"),
            workers: options.workers,
        };
        let mut configuration = settings.bootstrap()?;
        options.change_envoy.apply(&mut configuration);
        let envoy = match options.replaceable_envoy {
            true => Envoy::start_replaceable(settings.clone(), &configuration).await?,
            false => Envoy::start(settings.clone(), &configuration).await?,
        };
        let system = Self {
            envoy: Some(envoy),
            client: Client::http1(settings.listen),
            settings,
            configuration,
            ext_procs,
            controllers,
            kubernetes,
            fleet,
            manifests,
            _ports: ports,
            scratch,
        };
        system.wait_settled(&options).await?;
        Ok(system)
    }

    /// Where clients connect, such as `http://127.0.0.1:8080`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.settings.listen)
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.settings.listen
    }

    /// A client of Envoy, over HTTP/1.1.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where the controller serves state, unless a flag says otherwise.
    #[must_use]
    pub fn state_address(&self) -> SocketAddr {
        self.controllers[0].address()
    }

    /// The folder of YAML that the controller reads.
    #[must_use]
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// The API server that holds the objects.
    ///
    /// # Errors
    /// When a folder does.
    pub fn kubernetes(&mut self) -> Result<&mut Cluster> {
        self.kubernetes.as_mut().context("the objects are in a folder")
    }

    /// The folder of everything else: logs, Envoy's configuration, access log, clusters and endpoints.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// The model servers, and their faults.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The running Envoy, for its statistics and its access log.
    ///
    /// # Errors
    /// When it was killed.
    pub fn envoy(&self) -> Result<&Envoy> {
        self.envoy.as_ref().context("Envoy was killed and not started again")
    }

    /// The controller's program, for its pages (`/metrics`, `/readyz`), its log and signals; the first's where there are several.
    pub fn controller(&mut self) -> &mut Program {
        &mut self.controllers[0].program
    }

    /// The program of one of several controllers.
    ///
    /// # Errors
    /// When there are not that many.
    pub fn one_controller(&mut self, number: usize) -> Result<&mut Program> {
        let found = self.controllers.get_mut(number).map(|one| &mut one.program);
        found.with_context(|| format!("there is no controller {number}"))
    }

    /// The program of an ext_proc server, for its pages (`/metrics`, `/readyz`), its log and signals.
    ///
    /// # Errors
    /// When there are not that many.
    pub fn ext_proc(&mut self, number: usize) -> Result<&mut Program> {
        let found = self.ext_procs.get_mut(number).map(|one| &mut one.program);
        found.with_context(|| format!("there is no ext_proc server {number}"))
    }

    /// Where an ext_proc server is asked.
    ///
    /// # Errors
    /// When there are not that many.
    pub fn ext_proc_address(&self, number: usize) -> Result<SocketAddr> {
        let found = self.ext_procs.get(number).map(Service::address);
        found.with_context(|| format!("there is no ext_proc server {number}"))
    }

    /// A debug page of the controller or of an ext_proc server, as text.
    ///
    /// # Errors
    /// When the part has none, or it does not answer 200.
    pub async fn debug(&self, part: Part, path: &str) -> Result<String> {
        let service = match part {
            Part::Controller => self.controllers.first(),
            Part::OneController(number) => self.controllers.get(number),
            Part::ExtProc(number) => self.ext_procs.get(number),
            Part::Fleet | Part::Envoy => None,
        };
        service
            .with_context(|| format!("{part:?} has no debug pages"))?
            .debug(path)
            .await
    }

    /// Kills a part at once: no goodbye to anyone.
    ///
    /// # Errors
    /// When there is no such part or the system refuses.
    pub fn kill(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Fleet => self.fleet.program()?.kill(),
            Part::Controller => self.controller().kill(),
            Part::OneController(number) => self.one_controller(number)?.kill(),
            Part::ExtProc(number) => self.ext_proc(number)?.kill(),
            Part::Envoy => {
                self.envoy = None;
                Ok(())
            }
        }
    }

    /// Starts a part again at the same address, killing it first if it runs, and waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time; the error shows the end of its log.
    pub async fn restart(&mut self, part: Part) -> Result<()> {
        match part {
            Part::Fleet => self.fleet.program()?.restart().await,
            Part::Controller => self.controller().restart().await,
            Part::OneController(number) => self.one_controller(number)?.restart().await,
            Part::ExtProc(number) => self.ext_proc(number)?.restart().await,
            Part::Envoy => {
                self.envoy = None;
                self.envoy = Some(Envoy::start(self.settings.clone(), &self.configuration).await?);
                Ok(())
            }
        }
    }

    /// Lets another Envoy take over from the running one without a pause, and waits until that has ended. Needs
    /// [`Options::replaceable_envoy`].
    ///
    /// # Errors
    /// When it was killed, or does not hand over in time.
    pub async fn replace_envoy(&mut self) -> Result<()> {
        let envoy = self.envoy.as_mut();
        envoy
            .context("Envoy was killed and not started again")?
            .hot_restart()
            .await
    }

    /// Starts another controller on the same API server, which no filter is connected to, and which knows of no other.
    ///
    /// # Errors
    /// When the objects are in a folder, or it is not ready in time.
    pub async fn another_controller(&self) -> Result<Another> {
        let cluster = self.kubernetes.as_ref().context("the objects are in a folder")?;
        let folder = self.folder().join("another");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let kubeconfig = cluster.kubeconfig_of_another_controller()?;
        let source = format!("--kubeconfig={}", kubeconfig.display());
        services::start_controller(&Options::default(), &folder, source, Ports::reserve()?, &[])
            .await
            .map(Another)
    }

    /// Starts another ext_proc server with these flags, which Envoy does not ask, and does not wait until it is ready.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn another_ext_proc(&self, flags: Vec<String>) -> Result<Another> {
        let options = Options {
            ext_proc_flags: flags,
            ..Options::default()
        };
        services::launch_ext_proc("another", &options, self.folder(), &[self.state_address()]).map(Another)
    }

    /// Waits until a gauge or counter of an Envoy cluster has this value, such as `membership_healthy` of `kthena-ext-proc`.
    ///
    /// # Errors
    /// When it does not come to that in time.
    pub async fn wait_for_cluster(&self, cluster: &str, stat: &str, value: u64) -> Result<()> {
        let name = format!("cluster.{cluster}.{stat}");
        let envoy = self.envoy()?;
        wait_until(&format!("{name} = {value}"), SETTLED_WITHIN, async || {
            let stats = envoy.stats(&name).await;
            stats.is_ok_and(|stats| stats.get(&name) == Some(&value))
        })
        .await
    }

    /// The Envoy cluster of a group of the fleet.
    #[must_use]
    pub fn cluster(&self, group: &str) -> String {
        manifests::cluster(group, self.fleet.port())
    }

    async fn wait_settled(&self, options: &Options) -> Result<()> {
        if options.filter == Filter::ExtProc {
            self.wait_for_cluster("kthena-ext-proc", "membership_healthy", options.ext_procs as u64)
                .await?;
        }
        for group in &options.groups {
            let endpoints = u64::from(group.endpoints);
            self.wait_for_cluster(&self.cluster(&group.name), "membership_total", endpoints)
                .await?;
        }
        let models: Vec<&str> = options
            .routes
            .iter()
            .filter_map(|route| route["spec"]["modelName"].as_str())
            .collect();
        // Requests go to the ext_proc servers in turn: as many good answers in a row as there are servers, and then some.
        let enough = 2 * options.ext_procs;
        let mut good = 0;
        wait_until("all models to be listed", SETTLED_WITHIN, async || {
            good = if self.lists(&models).await { good + 1 } else { 0 };
            good >= enough
        })
        .await
    }

    async fn lists(&self, models: &[&str]) -> bool {
        let Ok(answer) = self.client.send(Ask::get("/v1/models")).await else {
            return false;
        };
        let listed = answer.json().unwrap_or_default();
        let listed = listed["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        models
            .iter()
            .all(|model| listed.iter().any(|entry| entry["id"] == *model))
    }
}

async fn start_controllers(
    options: &Options,
    folder: &Path,
    manifests: &Manifests,
    cluster: Option<&Cluster>,
) -> Result<Vec<Service>> {
    let ports: Result<Vec<Ports>> = (0..options.controllers).map(|_| Ports::reserve()).collect();
    let ports = ports?;
    let peers: Vec<SocketAddr> = ports.iter().map(Ports::address).collect();
    let mut controllers = Vec::new();
    for (number, ports) in ports.into_iter().enumerate() {
        let source = match (cluster, number) {
            (None, _) => format!("--folder={}", manifests.path().display()),
            (Some(cluster), 0) => kubeconfig(&cluster.kubeconfig_of_the_controller()?),
            (Some(cluster), _) => kubeconfig(&cluster.kubeconfig_of_another_controller()?),
        };
        // The first has the folder that Envoy reads.
        let folder = match number {
            0 => folder.to_owned(),
            _ => folder.join(format!("controller-{number}")),
        };
        controllers.push(services::start_controller(options, &folder, source, ports, &peers).await?);
    }
    Ok(controllers)
}

fn kubeconfig(file: &Path) -> String {
    format!("--kubeconfig={}", file.display())
}

fn fill_folder(manifests: &Manifests, options: &Options, fleet: &Fleet) -> Result<()> {
    for group in &options.groups {
        manifests.write(&format!("{}.yaml", group.name), &fleet.manifests(&group.name))?;
    }
    manifests.write(ROUTES, &options.routes)?;
    if !options.further.is_empty() {
        manifests.write(FURTHER, &options.further)?;
    }
    Ok(())
}

async fn fill_cluster(cluster: &Cluster, options: &Options, fleet: &Fleet) -> Result<()> {
    for group in &options.groups {
        for (number, ip) in fleet.addresses(&group.name).into_iter().enumerate() {
            let pod = PodSpec::new(&format!("{}-{number}", group.name), &group.name, ip);
            cluster.run_pod(&pod).await?;
        }
    }
    let servers = options
        .groups
        .iter()
        .filter_map(|group| fleet.model_server(&group.name));
    let objects: Vec<Value> = servers
        .chain(options.routes.iter().chain(&options.further).cloned())
        .collect();
    cluster.apply(&objects).await
}

fn wasm(options: &Options, controllers: Vec<SocketAddr>) -> Result<Option<envoy::Wasm>> {
    match &options.filter {
        Filter::ExtProc => Ok(None),
        Filter::Wasm(configuration) => Ok(Some(envoy::Wasm {
            module: binaries::wasm_module("kthena_wasm_filter")?,
            controllers,
            configuration: configuration.clone(),
        })),
    }
}
