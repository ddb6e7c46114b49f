//! Asks every endpoint, each on a schedule of its own.
//!
//! One task an endpoint, so at most one scrape of it is in flight and one that hangs delays nobody; the number in flight
//! over all is bounded. Schedules are spread over the interval and jittered by a hash, so that replicas of the controller
//! and endpoints that came together do not ask in step. Each scrape is `/metrics`; `/v1/models` and `/health` are asked
//! more rarely, at once when the engine has restarted, and `/health` at every scrape where there are no metrics or where
//! it failed last.
//!
//! What is another controller's to observe (`share`) is left to it as long as it tells of it: where it does not, for whatever reason, it is asked
//! from here as well. So no endpoint is ever out of sight, and at worst one is looked at twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use kthena_gateway_api::InferenceEngine;
use kthena_scheduler::snapshot::Engine;
use kthena_scheduler::time::Time;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::engine::series_of;
use super::link::{Failure, Link, tls_connector};
use super::parse::Reader;
use super::probe::Probe;
use super::share::Share;
use super::table::Table;
use crate::clock::Clock;
use crate::compile::{EndpointKey, ScrapeTarget};
use crate::metrics::{self, kind};

/// How long an endpoint that is another controller's may be unknown before it is asked from here, too.
const FIRST_WORD: Duration = Duration::from_millis(50);

/// How endpoints are observed.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Time from one scrape of an endpoint to the next.
    pub interval: Duration,
    /// How long a scrape may take.
    pub timeout: Duration,
    /// Time from one look at `/v1/models` and `/health` to the next.
    pub models_interval: Duration,
    /// Failures in a row after which an endpoint is down.
    pub down_after: u32,
    /// Largest answer, bytes.
    pub max_bytes: usize,
    /// Scrapes in flight at one time.
    pub max_in_flight: usize,
    /// Endpoints observed.
    pub max_targets: usize,
}

/// Observes a set of endpoints and writes what it learns into a table.
#[derive(Debug)]
pub struct Scraper {
    shared: Arc<Shared>,
    /// As they were set last.
    targets: OrdMap<EndpointKey, Arc<ScrapeTarget>>,
    /// How many were left out.
    refused: usize,
    tasks: BTreeMap<EndpointKey, Task>,
}

struct Shared {
    settings: Settings,
    share: Arc<Share>,
    table: Arc<Table>,
    clock: Clock,
    metrics: metrics::Observe,
    permits: Semaphore,
    tls: TlsConnector,
}

#[derive(Debug)]
struct Task {
    address: SocketAddr,
    start: u64,
    engine: InferenceEngine,
    https: bool,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

// === impl Scraper ===

impl Scraper {
    /// Observes nothing yet.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        settings: Settings,
        share: Arc<Share>,
        table: Arc<Table>,
        clock: Clock,
        metrics: metrics::Observe,
    ) -> Result<Self, rustls::Error> {
        let shared = Shared {
            permits: Semaphore::new(settings.max_in_flight),
            settings,
            share,
            table,
            clock,
            metrics,
            tls: tls_connector()?,
        };
        Ok(Self {
            shared: Arc::new(shared),
            targets: OrdMap::new(),
            refused: 0,
            tasks: BTreeMap::new(),
        })
    }

    /// Observes exactly these from now on; new ones at once. Beyond the bound, the last of them are left out: they are served, but nothing is
    /// known of their load. What has not changed is not looked at.
    pub fn set_targets(&mut self, targets: &OrdMap<EndpointKey, Arc<ScrapeTarget>>) {
        let room = self.shared.settings.max_targets;
        let allowed = match targets.len() <= room {
            true => targets.clone(),
            false => targets
                .iter()
                .take(room)
                .map(|(key, target)| (key.clone(), Arc::clone(target)))
                .collect(),
        };
        let refused = targets.len() - allowed.len();
        if refused > self.refused {
            tracing::warn!(
                refused,
                "more endpoints than --scrape-max-targets: the rest are not observed"
            );
        }
        self.refused = refused;
        self.shared.metrics.targets.set(allowed.len() as i64);
        self.shared.metrics.targets_refused.set(refused as i64);
        let before = std::mem::replace(&mut self.targets, allowed.clone());
        for difference in before.diff(&allowed) {
            match difference {
                DiffItem::Add(key, target) | DiffItem::Update { new: (key, target), .. } => self.begin(key, target),
                DiffItem::Remove(key, _) => self.end(key),
            }
        }
    }

