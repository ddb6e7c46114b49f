//! The process: what listens, in which order it begins and how it stops.
//!
//! What must always hold: every port is bound before the first request is served; health says SERVING only while there
//! is state to decide on; a stopping process first says so, then waits for the requests it has, at most for the drain
//! timeout, and only then goes. It fails before it serves, with one sentence, when it cannot begin.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kthena_scheduler::lease::LeaseTable;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::access_log;
use crate::admin::Pages;
use crate::certificates::Acceptor;
use crate::config::{Config, Listen, Serve};
use crate::connections::{Services, serve};
use crate::decisions::Decisions;
use crate::metrics::Metrics;
use crate::state::{State, Subscription, Timing};
use crate::stream::{self, Shared};
use crate::telemetry;
use crate::workers::{Listener, Workers};

/// Names under which health is asked for: the server as a whole, liveness, readiness, and the service that Envoy uses.
const READINESS: [&str; 3] = ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor"];
const LIVENESS: &str = "liveness";
/// Settlements of our leases that other replicas told.
const SETTLEMENTS: usize = 1_024;
/// Explanations kept for the debug page.
const DECISIONS: usize = 100;
/// How often readiness is looked at.
const HEALTH_STEP: Duration = Duration::from_millis(100);
/// Envoy tells the access log of a request at most this long after its end (`buffer_flush_interval` of envoy.yaml, and some).
const LAST_LOGS: Duration = Duration::from_millis(300);

/// Runs until a signal ends it.
///
/// # Errors
/// When it cannot begin: a port is taken, a file cannot be read, a flag does not fit another.
pub async fn run(config: Config) -> Result<()> {
    let (shared, pages) = assemble(&config)?;
    let mut listeners = Vec::new();
    for listen in &config.serve.listen {
        listeners.push(bind(listen).await?);
    }
    let workers = Workers::start(threads(&config.serve))?;
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    serve_pages(&config.serve, &pages, &mut tasks).await?;
    // While the process drains, counts are still reported: its stream to the controller ends last.
    let (gone, going) = watch::channel(false);
    let (close_logs, logs_closing) = watch::channel(false);
    subscribe(&config, &shared, going, &mut tasks)?;

    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(LIVENESS, ServingStatus::Serving).await;
    tasks.spawn(report_health(reporter, Arc::clone(&pages), Arc::clone(&shared.state)));
    let grace = config.requests.access_log_grace;
    let services = Arc::new(Services {
        process: stream::service(Arc::clone(&shared)),
        logs: access_log::service(Arc::clone(&shared), grace, logs_closing),
        others: Routes::new(health),
    });
    let tls = acceptor(&config.serve)?;
    if let Some(tls) = tls.clone() {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            tls.follow(|outcome| shared.metrics.certificates("envoy", outcome))
                .await
        });
    }
    let mut servers = JoinSet::new();
    for listener in listeners {
        // Whoever may open a socket is trusted: its file says who.
        let tls = tls.clone().filter(|_| matches!(listener, Listener::Tcp(_)));
        let (shares, accepting) = workers.share(listener);
        for (thread, connections) in shares {
            let (services, stopping) = (Arc::clone(&services), stopping.clone());
            match &tls {
                Some(tls) => servers.spawn_on(serve(tls.secure(connections), services, stopping), &thread),
                None => servers.spawn_on(serve(connections, services, stopping), &thread),
            };
        }
        tasks.spawn(accepting);
    }
    tracing::info!(
        listen = %config.serve.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        admin = %config.serve.admin_listen,
        controller = config.state.state,
        "serving"
    );
    tokio::select! {
        ended = servers.join_next() => if let Some(ended) = ended {
            ended.context("a listener failed")?;
        },
        signalled = stop_signal() => signalled?,
    }
    let draining = Draining {
        pages,
        shared: Arc::clone(&shared),
        stop,
        close_logs,
    };
    draining.run(&mut servers, &config.serve).await;
    gone.send_replace(true);
    tasks.abort_all();
    // Sending the last spans may block for some seconds, when nobody takes them.
    tokio::task::block_in_place(|| shared.tracing.shutdown());
    Ok(())
}

fn threads(serve: &Serve) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    serve.workers.map_or_else(cores, usize::from)
}

/// What streams share, and the pages about it.
fn assemble(config: &Config) -> Result<(Arc<Shared>, Arc<Pages>)> {
    let tracing = telemetry::install(&config.telemetry)?;
    let state = State::new(&config.sizes());
    let max_open = config.bounds.max_in_flight as usize;
    let leases = Arc::new(LeaseTable::new(max_open, max_open));
    let metrics = Arc::new(Metrics::new(
        Arc::clone(&state),
        Arc::clone(&leases),
        config.bounds.max_metric_series as usize,
    ));
    let logged = config.requests.explain_log_share > 0.0;
    let decisions = Arc::new(Decisions::new(DECISIONS, logged));
    let pages = Pages::new(Arc::clone(&state), Arc::clone(&metrics), Arc::clone(&decisions));
    let shared = Arc::new(Shared {
        state: Arc::clone(&state),
        settings: config.requests.settings(),
        leases,
        metrics,
        decisions,
        tracing,
        max_held: config.bounds.max_held as usize,
    });
    Ok((shared, pages))
}

