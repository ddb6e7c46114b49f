//! Stories of observation, told by model servers that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a story's helpers may fail it

mod engine;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use engine::{Engine, metrics};
use kthena_controller::clock::Clock;
use kthena_controller::compile::{EndpointKey, Facts, ScrapeTarget};
use kthena_controller::metrics::Metrics;
use kthena_controller::observe::{Observation, Scraper, Settings, Share, Table};
use kthena_gateway_api::InferenceEngine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

struct Observer {
    table: Arc<Table>,
    metrics: Metrics,
    scraper: Scraper,
    facts: Facts,
}

fn settings() -> Settings {
    Settings {
        interval: Duration::from_millis(30),
        timeout: Duration::from_millis(120),
        models_interval: Duration::from_millis(300),
        down_after: 3,
        max_bytes: 100_000,
        max_in_flight: 100,
        max_targets: 100,
    }
}

fn observer(settings: Settings) -> Observer {
    let table = Table::new();
    let metrics = Metrics::default();
    let scraper = Scraper::new(
        settings,
        Arc::new(Share::new("alone")),
        Arc::clone(&table),
        Clock::start(),
        metrics.observe.clone(),
    )
    .unwrap();
    Observer {
        table,
        metrics,
        scraper,
        facts: Facts::default(),
    }
}

fn target(uid: &str, address: SocketAddr, https: bool) -> Arc<ScrapeTarget> {
    Arc::new(ScrapeTarget {
        uid: uid.into(),
        port: address.port(),
        endpoint: 0,
        address,
        start: 0,
        pod: format!("ns/{uid}"),
        engine: InferenceEngine::Vllm,
        https,
        servers: Vec::new(),
    })
}

impl Observer {
    fn observe(&mut self, targets: &[Arc<ScrapeTarget>]) {
        let keyed = |target: &Arc<ScrapeTarget>| {
            let (uid, port) = (target.uid.clone(), target.port);
            (EndpointKey { uid, port }, Arc::clone(target))
        };
        self.scraper.set_targets(&targets.iter().map(keyed).collect());
    }

    fn facts(&mut self) -> Facts {
        self.table.follow(&mut self.facts);
        self.facts.clone()
    }

