//! From a changed pod to the last filter that follows it: 20 real ext_proc servers, 1,000 simulated model servers, observed as always, and
//! five changes a second.
//!
//! Changes come in turn: a pod is told to end; another one of the same address and another name becomes ready. Each filter is asked, as Envoy
//! asks it, every few milliseconds where a request for that model would go (a decision names up to five endpoints, which is all that a
//! ModelServer has here), until it names the pod, or no longer does. Beside that, real requests for the model go through a real Envoy: each must
//! be answered, and by no pod that has been told to end for long.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Found;
use super::asker::Asker;
use super::spread::Spread;
use crate::bench::report::Verdict;
use crate::client::Client;
use crate::cluster::kubelet::PodSpec;
use crate::cluster::{self, Cluster};
use crate::system::fleet::Group;
use crate::system::manifests::model_route;
use crate::system::story::new_question;
use crate::system::{Options, System};

/// ModelServers whose pods change, and pods of each: as many as a decision names.
const SMALL: u16 = 10;
const SMALL_PODS: u16 = 5;

/// Pods of each of the other ModelServers.
const LARGE_PODS: u16 = 50;

/// Time from one question to the next.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// A filter that has not followed by then is broken.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(20);

/// For how long requests go on after the last filter has followed.
const AFTERWARDS: Duration = Duration::from_millis(100);

/// The start of so many pods and filters is over after this long.
const SETTLE: Duration = Duration::from_secs(10);

/// What both kinds of changes may take, milliseconds.
const TARGET_MS: f64 = 200.0;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// ext_proc servers.
    pub filters: usize,
    /// Pods, a multiple of fifty.
    pub pods: u16,
    /// Changes a second.
    pub rate: f64,
    /// For how long.
    pub length: Duration,
}

/// A pod that comes and goes.
#[derive(Clone, Debug)]
struct Slot {
    /// ModelServer, ModelRoute and model.
    model: String,
    ip: Ipv4Addr,
    /// The pod that is there, or the next one.
    name: String,
    /// How often it has been replaced.
    round: usize,
}

/// What is seen of one change.
struct Seen {
    ready: bool,
    slot: Slot,
    /// Time until each filter had followed.
    filters: Vec<Duration>,
    traffic: Traffic,
}

/// Requests through Envoy during a change.
#[derive(Default)]
struct Traffic {
    sent: u64,
    errors: u64,
    /// How long after the change the last request was sent that this pod answered.
    last: Duration,
}

/// What a change works with.
struct Stage<'a> {
    cluster: &'a Cluster,
    filters: &'a [Asker],
    envoy: Client,
}

/// Measures; progress goes to standard error.
///
/// # Errors
/// When something cannot be started, or a filter does not follow.
pub async fn run(settings: &Settings) -> Result<Found> {
    ensure!(
        settings.pods > LARGE_PODS && settings.pods.is_multiple_of(LARGE_PODS),
        "give a multiple of {LARGE_PODS} pods, and more than that"
    );
    let mut system = System::start(options(settings)).await?;
    let mut filters = Vec::new();
    for number in 0..settings.filters {
        filters.push(Asker::connect(system.ext_proc_address(number)?).await?);
    }
    let slots = slots(&system);
    eprintln!("{} pods and {} filters are up", settings.pods, filters.len());
    sleep(SETTLE).await;
    let envoy = Client::http1(system.address());
    let stage = Stage {
        cluster: system.kubernetes()?,
        filters: &filters,
        envoy,
    };
    for filter in &filters {
        let first = slots.front().context("no pods")?;
        follow(filter, first, true, Instant::now()).await?;
    }
    let begun = Instant::now();
    let seen = stage.play(settings, slots).await?;
    Ok(found(settings, &seen, begun.elapsed()))
}