/// What a stopping process tells, and looks at.
struct Draining {
    pages: Arc<Pages>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    close_logs: watch::Sender<bool>,
}

impl Draining {
    /// Says that no more should come, then waits for what is here.
    async fn run(self, servers: &mut JoinSet<()>, serve: &Serve) {
        self.pages.drain();
        let timeout = serve.drain_timeout;
        tracing::info!(timeout_s = timeout.as_secs(), "stopping: waiting for open requests");
        // Time for whoever balances over us to see it.
        tokio::time::sleep(serve.drain_delay).await;
        self.stop.send_replace(true);
        let all = async {
            while self.has_requests() {
                tokio::time::sleep(HEALTH_STEP).await;
            }
            tokio::time::sleep(LAST_LOGS).await;
            self.close_logs.send_replace(true);
            while servers.join_next().await.is_some() {}
        };
        if tokio::time::timeout(timeout, all).await.is_err() {
            tracing::warn!("the drain timeout is over: open requests are cut off");
        }
    }

    /// Whether a request is decided or its end is awaited.
    fn has_requests(&self) -> bool {
        let streams = &self.shared.metrics.readings().streams;
        streams.load(Relaxed) > 0 || self.shared.leases.open() > 0
    }
}

async fn stop_signal() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}

fn subscribe(
    config: &Config,
    shared: &Arc<Shared>,
    going: watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let (sender, mut settlements) = mpsc::channel(SETTLEMENTS);
    let timing = Timing {
        report: config.state.report_interval,
        ..Timing::default()
    };
    let state = Arc::clone(&shared.state);
    let controller = config.state.controller()?;
    let mut subscription =
        Subscription::new(state, controller.clone(), timing, sender).within(config.state.namespaces.clone());
    if let Some(path) = &config.state.state_cache {
        subscription = subscription.with_cache(path.clone(), config.bounds.max_state_cache_bytes);
    }
    let metrics = Arc::clone(&shared.metrics);
    tasks.spawn(async move {
        controller
            .follow_certificates(|outcome| metrics.certificates("controller", outcome))
            .await;
    });
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        while let Some(settlement) = settlements.recv().await {
            shared.settle(settlement.lease, &settlement.served);
        }
    });
    tasks.spawn(subscription.run(going));
    Ok(())
}

/// Keeps gRPC health at what the pages say.
async fn report_health(reporter: HealthReporter, pages: Arc<Pages>, state: Arc<State>) {
    let mut changed = state.changed();
    loop {
        let status = match pages.is_ready() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for name in READINESS {
            reporter.set_service_status(name, status).await;
        }
        // Draining is seen at the next step, the first state at once.
        let _ = tokio::time::timeout(HEALTH_STEP, changed.changed()).await;
    }
}

async fn serve_pages(serve: &Serve, pages: &Arc<Pages>, tasks: &mut JoinSet<()>) -> Result<()> {
    let admin = TcpListener::bind(serve.admin_listen)
        .await
        .with_context(|| taken(&serve.admin_listen.to_string(), "--admin-listen"))?;
    let router = pages.admin();
    tasks.spawn(async move {
        if let Err(error) = axum::serve(admin, router).await {
            tracing::error!(%error, "the admin pages are gone");
        }
    });
    if let Some(address) = serve.debug_listen {
        let debug = TcpListener::bind(address)
            .await
            .with_context(|| taken(&address.to_string(), "--debug-listen"))?;
        let router = pages.debug();
        tasks.spawn(async move {
            if let Err(error) = axum::serve(debug, router).await {
                tracing::error!(%error, "the debug pages are gone");
            }
        });
    }
    Ok(())
}

fn taken(address: &str, flag: &str) -> String {
    format!("cannot listen on {address}: free it, or choose another with {flag}")
}

async fn bind(listen: &Listen) -> Result<Listener> {
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await;
            Ok(Listener::Tcp(
                listener.with_context(|| taken(&address.to_string(), "--listen"))?,
            ))
        }
        Listen::Unix(path) => {
            forget_dead_socket(path).await?;
            let listener =
                UnixListener::bind(path).with_context(|| taken(&format!("unix:{}", path.display()), "--listen"))?;
            Ok(Listener::Unix(listener, path.clone()))
        }
    }
}

/// Removes a socket that an earlier process left behind, never one that somebody listens on.
async fn forget_dead_socket(path: &Path) -> Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(metadata) = tokio::fs::symlink_metadata(path).await else {
        return Ok(());
    };
    let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    let dead = tokio::net::UnixStream::connect(path)
        .await
        .is_err_and(|error| refused(&error));
    if metadata.file_type().is_socket() && dead {
        tokio::fs::remove_file(path)
            .await
            .with_context(|| format!("cannot remove the dead socket {}", path.display()))?;
    }
    Ok(())
}

fn acceptor(serve: &Serve) -> Result<Option<Acceptor>> {
    let files = serve.tls_cert.clone().zip(serve.tls_key.clone());
    let opened = files
        .map(|(certificate, key)| Acceptor::open(certificate, key))
        .transpose();
    opened.map_err(anyhow::Error::msg).context("--tls-cert and --tls-key")
}
