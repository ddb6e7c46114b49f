//! A real Envoy as a child process, started from the reference configuration.
//!
//! `docs/envoy.yaml` and, for the wasm filter, `docs/envoy-wasm.yaml` are the only Envoy configurations there are: what is started here is
//! one of these documents with other ports and paths in it, so a test that passes says something about the document that users read. Nothing is installed here; `e2e/tools/envoy` does that, and
//! where it has not run the error says so.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::cache;
use crate::client::{Ask, Client};
use crate::process::{Launch, Process, wait_until};

/// The reference configuration, comments and all.
pub const DOCUMENT: &str = include_str!("../../docs/envoy.yaml");

/// The reference configuration with the wasm filter.
pub const WASM_DOCUMENT: &str = include_str!("../../docs/envoy-wasm.yaml");

/// Where both documents have their one HTTP connection manager.
const MANAGER: &str = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";

/// The version that everything is tested with; `e2e/tools/envoy` installs it.
pub const VERSION: &str = "1.40.0";

/// Seconds for which the Envoy that is followed by another keeps what it has, and after which it ends.
const DRAIN_S: &str = "2";
const PARENT_SHUTDOWN_S: &str = "4";

/// Envoy answers `/ready` within this time of its start, or something is wrong.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What differs from one Envoy to the next.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder for this Envoy's own files: configuration, log, access log.
    pub folder: PathBuf,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The admin interface.
    pub admin: SocketAddr,
    /// The ext_proc servers, where Envoy asks them.
    pub processors: Vec<SocketAddr>,
    /// The wasm filter, where it decides; then nobody is asked.
    pub wasm: Option<Wasm>,
    /// Folder with `cds.json`, which must be there already.
    pub clusters: PathBuf,
    /// Worker threads.
    pub workers: u32,
}

/// The wasm filter in an Envoy.
#[derive(Clone, Debug)]
pub struct Wasm {
    /// The module.
    pub module: PathBuf,
    /// The controllers' state services.
    pub controllers: Vec<SocketAddr>,
    /// The plugin's configuration.
    pub configuration: Value,
}

impl Settings {
    /// The file that receives the access log.
    #[must_use]
    pub fn access_log(&self) -> PathBuf {
        self.folder.join("access.log")
    }

    /// The reference configuration with these settings in it.
    ///
    /// # Errors
    /// When the document no longer has the places that are to be filled.
    pub fn bootstrap(&self) -> Result<Value> {
        let document = if self.wasm.is_some() { WASM_DOCUMENT } else { DOCUMENT };
        let mut bootstrap: Value = serde_saphyr::from_str(document).context("the document is not YAML")?;
        // The one static cluster is that of whom Envoy asks, or the filter.
        let peers = match &self.wasm {
            Some(wasm) => &wasm.controllers,
            None => &self.processors,
        };
        let endpoints: Vec<Value> = peers
            .iter()
            .map(|at| json!({"endpoint": {"address": socket_address(*at)}}))
            .collect();
        let files = "/dynamic_resources/cds_config/path_config_source";
        let places = [
            ("/admin/address".to_owned(), socket_address(self.admin)),
            (
                "/static_resources/listeners/0/address".to_owned(),
                socket_address(self.listen),
            ),
            (
                format!("{MANAGER}/access_log/0/typed_config/path"),
                json!(self.access_log()),
            ),
            (
                "/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints".to_owned(),
                json!(endpoints),
            ),
            (format!("{files}/path"), json!(self.clusters.join("cds.json"))),
            (format!("{files}/watched_directory/path"), json!(self.clusters)),
        ];
        for (pointer, value) in places {
            *place(&mut bootstrap, &pointer)? = value;
        }
        if let Some(wasm) = &self.wasm {
            wasm.configure(&mut bootstrap)?;
        }
        Ok(bootstrap)
    }
}

impl Wasm {
    /// The plugin's part of the reference configuration.
    pub const PLUGIN: &str =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config";

    fn configure(&self, bootstrap: &mut Value) -> Result<()> {
        let plugin = place(bootstrap, Self::PLUGIN)?;
        *place(plugin, "/vm_config/code/local/filename")? = json!(self.module);
        *place(plugin, "/configuration/value")? = json!(self.configuration.to_string());
        Ok(())
    }
}

/// A place in a configuration, by JSON pointer.
///
/// # Errors
/// When the configuration has no such place.
pub fn place<'a>(configuration: &'a mut Value, pointer: &str) -> Result<&'a mut Value> {
    configuration
        .pointer_mut(pointer)
        .with_context(|| format!("the configuration has nothing at {pointer}"))
}