/// A few ModelServers whose pods change, among others: an Envoy that reads a file for each cluster can't have many of them, as it takes an inotify
/// instance for each and a user has 128.
fn options(settings: &Settings) -> Options {
    let small = (0..SMALL).map(|number| (small(number), SMALL_PODS));
    let large = (1..settings.pods / LARGE_PODS).map(|number| (format!("large-{number}"), LARGE_PODS));
    let groups: Vec<_> = small
        .chain(large)
        .map(|(name, pods)| Group::instant(&name, "bench", u8::try_from(pods).unwrap_or(u8::MAX)))
        .collect();
    Options {
        routes: groups
            .iter()
            .map(|group| model_route(&group.name, &group.name, &group.name))
            .collect(),
        groups,
        cluster: Some(cluster::Options::default()),
        ext_procs: settings.filters,
        ..Options::default()
    }
}

fn small(number: u16) -> String {
    format!("small-{number}")
}

/// The first pod of each ModelServer whose pods change.
fn slots(system: &System) -> VecDeque<Slot> {
    let slots = (0..SMALL).map(small).filter_map(|model| {
        Some(Slot {
            ip: system.fleet().addresses(&model).into_iter().next()?,
            name: format!("{model}-0"),
            round: 0,
            model,
        })
    });
    slots.collect()
}

