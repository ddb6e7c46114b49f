//! The controller among 1,000 ModelServers, as many routes and 5,000 pods, which are not observed: its first sync, its memory, what one change
//! costs it among few objects and among many, and what it does when nothing happens.
//!
//! Two filters subscribe: a real ext_proc server, and one in this process (`Filter`), which tells when it has followed. Nobody reads Envoy's
//! files, but they are written, and waited for, as always.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Found;
use super::change::{self, Changes};
use super::fill::{self, Served};
use super::filter::Filter;
use crate::bench::meter;
use crate::bench::report::Verdict;
use crate::cluster;
use crate::exposition;
use crate::process::wait_until;
use crate::system::{Options, Part, System};

/// Everything is there, and told, within this time, or something is wrong.
const WITHIN: Duration = Duration::from_secs(300);

/// Nothing was written for so long: the controller is at rest.
const REST: Duration = Duration::from_secs(3);

/// Targets.
const SYNC_S: f64 = 10.0;
const MEMORY_MB: f64 = 200.0;
const CHANGE_MS: f64 = 20.0;
const GROWTH: f64 = 1.3;
const IDLE_CORES: f64 = 0.05;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// ModelServers, with a route and five pods each.
    pub servers: usize,
    /// ModelServers among which a change is measured first.
    pub few: usize,
    /// Changes of each kind.
    pub changes: usize,
    /// How long the controller is watched at rest.
    pub length: Duration,
}

/// The controller at rest.
struct Rest {
    cores: f64,
    calls: BTreeMap<String, u64>,
}

/// What was measured.
struct Figures {
    sync: Duration,
    filter_sync: Duration,
    memory: meter::Memory,
    rest: Rest,
    few: Vec<Changes>,
    many: Vec<Changes>,
}

/// Measures; progress goes to standard error.
///
/// # Errors
/// When something cannot be started, or a filter does not follow.
pub async fn run(settings: &Settings) -> Result<Found> {
    let mut system = System::start(Options {
        cluster: Some(cluster::Options::default()),
        ext_procs: 1,
        controller_flags: vec!["--scrape-max-targets=0".to_owned()],
        ..Options::default()
    })
    .await?;
    system.kill(Part::Envoy)?;
    fill::namespaces(system.kubernetes()?).await?;
    fill::fill(system.kubernetes()?, 0..settings.few).await?;
    let mut filter = Filter::start(system.state_address())?;
    synced(&mut filter, settings.few).await?;
    at_rest(&mut system).await?;
    eprintln!(
        "{} ModelServers with routes and {} pods are there",
        settings.few,
        settings.few * fill::PODS
    );
    let few = measure_changes(&mut system, &mut filter, settings.few, settings).await?;

    system.kill(Part::Controller)?;
    fill::fill(system.kubernetes()?, settings.few..settings.servers).await?;
    eprintln!(
        "{} ModelServers with routes and {} pods are there",
        settings.servers,
        settings.servers * fill::PODS
    );
    let begun = Instant::now();
    system.restart(Part::Controller).await?;
    let sync = begun.elapsed();
    let filter_sync = synced(&mut filter, settings.servers).await?.duration_since(begun);
    at_rest(&mut system).await?;
    let rest = measure_rest(&mut system, settings.length).await?;
    let many = measure_changes(&mut system, &mut filter, settings.servers, settings).await?;
    let figures = Figures {
        sync,
        filter_sync,
        memory: meter::memory(controller(&mut system)?)?,
        rest,
        few,
        many,
    };
    Ok(found(settings, &figures))
}

async fn synced(filter: &mut Filter, servers: usize) -> Result<Instant> {
    let what = format!(
        "{servers} ModelServers with {} endpoints each, and their routes",
        fill::PODS
    );
    let whole = move |snapshot: &kthena_scheduler::snapshot::Snapshot| {
        snapshot.servers.len() == servers
            && snapshot.routes.routes().len() == servers
            && snapshot
                .servers
                .iter()
                .all(|server| server.endpoints.len() == fill::PODS)
    };
    filter.until(&what, WITHIN, whole).await
}

fn controller(system: &mut System) -> Result<u32> {
    let process = system.controller().process().map(|process| process.id());
    process.context("the controller is not running")
}

/// Waits until the controller has written every status and event that there was to write.
async fn at_rest(system: &mut System) -> Result<()> {
    let mut last = (String::new(), Instant::now());
    wait_until("the controller to write nothing any more", WITHIN, async || {
        let page = system.controller().page("/metrics").await.unwrap_or_default();
        let sum = |name: &str| exposition::sum(&page, &format!("kthena_controller_{name}")).unwrap_or_default();
        let leads = sum("leading") > 0.0;
        let writes = ["status_writes_total", "status_waiting", "events_total"].map(sum);
        let now = format!("{leads} {writes:?}");
        if now != last.0 {
            last = (now, Instant::now());
        }
        sleep(Duration::from_millis(200)).await;
        leads && last.1.elapsed() > REST
    })
    .await
}

async fn measure_rest(system: &mut System, length: Duration) -> Result<Rest> {
    let process = controller(system)?;
    let (since, begun, before) = (Timestamp::now().to_string(), Instant::now(), meter::busy(process)?);
    sleep(length).await;
    let used = meter::busy(process)?.saturating_sub(before);
    let cores = used.as_secs_f64() / begun.elapsed().as_secs_f64();
    let mut calls = BTreeMap::new();
    for entry in system.kubernetes()?.audit()? {
        let begun = entry["requestReceivedTimestamp"].as_str().unwrap_or_default();
        // A call that lasts is written down when it begins and when it ends.
        if begun >= since.as_str() && entry["stage"] != "ResponseStarted" {
            let verb = entry["verb"].as_str().unwrap_or_default();
            let resource = entry["objectRef"]["resource"].as_str().unwrap_or_default();
            *calls.entry(format!("{verb} {resource}")).or_default() += 1;
        }
    }
    Ok(Rest { cores, calls })
}

