//! The controller and the ext_proc servers: their flags, and the three addresses that each of them has.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::binaries::binary;
use super::options::Options;
use super::program::{Program, Ready};
use crate::client::{Ask, Client};
use crate::ports::Reserved;
use crate::process::Launch;

/// A program that serves, and has readiness, metrics and debug pages beside it.
#[derive(Debug)]
pub(super) struct Service {
    /// The program.
    pub(super) program: Program,
    debug: Client,
    ports: Ports,
}

/// The ports of a service, its own across restarts.
#[derive(Debug)]
pub(super) struct Ports {
    listen: Reserved,
    admin: Reserved,
    debug: Reserved,
}

impl Ports {
    pub(super) fn reserve() -> Result<Self> {
        let reserved = || Reserved::loopback().context("no free port on 127.0.0.1");
        Ok(Self {
            listen: reserved()?,
            admin: reserved()?,
            debug: reserved()?,
        })
    }

    /// Where it serves.
    pub(super) fn address(&self) -> SocketAddr {
        self.listen.address()
    }

    fn flags(&self) -> [String; 2] {
        [
            format!("--admin-listen={}", self.admin.address()),
            format!("--debug-listen={}", self.debug.address()),
        ]
    }
}

impl Service {
    /// Starts `program`, calling it `name` in messages and in the name of its log, and waits until it is ready.
    async fn start(program: &str, name: String, args: Vec<String>, folder: &Path, ports: Ports) -> Result<Self> {
        let mut service = Self::launch(program, name, args, folder, ports)?;
        service.program.wait_ready().await?;
        Ok(service)
    }

    /// The same, without waiting.
    fn launch(program: &str, name: String, args: Vec<String>, folder: &Path, ports: Ports) -> Result<Self> {
        let launch = Launch {
            program: binary(program)?,
            args: args.into_iter().chain(ports.flags()).map(Into::into).collect(),
            env: Vec::new(),
            log: folder.join(format!("{name}.log")),
            name,
        };
        let ready = Ready {
            at: ports.admin.address(),
            path: "/readyz",
        };
        Ok(Self {
            program: Program::launched(launch, ready)?,
            debug: Client::http1(ports.debug.address()),
            ports,
        })
    }

    /// Where it serves.
    pub(super) fn address(&self) -> SocketAddr {
        self.ports.address()
    }

    /// A debug page.
    pub(super) async fn debug(&self, path: &str) -> Result<String> {
        let answer = self.debug.send(Ask::get(path)).await?;
        if !answer.status.is_success() {
            bail!("{path} is answered by {}: {}", answer.status, answer.text());
        }
        Ok(answer.text())
    }
}

/// Starts a controller on what the flag `source` names; it writes Envoy's files into `envoy` below `folder`. `peers` are all controllers, where
/// there are several.
pub(super) async fn start_controller(
    options: &Options,
    folder: &Path,
    source: String,
    ports: Ports,
    peers: &[SocketAddr],
) -> Result<Service> {
    let envoy = folder.join("envoy");
    std::fs::create_dir_all(&envoy).with_context(|| format!("cannot make {}", envoy.display()))?;
    let mut args = vec![format!("--envoy-dir={}", envoy.display())];
    if !["--folder", "--kubeconfig"]
        .iter()
        .any(|flag| has(&options.controller_flags, flag))
    {
        args.push(source);
    }
    if !has(&options.controller_flags, "--state-listen") {
        args.push(format!("--state-listen={}", ports.listen.address()));
    }
    if !options.scheduler_config.is_empty() {
        let file = folder.join("scheduler.yaml");
        std::fs::write(&file, &options.scheduler_config).with_context(|| format!("cannot write {}", file.display()))?;
        args.push(format!("--scheduler-config={}", file.display()));
    }
    if peers.len() > 1 {
        args.push(format!("--peers={}", joined(peers, "")));
    }
    args.extend(options.controller_flags.iter().cloned());
    Service::start("kthena-controller", "controller".to_owned(), args, folder, ports).await
}

fn joined(addresses: &[SocketAddr], scheme: &str) -> String {
    let all: Vec<_> = addresses.iter().map(|address| format!("{scheme}{address}")).collect();
    all.join(",")
}

/// Starts an ext_proc server that subscribes to one of the controllers at `state`.
pub(super) async fn start_ext_proc(
    number: usize,
    options: &Options,
    folder: &Path,
    state: &[SocketAddr],
) -> Result<Service> {
    let name = format!("ext-proc-{number}");
    let mut service = launch_ext_proc(&name, options, folder, state)?;
    service.program.wait_ready().await?;
    Ok(service)
}

/// The same, by a name of its own, without waiting.
pub(super) fn launch_ext_proc(name: &str, options: &Options, folder: &Path, state: &[SocketAddr]) -> Result<Service> {
    let ports = Ports::reserve()?;
    let mut args = vec![format!("--listen={}", ports.listen.address())];
    if !has(&options.ext_proc_flags, "--state") {
        args.push(format!("--state={}", joined(state, "http://")));
    }
    args.extend(options.ext_proc_flags.iter().cloned());
    Service::launch("kthena-ext-proc", name.to_owned(), args, folder, ports)
}

/// Whether a flag is among these.
fn has(flags: &[String], name: &str) -> bool {
    flags.iter().any(|flag| flag.split('=').next() == Some(name))
}
