//! Puts the parts together and runs them until told to stop.
//!
//! What must always hold: everything that can be wrong with the settings, files and addresses is found before anything
//! is served; when one part ends, so does the process, with the reason.

use std::future::Future;
use std::sync::Arc;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::admin::{self, Admin};
use crate::clock::Clock;
use crate::compile::{self, Compiler};
use crate::config::Config;
use crate::envoy::{Files, Rollout};
use crate::metrics::Metrics;
use crate::observe::{Scraper, Table};
use crate::picture::Picture;
use crate::publish::{Hub, Server};
use crate::run::{self, Parts};
use crate::source::folder::FolderSource;

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
    let state = Server::bind(
        &address,
        config.access()?,
        Arc::clone(&hub),
        config.state_timeouts(),
        metrics.publish.clone(),
    )
    .await?;
    let machine = admin::bind(config.admin_listen, "--admin-listen").await?;
    let debug = admin::bind(config.debug_listen, "--debug-listen").await?;
    let files = match &config.envoy_dir {
        Some(folder) => Some(Files::open(folder).with_context(|| {
            format!(
                "cannot use {} for Envoy's files (--envoy-dir): make it writable",
                folder.display()
            )
        })?),
        None => None,
    };
    let parts = Parts {
        compiler: Compiler::new(settings),
        scraper: Scraper::new(config.observe(), Arc::clone(&table), clock, metrics.observe.clone())?,
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
    let mut source = FolderSource::start(config.source())?;
    let announce = async {
        if ready_seen.wait_for(|ready| *ready).await.is_ok() {
            tracing::info!(
                state = %address,
                admin = %config.admin_listen,
                debug = %config.debug_listen,
                folder = %config.folder.display(),
                "ready"
            );
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = stop => Ok(()),
        () = announce => Ok(()),
        ended = state.run(std::future::pending()) => ended.context("the state service ended"),
        ended = admin::serve(machine, pages.clone().machine_pages()) => ended.context("the admin pages ended"),
        ended = admin::serve(debug, pages.debug_pages()) => ended.context("the debug pages ended"),
        () = run::run(parts, &mut source.events) => Err(anyhow::anyhow!("the folder is not watched any more")),
    }
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