fn socket_address(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}})
}

/// The Envoy to run: `ENVOY_BIN`, or the one in the cache folder.
///
/// # Errors
/// When neither is there; the error says what to run.
pub fn binary() -> Result<PathBuf> {
    if let Some(own) = std::env::var_os("ENVOY_BIN").filter(|value| !value.is_empty()) {
        let own = PathBuf::from(own);
        if own.is_file() {
            return Ok(own);
        }
        bail!("ENVOY_BIN is {}, which is not there", own.display());
    }
    let installed = cache::folder().join(format!("envoy-{VERSION}/bin/envoy"));
    if installed.is_file() {
        return Ok(installed);
    }
    bail!(
        "there is no Envoy at {}: run e2e/tools/envoy once to install it, or set ENVOY_BIN",
        installed.display()
    );
}

/// A running Envoy; killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: Client,
    settings: Settings,
    epoch: Epoch,
}

/// How often an Envoy has been followed by another without a pause.
#[derive(Clone, Copy, Debug)]
enum Epoch {
    /// It cannot be.
    Alone,
    /// So many before it.
    Number(u32),
}

impl Envoy {
    /// Starts Envoy with a configuration, usually [`Settings::bootstrap`], and waits until it is ready.
    ///
    /// # Errors
    /// When Envoy is not installed, refuses the configuration or is not ready in time; the error holds the end of its log.
    pub async fn start(settings: Settings, configuration: &Value) -> Result<Self> {
        write_configuration(&settings.folder, configuration)?;
        Self::start_at(settings, Epoch::Alone).await
    }

    /// Starts Envoy as [`Envoy::start`] does, so that [`Envoy::hot_restart`] can replace it without a pause.
    ///
    /// # Errors
    /// As [`Envoy::start`].
    pub async fn start_replaceable(settings: Settings, configuration: &Value) -> Result<Self> {
        write_configuration(&settings.folder, configuration)?;
        Self::start_at(settings, Epoch::Number(0)).await
    }

    async fn start_at(settings: Settings, epoch: Epoch) -> Result<Self> {
        let mut args: Vec<OsString> = vec!["-c".into(), configuration_file(&settings.folder).into()];
        args.extend(["--concurrency".into(), settings.workers.to_string().into()]);
        args.extend(epoch.args(&settings.folder)?);
        args.extend(["--file-flush-interval-msec", "50", "--log-level", "info"].map(Into::into));
        let process = Process::start(Launch {
            name: "envoy".to_owned(),
            program: binary()?,
            args,
            env: Vec::new(),
            log: settings.folder.join("envoy.log"),
        })?;
        let mut envoy = Self {
            process,
            admin: Client::http1(settings.admin),
            settings,
            epoch,
        };
        envoy.wait_ready().await?;
        Ok(envoy)
    }

    /// Starts another Envoy with the same configuration, which takes over the listeners, and waits until the one before it has ended by
    /// itself.
    ///
    /// # Errors
    /// When it was not started by [`Envoy::start_replaceable`], or the new one is not ready, or the old one not gone in time.
    pub async fn hot_restart(&mut self) -> Result<()> {
        let Epoch::Number(number) = self.epoch else {
            bail!("this Envoy was started with --disable-hot-restart");
        };
        let next = Self::start_at(self.settings.clone(), Epoch::Number(number + 1)).await?;
        let mut old = std::mem::replace(self, next);
        wait_until("the former Envoy to end", READY_WITHIN, async || {
            !matches!(old.process.ended(), Ok(None))
        })
        .await?;
        // What it shared is the new one's now.
        old.epoch = Epoch::Alone;
        Ok(())
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let mut ended = None;
        let (process, admin, epoch) = (&mut self.process, &self.admin, self.epoch);
        let ready = wait_until("Envoy to be ready", READY_WITHIN, async || {
            ended = process.ended().ok().flatten();
            ended.is_some() || epoch.is_ready(admin).await
        });
        let waited = ready.await;
        if let Some(status) = ended {
            bail!("Envoy ended at once ({status}):\n{}", self.process.last_lines(20));
        }
        waited.with_context(|| self.process.last_lines(20))
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.settings.listen
    }

