//! What the wasm filter costs while nobody asks anything: every worker has its stream of state, and loads are pushed as they are learnt.
//!
//! The CPU time is that of the whole Envoy, beside that of one without the filter that reads the same clusters. What must always hold: every
//! worker has subscribed before anything is measured, and how often each was told something is part of the figures.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::meter;
use super::report::Verdict;
use super::stand::strip;
use super::traffic::MODEL;
use crate::client::{Ask, Client};
use crate::envoy::{self, Envoy};
use crate::ports::Reserved;
use crate::process::wait_until;
use crate::system::fleet::Group;
use crate::system::manifests::model_route;
use crate::system::{Filter, Options, System};

/// After this long every endpoint has been observed more than once, and the start is over.
const SETTLE: Duration = Duration::from_secs(5);

/// All workers have subscribed within this time, or something is wrong.
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(60);

/// Model servers of one group: as many as one has addresses for.
const GROUP: u16 = 250;

/// A case to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// Model servers.
    pub endpoints: u16,
    /// Worker threads of Envoy.
    pub workers: u32,
    /// The most that all VMs together should use, cores.
    pub at_most: f64,
}

impl Case {
    /// The cases that have a target.
    pub const ALL: [Self; 2] = [
        Self {
            endpoints: 100,
            workers: 4,
            at_most: 0.02,
        },
        Self {
            endpoints: 1_000,
            workers: 8,
            at_most: 0.2,
        },
    ];
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Cores that Envoy used with the filter.
    pub cores: f64,
    /// Cores that Envoy used without it.
    pub bare: f64,
    /// Messages of the controller that one worker got in a second.
    pub messages: f64,
    /// Memory of one VM, bytes.
    pub memory: f64,
}

/// Measures a case for so long.
///
/// # Errors
/// When something cannot be started or measured.
pub async fn run(case: Case, length: Duration) -> Result<Figures> {
    let system = System::start(options(case)).await?;
    let bare = Bare::start(&system, case.workers).await?;
    subscribe(&system, case.workers).await?;
    tokio::time::sleep(SETTLE).await;
    let processes = [system.envoy()?.id(), bare.envoy.id()];
    let used = || -> Result<[Duration; 2]> { Ok([meter::busy(processes[0])?, meter::busy(processes[1])?]) };
    let (begun, before, told) = (Instant::now(), used()?, metric(&system, "state_messages_total").await?);
    tokio::time::sleep(length).await;
    let (elapsed, after) = (begun.elapsed().as_secs_f64(), used()?);
    let told = metric(&system, "state_messages_total").await? - told;
    let cores = |at: usize| after[at].saturating_sub(before[at]).as_secs_f64() / elapsed;
    let workers = f64::from(case.workers);
    // The VM on Envoy's main thread has no state, and is one more.
    let memory = metric(&system, "memory_bytes").await? / (workers + 1.0);
    Ok(Figures {
        cores: cores(0),
        bare: cores(1),
        messages: told / elapsed / workers,
        memory,
    })
}

/// The figure beside its target.
#[must_use]
pub fn verdict(case: Case, figures: Figures) -> Verdict {
    let Figures {
        cores, bare, messages, ..
    } = figures;
    Verdict {
        what: format!(
            "cores of all VMs of an idle Envoy, {} endpoints, {} workers, {messages:.1} messages a second to each \
             (Envoy {cores:.4}, without the filter {bare:.4})",
            case.endpoints, case.workers,
        ),
        is: cores - bare,
        at_most: case.at_most,
    }
}

/// The figures as a line of JSON.
#[must_use]
pub fn line(case: Case, figures: Figures) -> Value {
    let rounded = |figure: f64| (figure * 1e5).round() / 1e5;
    json!({
        "case": "idle",
        "config": "wasm",
        "endpoints": case.endpoints,
        "workers": case.workers,
        "cores": rounded(figures.cores - figures.bare),
        "cores_envoy": rounded(figures.cores),
        "cores_bare": rounded(figures.bare),
        "messages_per_worker_s": rounded(figures.messages),
        "vm_bytes": figures.memory.round(),
    })
}

fn options(case: Case) -> Options {
    let sizes = (0..case.endpoints)
        .step_by(GROUP.into())
        .map(|first| GROUP.min(case.endpoints - first));
    let groups: Vec<_> = sizes
        .enumerate()
        .map(|(at, size)| Group::instant(&format!("idle-{at}"), MODEL, u8::try_from(size).unwrap_or(u8::MAX)))
        .collect();
    Options {
        routes: groups
            .iter()
            .map(|group| model_route(&group.name, &group.name, &group.name))
            .collect(),
        groups,
        filter: Filter::Wasm(json!({})),
        ext_procs: 0,
        workers: case.workers,
        ..Options::default()
    }
}

async fn metric(system: &System, name: &str) -> Result<f64> {
    let name = format!("wasmcustom.kthena_{name}");
    let stats = system.envoy()?.stats(&name).await?;
    Ok(*stats.get(&name).with_context(|| format!("Envoy has no {name}"))? as f64)
}

/// Asks on connections of its own, which the kernel spreads over the workers, until each has a stream.
async fn subscribe(system: &System, workers: u32) -> Result<()> {
    wait_until("every worker to subscribe", SUBSCRIBED_WITHIN, async || {
        for _ in 0..workers {
            // What comes of it does not matter.
            let _ = Client::http1(system.address()).send(Ask::get("/v1/models")).await;
        }
        let connected = metric(system, "connected").await;
        connected.is_ok_and(|connected| connected >= f64::from(workers))
    })
    .await?;
    let synced = metric(system, "synced").await?;
    ensure!(synced >= f64::from(workers), "{synced} of {workers} workers have state");
    Ok(())
}

/// An Envoy without the filter, reading the same clusters.
#[derive(Debug)]
struct Bare {
    envoy: Envoy,
    _ports: [Reserved; 2],
}

impl Bare {
    async fn start(system: &System, workers: u32) -> Result<Self> {
        let reserved = || Reserved::loopback().context("no free port on 127.0.0.1");
        let ports = [reserved()?, reserved()?];
        let folder = system.folder().join("bare");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let settings = envoy::Settings {
            folder,
            listen: ports[0].address(),
            admin: ports[1].address(),
            processors: Vec::new(),
            wasm: None,
            clusters: system.envoy()?.settings().clusters.clone(),
            workers,
        };
        let mut configuration = settings.bootstrap()?;
        strip(&mut configuration, &system.cluster("idle-0"))?;
        Ok(Self {
            envoy: Envoy::start(settings, &configuration).await?,
            _ports: ports,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_beyond_one_groups_addresses_are_in_further_groups() {
        let sizes = |endpoints| {
            let options = options(Case {
                endpoints,
                ..Case::ALL[0]
            });
            let sizes: Vec<u8> = options.groups.iter().map(|group| group.endpoints).collect();
            sizes
        };
        assert_eq!(sizes(100), [100]);
        assert_eq!(sizes(1_000), [250; 4]);
        assert_eq!(sizes(251), [250, 1]);
    }
}