    fn end(&mut self, key: &EndpointKey) {
        self.tasks.remove(key);
        self.shared.table.drop_row(key);
    }

    /// Begins to observe, unless the same server is observed already.
    fn begin(&mut self, key: &EndpointKey, target: &Arc<ScrapeTarget>) {
        let same = |task: &Task| {
            (task.address, task.start, task.engine, task.https)
                == (target.address, target.start, target.engine, target.https)
        };
        if self.tasks.get(key).is_some_and(same) {
            return;
        }
        self.tasks.remove(key);
        self.shared.table.expect(key, asked(target), self.shared.word_since());
        let task = Task {
            address: target.address,
            start: target.start,
            engine: target.engine,
            https: target.https,
            handle: tokio::spawn(observe(Arc::clone(&self.shared), key.clone(), Arc::clone(target))),
        };
        self.tasks.insert(key.clone(), task);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Names what is asked. Controllers whose objects differ for a moment so tell that they do not speak of the same server.
fn asked(target: &ScrapeTarget) -> u64 {
    let text = format!(
        "{}/{}/{:?}/{}",
        target.address, target.start, target.engine, target.https
    );
    twox_hash::XxHash3_64::oneshot(text.as_bytes())
}

// === impl Shared ===

impl Shared {
    /// Who observes an endpoint has told of it since then, or is taken not to observe it.
    fn word_since(&self) -> Time {
        let settings = &self.settings;
        let patience = settings.interval.saturating_mul(2).saturating_add(settings.timeout);
        let now = self.clock.now().as_millis();
        Time::from_millis(now.saturating_sub(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Whether an endpoint is another controller's to observe, and that one does.
    fn is_left_to_another(&self, key: &EndpointKey) -> bool {
        !self.share.is_ours(key) && self.table.is_seen_by_other(key, self.word_since())
    }
}

// === one endpoint ===

/// What the task of one endpoint holds from scrape to scrape.
struct Endpoint {
    shared: Arc<Shared>,
    link: Link,
    reader: Reader,
    probe: Probe,
    /// When `/v1/models` and `/health` are asked next.
    slow_at: Instant,
    body: Vec<u8>,
}

async fn observe(shared: Arc<Shared>, key: EndpointKey, target: Arc<ScrapeTarget>) {
    let settings = shared.settings;
    let engine = match target.engine {
        InferenceEngine::Vllm => Engine::Vllm,
        InferenceEngine::Sglang => Engine::Sglang,
    };
    let tls = target.https.then(|| shared.tls.clone());
    let mut endpoint = Endpoint {
        link: Link::new(target.address, tls, settings.max_bytes),
        reader: Reader::new(series_of(engine)),
        probe: Probe::new(settings.down_after),
        slow_at: Instant::now(),
        body: Vec::new(),
        shared: Arc::clone(&shared),
    };
    let mut next = Instant::now();
    if !shared.share.is_ours(&key) {
        next += FIRST_WORD;
    }
    // Whether another may have looked at it since we did, and what it was then.
    let (mut away, mut down) = (true, false);
    for round in 0u64.. {
        sleep_until(next).await;
        let begun = Instant::now();
        // From the second on they are spread over the interval, then they keep their distance.
        let spread = if round == 0 { 1.0 } else { 0.2 };
        let factor = 1.0 + spread * (jitter(&key, round) - 0.5);
        next = begun + settings.interval.mul_f64(factor);
        if shared.is_left_to_another(&key) {
            endpoint.link.close();
            away = true;
            let is_down = shared.table.get(&key).is_some_and(|seen| seen.down);
            if std::mem::replace(&mut down, is_down) != is_down {
                shared.metrics.down.set(shared.table.down() as i64);
            }
            continue;
        }
        if std::mem::take(&mut away)
            && let Some(seen) = shared.table.get(&key)
        {
            endpoint.probe.resume(seen);
        }

        let Some(_permit) = permit(&shared).await else { return };
        let begun = Instant::now();
        let result = timeout(settings.timeout, endpoint.scrape()).await;
        let result = result.unwrap_or(Err(Failure::Timeout));
        shared.metrics.duration.observe(begun.elapsed().as_secs_f64());
        if let Err(failure) = &result {
            endpoint.link.close();
            shared.metrics.failures.get_or_create(&kind(failure.label())).inc();
            tracing::debug!(pod = %target.pod, address = %target.address, %failure, "scrape failed");
        }
        let was_down = shared.table.get(&key).is_some_and(|seen| seen.down);
        let seen = endpoint.probe.end(result.is_ok());
        match (was_down, seen.down, result) {
            (false, true, Err(failure)) => {
                tracing::warn!(pod = %target.pod, address = %target.address, %failure, "endpoint is down");
            }
            (true, false, _) => tracing::info!(pod = %target.pod, address = %target.address, "endpoint is up"),
            _ => {}
        }
        let changed = was_down != seen.down;
        shared.table.store(&key, seen, shared.clock.now());
        if changed {
            shared.metrics.down.set(shared.table.down() as i64);
        }
    }
}

/// The right to have one more scrape in flight; `None` when the scraper is gone.
async fn permit(shared: &Shared) -> Option<tokio::sync::SemaphorePermit<'_>> {
    if let Ok(permit) = shared.permits.try_acquire() {
        return Some(permit);
    }
    shared.metrics.throttled.inc();
    shared.permits.acquire().await.ok()
}

/// 0 to 1, the same for the same endpoint and round.
fn jitter(key: &EndpointKey, round: u64) -> f64 {
    let seed = round.wrapping_mul(65_536).wrapping_add(u64::from(key.port));
    let hash = twox_hash::XxHash3_64::oneshot_with_seed(seed, key.uid.as_bytes());
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

// === impl Endpoint ===

impl Endpoint {
    async fn scrape(&mut self) -> Result<(), Failure> {
        self.reader.reset();
        let reader = &mut self.reader;
        let measured = match self.link.get("/metrics", |chunk| reader.push(chunk)).await {
            Ok(()) => true,
            // It answers, but has no metrics: the health check says whether it serves.
            Err(Failure::Status(_)) => false,
            Err(failure) => return Err(failure),
        };
        if measured {
            let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let unix_ms = unix.map_or(0, |since| since.as_millis() as u64);
            let reading = self.reader.finish();
            self.probe.read(&reading, self.shared.clock.now(), unix_ms);
        }
        let slow = Instant::now() >= self.slow_at;
        if slow || self.probe.models_due() {
            self.list().await?;
        }
        if slow || !measured || self.probe.unhealthy() {
            let health = self.link.get("/health", |_| {}).await;
            self.probe.health(health.is_ok());
            health?;
        }
        if slow {
            self.slow_at = Instant::now() + self.shared.settings.models_interval;
        }
        Ok(())
    }

    /// Asks for the models. An engine that lists none to us (it may want a key) just has none that we know.
    async fn list(&mut self) -> Result<(), Failure> {
        self.body.clear();
        let body = &mut self.body;
        match self.link.get("/v1/models", |chunk| body.extend_from_slice(chunk)).await {
            Ok(()) => self.probe.list(model_names(&self.body)),
            Err(Failure::Status(_)) => self.probe.list(Vec::new()),
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

/// The names in an answer of `/v1/models`; none when it cannot be read.
fn model_names(body: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Models {
        data: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }
    serde_json::from_slice::<Models>(body).map_or_else(
        |_| Vec::new(),
        |models| models.data.into_iter().map(|model| model.id).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_spread_and_repeatable() {
        let key = |n: u16| EndpointKey {
            uid: format!("pod-{n}"),
            port: n,
        };
        let all: Vec<f64> = (0..1000).map(|n| jitter(&key(n), 0)).collect();
        assert!(all.iter().all(|value| (0.0..1.0).contains(value)));
        let mean = all.iter().sum::<f64>() / 1000.0;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
        assert_ne!(jitter(&key(1), 0), jitter(&key(1), 1));
        assert_eq!(jitter(&key(1), 7), jitter(&key(1), 7));
    }

    #[test]
    fn model_names_are_read_where_they_can_be() {
        let body = br#"{"object":"list","data":[{"id":"tiny","parent":null},{"id":"ad\"apter"}]}"#;
        assert_eq!(model_names(body), ["tiny", "ad\"apter"]);
        for odd in [&b""[..], b"{}", br#"{"data":[{"id":3}]}"#] {
            assert!(model_names(odd).is_empty());
        }
    }
}