async fn measure_changes(
    system: &mut System,
    filter: &mut Filter,
    servers: usize,
    settings: &Settings,
) -> Result<Vec<Changes>> {
    let process = controller(system)?;
    let idle = meter::busy(process)?;
    let begun = Instant::now();
    sleep(REST).await;
    let idle = meter::busy(process)?.saturating_sub(idle).as_secs_f64() / begun.elapsed().as_secs_f64();
    let mut measured = Vec::new();
    for kinds in change::Kind::TURNS {
        let (begun, before) = (Instant::now(), meter::busy(process)?);
        let first = Served(servers / 2);
        let mut played = change::play(system.kubernetes()?, filter, kinds, first, settings.changes).await?;
        // What is written because of the changes belongs to them. Nobody asks for pages meanwhile: they would count.
        sleep(REST).await;
        let used = meter::busy(process)?.saturating_sub(before).as_secs_f64() - idle * begun.elapsed().as_secs_f64();
        let cpu_us = used * 1e6 / (settings.changes * kinds.len()) as f64;
        for changes in &mut played {
            changes.cpu_us = cpu_us;
            eprintln!(
                "{} among {servers} ModelServers: {cpu_us:.0} us of CPU a change",
                changes.kind.name()
            );
        }
        measured.extend(played);
    }
    Ok(measured)
}

fn found(settings: &Settings, figures: &Figures) -> Found {
    let pods = settings.servers * fill::PODS;
    let among = format!("{} ModelServers, as many routes, {pods} pods", settings.servers);
    let mut found = Found {
        table: format!(
            "change        among  p50 ms  p99 ms  max ms  (from the call: p50 ms  p99 ms)  CPU us a change  x {}\n",
            settings.few
        ),
        ..Found::default()
    };
    let mut verdict = |what: String, is: f64, at_most: f64| found.verdicts.push(Verdict { what, is, at_most });
    let seconds = figures.sync.as_secs_f64();
    verdict(
        format!(
            "seconds from the controller's start to its first sync, {among} (the filter has it after {:.2} s)",
            figures.filter_sync.as_secs_f64()
        ),
        seconds,
        SYNC_S,
    );
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    verdict(
        format!(
            "MB of the controller at its largest, {among} (resident at the end: {:.0})",
            megabytes(figures.memory.resident)
        ),
        megabytes(figures.memory.peak),
        MEMORY_MB,
    );
    verdict(
        format!("cores of the controller at rest, {among}"),
        figures.rest.cores,
        IDLE_CORES,
    );
    let others = |(call, count): (&String, &u64)| {
        let expected = call.starts_with("watch ") || call.ends_with(" leases");
        (!expected).then_some(*count)
    };
    let others: u64 = figures.rest.calls.iter().filter_map(others).sum();
    verdict(
        format!(
            "API calls at rest beside watches and the Lease, {:?}",
            figures.rest.calls
        ),
        others as f64,
        0.0,
    );
    let mut lines = vec![
        json!({"case": "sync", "servers": settings.servers, "pods": pods, "s": seconds, "filter_s": figures.filter_sync.as_secs_f64()}),
        json!({"case": "memory", "servers": settings.servers, "pods": pods, "resident_bytes": figures.memory.resident, "peak_bytes": figures.memory.peak}),
        json!({"case": "rest", "servers": settings.servers, "pods": pods, "s": settings.length.as_secs_f64(), "cores": figures.rest.cores, "calls": figures.rest.calls}),
    ];
    for (few, many) in figures.few.iter().zip(&figures.many) {
        let name = many.kind.name();
        let growth = many.cpu_us / few.cpu_us;
        if many.kind.leaves_at_once() {
            verdict(
                format!(
                    "p99 in ms until a filter has followed a change, counted from when the API server told of it: {name} among {among}"
                ),
                many.from_told.ms(0.99),
                CHANGE_MS,
            );
        }
        verdict(
            format!(
                "CPU of the controller for one change among {} ModelServers, {:.0} us, by that among {}, {:.0} us: {name}",
                settings.servers, many.cpu_us, settings.few, few.cpu_us
            ),
            growth,
            GROWTH,
        );
        for (changes, servers, growth) in [(few, settings.few, None), (many, settings.servers, Some(growth))] {
            found.table.push_str(&row(changes, servers, growth));
            lines.push(line(changes, servers));
        }
    }
    found.lines = lines;
    found
}

fn row(changes: &Changes, servers: usize, growth: Option<f64>) -> String {
    let Changes {
        kind,
        from_told,
        from_call,
        cpu_us,
    } = changes;
    let growth = growth.map_or_else(String::new, |growth| format!("{growth:.2}"));
    format!(
        "{:12} {servers:6} {:7.1} {:7.1} {:7.1} {:23.1} {:7.1} {cpu_us:17.0} {growth:>6}\n",
        kind.name(),
        from_told.ms(0.5),
        from_told.ms(0.99),
        from_told.ms(1.0),
        from_call.ms(0.5),
        from_call.ms(0.99),
    )
}

fn line(changes: &Changes, servers: usize) -> Value {
    let mut line = json!({
        "case": "change", "kind": changes.kind.name(), "servers": servers, "changes": changes.from_call.len(),
        "cpu_us": changes.cpu_us.round(),
    });
    if let Some(line) = line.as_object_mut() {
        line.extend(changes.from_told.fields(""));
        line.extend(changes.from_call.fields("_from_call"));
    }
    line
}