    /// The settings it was started with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The process, for its CPU time, its log and signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The answer of an admin page.
    ///
    /// # Errors
    /// When the admin interface does not answer 200.
    pub async fn admin(&self, path: &str) -> Result<String> {
        let answer = self.admin.send(Ask::get(path)).await?;
        if !answer.status.is_success() {
            bail!(
                "Envoy's admin page {path} answered {}: {}",
                answer.status,
                answer.text()
            );
        }
        Ok(answer.text())
    }

    /// Counters and gauges whose name matches the regular expression; names by which Envoy prints them.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>> {
        let filter: String = filter.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let page = self.admin(&format!("/stats?format=json&filter={filter}")).await?;
        let page: Value = serde_json::from_str(&page).context("Envoy's stats are not JSON")?;
        let stats = page["stats"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(stats
            .iter()
            .filter_map(|stat| Some((stat["name"].as_str()?.to_owned(), stat["value"].as_u64()?)))
            .collect())
    }

    /// The running configuration, endpoints included.
    ///
    /// # Errors
    /// When the admin interface does not answer.
    pub async fn config_dump(&self) -> Result<Value> {
        let page = self.admin("/config_dump?include_eds").await?;
        serde_json::from_str(&page).context("Envoy's config dump is not JSON")
    }

    /// The access-log lines written so far; an Envoy started here writes them every 50 ms.
    ///
    /// # Errors
    /// When the file can't be read or a line is not JSON.
    pub async fn access_log(&self) -> Result<Vec<Value>> {
        let file = self.settings.access_log();
        let text = tokio::fs::read_to_string(&file)
            .await
            .with_context(|| format!("cannot read {}", file.display()))?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let Epoch::Number(_) = self.epoch else { return };
        // It cannot tidy up when it is killed. A file that is left behind harms nobody: the next base id is another one.
        if self.process.kill().is_ok()
            && let Ok(base) = base_id(&self.settings.folder)
        {
            std::fs::remove_file(format!("/dev/shm/envoy_shared_memory_{base}0")).unwrap_or_default();
        }
    }
}

impl Epoch {
    fn args(self, folder: &Path) -> Result<Vec<OsString>> {
        let times = [
            "--drain-time-s",
            DRAIN_S,
            "--parent-shutdown-time-s",
            PARENT_SHUTDOWN_S,
            "--drain-strategy",
            "immediate",
        ];
        let mut args: Vec<OsString> = match self {
            // With it several Envoys on one machine meet in shared memory, and leave it behind when they are killed.
            Self::Alone => return Ok(vec!["--disable-hot-restart".into()]),
            Self::Number(0) => vec![
                "--use-dynamic-base-id".into(),
                "--base-id-path".into(),
                base_id_file(folder).into(),
            ],
            Self::Number(number) => vec![
                "--base-id".into(),
                base_id(folder)?.into(),
                "--restart-epoch".into(),
                number.to_string().into(),
            ],
        };
        args.extend(times.map(Into::into));
        Ok(args)
    }

    /// Whether the Envoy of this epoch, and not one before it, serves.
    async fn is_ready(self, admin: &Client) -> bool {
        let Ok(answer) = admin.send(Ask::get("/server_info")).await else {
            return false;
        };
        let info = answer.json().unwrap_or_default();
        let epoch = match self {
            Self::Alone => 0,
            Self::Number(number) => number,
        };
        info["state"] == "LIVE" && info["command_line_options"]["restart_epoch"] == epoch
    }
}

/// By what the Envoys that follow each other find each other.
fn base_id(folder: &Path) -> Result<String> {
    let file = base_id_file(folder);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.trim().to_owned())
}

fn base_id_file(folder: &Path) -> PathBuf {
    folder.join("envoy.base-id")
}

/// Asks Envoy itself whether it accepts a configuration, without starting it.
///
/// # Errors
/// When Envoy is not installed or refuses; the error holds what it says.
pub fn validate(folder: &Path, configuration: &Value) -> Result<()> {
    let file = write_configuration(folder, configuration)?;
    let output = std::process::Command::new(binary()?)
        .args(["--mode", "validate", "--log-level", "warning", "-c"])
        .arg(file)
        .output()
        .context("cannot run Envoy")?;
    if !output.status.success() {
        bail!(
            "Envoy refuses the configuration:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn configuration_file(folder: &Path) -> PathBuf {
    folder.join("envoy.json")
}

/// Envoy reads JSON as it reads YAML, so nothing has to be turned back into YAML.
fn write_configuration(folder: &Path, configuration: &Value) -> Result<PathBuf> {
    let file = configuration_file(folder);
    let text = serde_json::to_string_pretty(configuration).context("a configuration is always JSON")?;
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}
