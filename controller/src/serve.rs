//! Puts the parts together and runs them until told to stop.
//!
//! What must always hold: everything that can be wrong with the settings, files and addresses is found before anything
//! is served; when one part ends, so does the process, with the reason.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::{self, Admin};
use crate::clock::Clock;
use crate::compile::{self, Compiler};
use crate::config::{self, Config};
use crate::envoy::{Files, Rollout};
use crate::leader::Candidate;
use crate::metrics::Metrics;
use crate::observe::{Scraper, Share, Table};
use crate::peers;
use crate::picture::Picture;
use crate::publish::{Address, Hub, Server};
use crate::run::{self, Parts};
use crate::source::Source;
use crate::source::folder::FolderSource;
use crate::source::kubernetes::{Connection, KubernetesSource};
use crate::writeback::Writer;

/// Runs the controller until `stop` resolves.
///
/// # Errors
/// A setting, file or address cannot be used, or a part ended.
pub async fn serve(config: &Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    config.check()?;
    let settings = compiler_settings(config)?;
    let clock = Clock::start();
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let table = Table::new();
    let hub = Hub::new(config.publish(), Arc::clone(&table), clock, metrics.publish.clone());
    registry.register_collector(Box::new(hub.requests()));
    let share = Arc::new(Share::new(hub.instance()));
    let (picture, picture_seen) = watch::channel(Arc::new(Picture::default()));
    let (ready, mut ready_seen) = watch::channel(false);
    let pages = Admin {
        registry: Arc::new(registry),
        hub: Arc::clone(&hub),
        table: Arc::clone(&table),
        picture: picture_seen,
        ready: ready_seen.clone(),
    };

    let address = config.state_address()?;
    let Listeners { state, machine, debug } = bind(config, &address, &hub, &metrics).await?;
    let files = open_files(config)?;
    let others = peers::run(
        config.peers()?,
        Arc::clone(&hub),
        Arc::clone(&share),
        metrics.publish.peers.clone(),
    );
    let parts = Parts {
        compiler: Compiler::new(settings),
        scraper: Scraper::new(
            config.observe(),
            share,
            Arc::clone(&table),
            clock,
            metrics.observe.clone(),
        )?,
        table,
        hub,
        files,
        rollout: Rollout::new(config.rollout()),
        first_state_wait: config.first_state_wait(),
        clock,
        metrics: metrics.compile.clone(),
        picture,
        ready,
    };
    let Started { mut source, from, api } = start_source(config, &metrics).await?;
    let (stopping, stop_seen) = watch::channel(false);
    let candidate = api.map(|api| write_back(config, api, &pages, &metrics, stop_seen));
    let announce = async {
        if ready_seen.wait_for(|ready| *ready).await.is_ok() {
            tracing::info!(
                state = %address,
                admin = %config.admin_listen,
                debug = %config.debug_listen,
                %from,
                "ready"
            );
        }
        std::future::pending::<()>().await;
    };
    let result = tokio::select! {
        () = stop => Ok(()),
        () = announce => Ok(()),
        ended = state.run(std::future::pending()) => ended.context("the state service ended"),
        ended = admin::serve(machine, pages.clone().machine_pages()) => ended.context("the admin pages ended"),
        ended = admin::serve(debug, pages.debug_pages()) => ended.context("the debug pages ended"),
        () = others => Ok(()),
        () = run::run(parts, source.events()) => Err(anyhow::anyhow!("{from} is not watched any more")),
    };
    // A Lease that is given back makes a successor lead at once.
    stopping.send_replace(true);
    if let Some(candidate) = candidate {
        let _ = tokio::time::timeout(config.stop_timeout, candidate).await;
    }
    result
}

/// Everything that is listened on.
struct Listeners {
    state: Server,
    machine: TcpListener,
    debug: TcpListener,
}

async fn bind(config: &Config, address: &Address, hub: &Arc<Hub>, metrics: &Metrics) -> anyhow::Result<Listeners> {
    Ok(Listeners {
        state: Server::bind(
            address,
            config.access()?,
            Arc::clone(hub),
            config.state_timeouts(),
            metrics.publish.clone(),
        )
        .await?,
        machine: admin::bind(config.admin_listen, "--admin-listen").await?,
        debug: admin::bind(config.debug_listen, "--debug-listen").await?,
    })
}

fn open_files(config: &Config) -> anyhow::Result<Option<Files>> {
    let Some(folder) = &config.envoy_dir else {
        return Ok(None);
    };
    let shown = folder.display();
    let files = Files::open(folder)
        .with_context(|| format!("cannot use {shown} for Envoy's files (--envoy-dir): make it writable"))?;
    Ok(Some(files))
}

/// A source of objects that runs.
struct Started {
    source: Source,
    /// What it is, for people.
    from: String,
    /// The API server, if it is one.
    api: Option<Connection>,
}

async fn start_source(config: &Config, metrics: &Metrics) -> anyhow::Result<Started> {
    match config.source() {
        config::Source::Folder(folder) => Ok(Started {
            from: format!("the folder {}", folder.path.display()),
            source: Source::Folder(FolderSource::start(folder)?),
            api: None,
        }),
        config::Source::Kubernetes(target, settings) => {
            let api = target.connect().await?;
            let from = format!("the API server {}", api.server);
            tracing::info!("watching {from}");
            let source = KubernetesSource::start(api.client.0.clone(), settings, metrics.watch.clone());
            Ok(Started {
                source: Source::Kubernetes(source),
                from,
                api: Some(api),
            })
        }
    }
}

/// Campaigns for the Lease and writes status and events while it is held. Ends when `stop` turns true, with the Lease given back.
fn write_back(
    config: &Config,
    api: Connection,
    pages: &Admin,
    metrics: &Metrics,
    mut stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let identity = identity();
    let client = api.client.0;
    let (always, leads_always) = watch::channel(true);
    let (leading, campaign) = match config.leader(&api.namespace, identity.clone()) {
        Some(settings) => {
            let (candidate, leading) = Candidate::new(settings, metrics.status.leading.clone());
            (leading, Some(candidate))
        }
        None => {
            metrics.status.leading.set(1);
            (leads_always, None)
        }
    };
    let writer = Writer::new(
        client.clone(),
        identity,
        Arc::clone(&pages.hub),
        pages.picture.clone(),
        leading,
        metrics.status.clone(),
    );
    tokio::spawn(async move {
        let campaign = async {
            match campaign {
                Some(candidate) => candidate.run(client, stop).await,
                None => {
                    let _ = stop.wait_for(|stop| *stop).await;
                }
            }
            drop(always);
        };
        tokio::select! {
            () = campaign => {}
            () = writer.run() => {}
        }
    })
}

/// Names this process: the machine, or the pod, and its start.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    let host = host.or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let started = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    let host = host.as_deref().map_or("kthena-controller", str::trim);
    format!("{host}_{}-{started:x}", std::process::id())
}

fn compiler_settings(config: &Config) -> anyhow::Result<compile::Settings> {
    let mut settings = compile::Settings {
        default_retry_attempts: config.default_retry_attempts,
        ..compile::Settings::default()
    };
    if let Some(path) = &config.scheduler_config {
        let shown = path.display();
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {shown} (--scheduler-config)"))?;
        let (profiles, warnings) =
            compile::Profiles::from_configuration(&text).with_context(|| format!("{shown} (--scheduler-config)"))?;
        for warning in warnings {
            tracing::warn!(file = %shown, "{warning}");
        }
        settings.profiles = profiles;
    }
    Ok(settings)
}