impl Stage<'_> {
    /// Plays all changes, at their pace.
    async fn play(&self, settings: &Settings, mut home: VecDeque<Slot>) -> Result<Vec<Seen>> {
        let mut away = VecDeque::new();
        let mut running = FuturesUnordered::new();
        let mut seen = Vec::new();
        let mut ticks = interval(Duration::from_secs_f64(1.0 / settings.rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let first = Instant::now();
        let until = first + settings.length;
        let mut comes = false;
        loop {
            tokio::select! {
                _ = ticks.tick(), if Instant::now() < until => {
                    // A pod comes after one has gone; at the start none has.
                    let slot = if comes { away.pop_front() } else { home.pop_front() };
                    if let Some(slot) = slot {
                        running.push(self.change(slot, comes, first.elapsed()));
                    }
                    comes = !comes;
                }
                Some(change) = running.next() => {
                    let change: Seen = change?;
                    match change.ready {
                        true => home.push_back(change.slot.clone()),
                        false => away.push_back(change.slot.clone()),
                    }
                    seen.push(change);
                }
                else => return Ok(seen),
            }
        }
    }

    async fn change(&self, mut slot: Slot, ready: bool, at: Duration) -> Result<Seen> {
        let followed = AtomicBool::new(false);
        let begun = Instant::now();
        let all = async {
            match ready {
                true => self.cluster.start_pod(&pod(&slot)).await?,
                false => self.cluster.end_pod("default", &slot.name).await?,
            }
            let told = begun.elapsed();
            let filters = self.filters.iter().map(|filter| follow(filter, &slot, ready, begun));
            let times = try_join_all(filters).await?;
            sleep(AFTERWARDS).await;
            anyhow::Ok((told, times))
        };
        let filters = async {
            let all = all.await;
            followed.store(true, Relaxed);
            all
        };
        let (filters, traffic) = tokio::join!(filters, self.traffic(&slot, begun, &followed));
        let (told, filters) = filters.with_context(|| format!("the pod {}", slot.name))?;
        let slowest = filters.iter().max().copied().unwrap_or_default();
        if slowest.as_secs_f64() * 1e3 > TARGET_MS {
            eprintln!(
                "{} {}, {:.1} s after the first change: {:.0} ms until all filters had followed, {:.0} ms until the API server had answered",
                slot.name,
                if ready { "became ready" } else { "was deleted" },
                at.as_secs_f64(),
                slowest.as_secs_f64() * 1e3,
                told.as_secs_f64() * 1e3,
            );
        }
        if !ready {
            self.cluster.remove_pod("default", &slot.name).await?;
            slot.round += 1;
            slot.name = format!("{}-0-{}", slot.model, slot.round);
            self.cluster.create_pod(&pod(&slot)).await?;
        }
        Ok(Seen {
            ready,
            slot,
            filters,
            traffic,
        })
    }

    /// Requests for the model of a slot, until all filters have followed.
    async fn traffic(&self, slot: &Slot, begun: Instant, followed: &AtomicBool) -> Traffic {
        let mut traffic = Traffic::default();
        while !followed.load(Relaxed) {
            let sent = begun.elapsed();
            traffic.sent += 1;
            match self.envoy.send(new_question(&slot.model)).await {
                Ok(answer) if answer.status == 200 => {
                    let server = answer.header("x-simulator-endpoint");
                    if server.split(':').next() == Some(&slot.ip.to_string()) {
                        traffic.last = sent;
                    }
                }
                Ok(answer) => {
                    eprintln!("{}: {} {}", slot.name, answer.status, answer.text());
                    traffic.errors += 1;
                }
                Err(error) => {
                    eprintln!("{}: {error:#}", slot.name);
                    traffic.errors += 1;
                }
            }
            sleep(ASK_EVERY).await;
        }
        traffic
    }
}

fn pod(slot: &Slot) -> PodSpec {
    PodSpec::new(&slot.name, &slot.model, slot.ip)
}

/// Asks a filter until a decision names the pod, or no longer does. How long after the change the answer came.
async fn follow(filter: &Asker, slot: &Slot, wanted: bool, begun: Instant) -> Result<Duration> {
    let deadline = Instant::now() + FOLLOWED_WITHIN;
    loop {
        let named = filter.destinations(&slot.model).await?.contains(&slot.ip);
        if named == wanted {
            return Ok(begun.elapsed());
        }
        ensure!(
            Instant::now() < deadline,
            "a filter has not followed within {FOLLOWED_WITHIN:?}"
        );
        sleep(ASK_EVERY).await;
    }
}

fn found(settings: &Settings, seen: &[Seen], elapsed: Duration) -> Found {
    let mut found = Found {
        table: "change           changes  until every filter has followed: p50 ms   p99 ms   max ms   requests  not answered\n".to_owned(),
        ..Found::default()
    };
    for (ready, name, what) in [
        (
            true,
            "pod-ready",
            "from a pod that becomes ready until every filter routes to it",
        ),
        (
            false,
            "pod-deleted",
            "from a pod that is deleted until no filter sends a new request to it",
        ),
    ] {
        let changes: Vec<_> = seen.iter().filter(|change| change.ready == ready).collect();
        let all = Spread::of(changes.iter().filter_map(|change| change.filters.iter().max().copied()));
        let each = Spread::of(changes.iter().flat_map(|change| change.filters.iter().copied()));
        let last = Spread::of(changes.iter().map(|change| change.traffic.last));
        let requests: u64 = changes.iter().map(|change| change.traffic.sent).sum();
        let errors: u64 = changes.iter().map(|change| change.traffic.errors).sum();
        found.errors += errors;
        found.table.push_str(&format!(
            "{name:16} {:7} {:41.1} {:8.1} {:8.1} {requests:10} {errors:13}\n",
            all.len(),
            all.ms(0.5),
            all.ms(0.99),
            all.ms(1.0),
        ));
        let mut line = json!({
            "case": name,
            "filters": settings.filters,
            "pods": settings.pods,
            "changes": all.len(),
            "changes_per_s": (seen.len() as f64 / elapsed.as_secs_f64() * 100.0).round() / 100.0,
            "requests": requests,
            "errors": errors,
        });
        extend(&mut line, &all, "");
        extend(&mut line, &each, "_each_filter");
        if !ready {
            line["last_request_ms"] = json!(last.ms(1.0));
        }
        found.lines.push(line);
        found.verdicts.push(Verdict {
            what: format!(
                "p99 in ms {what}, {} filters, {} pods, {} changes a second ({} changes)",
                settings.filters,
                settings.pods,
                settings.rate,
                all.len()
            ),
            is: all.ms(0.99),
            at_most: TARGET_MS,
        });
    }
    found
}

fn extend(line: &mut Value, spread: &Spread, of: &str) {
    if let Some(line) = line.as_object_mut() {
        line.extend(spread.fields(of));
    }
}