    async fn until(
        &self,
        uid: &str,
        engine: SocketAddr,
        what: &str,
        condition: impl Fn(&Observation) -> bool,
    ) -> Observation {
        let key = EndpointKey {
            uid: uid.into(),
            port: engine.port(),
        };
        let wait = async {
            loop {
                if let Some(seen) = self.table.get(&key).filter(&condition) {
                    return seen;
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("waited in vain: {what}"))
    }
}

#[tokio::test]
async fn an_engine_is_known_after_its_first_answers_over_one_connection() {
    let engine = Engine::start().await;
    let mut observer = observer(settings());
    observer.observe(&[target("a", engine.address, false)]);
    assert_eq!(observer.facts().pending.len(), 1);
    let seen = observer
        .until("a", engine.address, "the first sample", |seen| {
            seen.sampled_at.is_some()
        })
        .await;
    assert_eq!(seen.sample.waiting, Some(1));
    assert_eq!(seen.fact.models, ["adapter", "llama"]);
    assert_eq!(
        (seen.fact.kv_capacity_tokens, seen.fact.incarnation),
        (Some(1600), 5000)
    );
    assert_eq!(observer.facts().pending.len(), 0);

    engine.answers.lock().metrics = Some(metrics(9, 5));
    observer
        .until("a", engine.address, "the next sample", |seen| {
            seen.sample.waiting == Some(9)
        })
        .await;
    let looks = engine.asked("/metrics");
    observer
        .until("a", engine.address, "more samples", |_| {
            engine.asked("/metrics") > looks + 20
        })
        .await;
    assert_eq!(engine.connections.load(SeqCst), 1, "the connection is kept alive");
    assert!(
        engine.asked("/v1/models") < 10,
        "models are asked rarely: {}",
        engine.asked("/v1/models")
    );
}

#[tokio::test]
async fn a_restart_is_seen_and_its_models_are_asked_at_once() {
    let engine = Engine::start().await;
    let mut slow_models = settings();
    slow_models.models_interval = Duration::from_secs(3600);
    let mut observer = observer(slow_models);
    observer.observe(&[target("a", engine.address, false)]);
    observer
        .until("a", engine.address, "first", |seen| seen.fact.models.len() == 2)
        .await;
    {
        let mut answers = engine.answers.lock();
        answers.metrics = Some(metrics(0, 6));
        answers.models = r#"{"data":[{"id":"llama"}]}"#;
    }
    let seen = observer
        .until("a", engine.address, "restart", |seen| seen.fact.incarnation == 6000)
        .await;
    assert_eq!(seen.fact.models, ["llama"]);
}

#[tokio::test]
async fn an_engine_that_hangs_goes_down_without_delaying_another_and_comes_back() {
    let (stuck, fine) = (Engine::start().await, Engine::start().await);
    stuck.answers.lock().hangs = true;
    let mut observer = observer(settings());
    observer.observe(&[
        target("stuck", stuck.address, false),
        target("fine", fine.address, false),
    ]);
    let begun = Instant::now();
    observer
        .until("fine", fine.address, "many samples", |_| fine.asked("/metrics") > 5)
        .await;
    let down = observer.until("stuck", stuck.address, "down", |seen| seen.down).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(down.sampled_at, None);
    assert_eq!(observer.metrics.observe.down.get(), 1);
    stuck.answers.lock().hangs = false;
    observer
        .until("stuck", stuck.address, "up", |seen| {
            !seen.down && seen.sample.waiting == Some(1)
        })
        .await;
    assert_eq!(observer.metrics.observe.down.get(), 0);
}

#[tokio::test]
async fn an_engine_that_dies_keeps_its_last_sample_and_is_up_at_its_first_answer() {
    let engine = Engine::start().await;
    let address = engine.address;
    let mut observer = observer(settings());
    observer.observe(&[target("a", address, false)]);
    observer
        .until("a", address, "a sample", |seen| seen.sampled_at.is_some())
        .await;
    drop(engine);
    let down = observer.until("a", address, "down", |seen| seen.down).await;
    assert_eq!(down.sample.waiting, Some(1), "what was known only grows old");
    let again = observer.until("a", address, "still", |seen| seen.down).await;
    assert_eq!(again.sampled_at, down.sampled_at);
    let _engine = Engine::start_on(address, None).await;
    observer.until("a", address, "up", |seen| !seen.down).await;
}

#[tokio::test]
async fn without_metrics_the_health_check_decides() {
    let engine = Engine::start().await;
    engine.answers.lock().metrics = None;
    let mut observer = observer(settings());
    observer.observe(&[target("a", engine.address, false)]);
    let seen = observer
        .until("a", engine.address, "models", |seen| seen.fact.models.len() == 2)
        .await;
    assert!(seen.sampled_at.is_none() && !seen.down);
    engine.answers.lock().unhealthy = true;
    observer.until("a", engine.address, "down", |seen| seen.down).await;
    engine.answers.lock().unhealthy = false;
    observer.until("a", engine.address, "up", |seen| !seen.down).await;
}

#[tokio::test]
async fn an_engine_that_calls_itself_unhealthy_is_down_although_it_has_metrics() {
    let engine = Engine::start().await;
    let mut observer = observer(settings());
    observer.observe(&[target("a", engine.address, false)]);
    observer.until("a", engine.address, "up", |seen| !seen.down).await;
    engine.answers.lock().unhealthy = true;
    observer.until("a", engine.address, "down", |seen| seen.down).await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_read() {
    let engine = Engine::start().await;
    engine.answers.lock().metrics = Some(metrics(1, 5) + &"# x\n".repeat(50_000));
    let mut observer = observer(settings());
    observer.observe(&[target("a", engine.address, false)]);
    let seen = observer.until("a", engine.address, "down", |seen| seen.down).await;
    assert_eq!(seen.sampled_at, None);
}

#[tokio::test]
async fn what_is_no_target_any_more_is_forgotten_and_a_moved_one_asked_anew() {
    let (one, two) = (Engine::start().await, Engine::start().await);
    let mut observer = observer(settings());
    let mut moved = target("a", one.address, false);
    observer.observe(std::slice::from_ref(&moved));
    observer
        .until("a", one.address, "first", |seen| seen.sampled_at.is_some())
        .await;
    Arc::make_mut(&mut moved).address = two.address;
    two.answers.lock().metrics = Some(metrics(2, 7));
    observer.observe(std::slice::from_ref(&moved));
    assert_eq!(observer.facts().pending.len(), 1, "another server is behind it");
    observer
        .until("a", one.address, "second", |seen| seen.fact.incarnation == 7000)
        .await;
    observer.observe(&[]);
    assert_eq!(observer.facts(), Default::default());
}

#[tokio::test]
async fn bounds_on_targets_and_scrapes_hold() {
    let engines = [Engine::start().await, Engine::start().await, Engine::start().await];
    for engine in &engines[..2] {
        engine.answers.lock().hangs = true;
    }
    let mut few = settings();
    (few.max_targets, few.max_in_flight) = (2, 1);
    let mut observer = observer(few);
    let targets: Vec<_> = engines
        .iter()
        .enumerate()
        .map(|(n, e)| target(&n.to_string(), e.address, false))
        .collect();
    observer.observe(&targets);
    observer.until("0", engines[0].address, "down", |seen| seen.down).await;
    observer.until("1", engines[1].address, "down", |seen| seen.down).await;
    assert_eq!(engines[2].asked("/metrics"), 0);
    assert_eq!(observer.metrics.observe.targets_refused.get(), 1);
    assert!(observer.metrics.observe.throttled.get() > 0);
}

#[tokio::test]
async fn an_engine_that_speaks_tls_is_observed() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["engine".to_string()]).unwrap();
    let cert = params.self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let engine = Engine::start_on("127.0.0.1:0".parse().unwrap(), Some(acceptor)).await;
    let mut observer = observer(settings());
    observer.observe(&[target("a", engine.address, true)]);
    observer
        .until("a", engine.address, "a sample", |seen| seen.sample.waiting == Some(1))
        .await;
}

/// A server that closes idle connections costs nobody a scrape.
#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_silently() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answered);
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            answer_once(stream, &count).await;
        }
    });
    let mut observer = observer(settings());
    observer.observe(&[target("a", address, false)]);
    observer
        .until("a", address, "many samples", |seen| {
            seen.sampled_at.is_some() && answered.load(SeqCst) > 30
        })
        .await;
    for reason in ["connect", "broken", "timeout"] {
        let failures = &observer.metrics.observe.failures;
        let count = failures.get_or_create(&kthena_controller::metrics::kind(reason)).get();
        assert_eq!(count, 0, "{reason}");
    }
    server.abort();
}

async fn answer_once(mut stream: TcpStream, answered: &AtomicUsize) {
    let mut read = [0; 4096];
    let Ok(1..) = stream.read(&mut read).await else { return };
    let body = metrics(1, 5);
    let head = format!("HTTP/1.1 200 x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    answered.fetch_add(1, SeqCst);
}
