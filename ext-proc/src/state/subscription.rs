//! What a subscription to the controller consists of.
//!
//! Values only: `subscribe` keeps it alive, one `session` after the other speaks for it. It starts from the file of an
//! earlier process, where there is one, so that a restarted filter serves while the controller is down.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use kthena_scheduler::state::{Limits, Store, proto};
use tokio::sync::mpsc;

use super::State;
use super::cache::Cache;
use super::connect::Controller;

/// How often what leaves this process is sent.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Changed counts.
    pub report: Duration,
    /// Placements.
    pub placements: Duration,
    /// The state file, at most.
    pub save: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            report: Duration::from_millis(50),
            placements: Duration::from_millis(20),
            save: Duration::from_secs(1),
        }
    }
}

/// The one task that writes the state.
#[derive(Debug)]
pub struct Subscription {
    pub(super) state: Arc<State>,
    pub(super) store: Store,
    pub(super) controller: Controller,
    pub(super) timing: Timing,
    pub(super) settlements: mpsc::Sender<proto::Settlement>,
    /// Only what is in these is asked for; empty = everything.
    pub(super) namespaces: Vec<String>,
    pub(super) cache: Option<Cache>,
    /// The state changed since it was last saved.
    pub(super) unsaved: bool,
    pub(super) fade_ms: u64,
}

impl Subscription {
    /// Subscribes to a controller. Settlements of our own leases that other replicas saw arrive at `settlements`.
    pub fn new(
        state: Arc<State>,
        controller: Controller,
        timing: Timing,
        settlements: mpsc::Sender<proto::Settlement>,
    ) -> Self {
        let limits = Limits::default();
        Self {
            store: Store::new(Arc::clone(&state.fleet), state.origin.clone(), limits.clone()),
            fade_ms: limits.fade_ms,
            state,
            controller,
            timing,
            settlements,
            namespaces: Vec::new(),
            cache: None,
            unsaved: false,
        }
    }

    /// Asks only for what is in these namespaces; none = for everything.
    pub fn within(self, namespaces: Vec<String>) -> Self {
        Self { namespaces, ..self }
    }

    /// Keeps the last good state in a file, and serves from it at once if there is one.
    pub fn with_cache(mut self, path: PathBuf, max_bytes: u64) -> Self {
        let limits = Limits {
            keep_bodies: true,
            ..Limits::default()
        };
        self.store = Store::new(Arc::clone(&self.state.fleet), self.state.origin.clone(), limits);
        let cache = Cache::new(path, max_bytes);
        match cache.load() {
            Ok(Some(saved)) => {
                let applied = self.store.apply(&saved, &[], self.state.now());
                self.state.forget(&applied.claimed);
                if let Some(snapshot) = applied.snapshot {
                    self.state.publish(snapshot);
                    self.state.health.from_cache.store(true, Relaxed);
                    tracing::info!(file = %cache.path().display(), "serving the state of an earlier process");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(file = %cache.path().display(), %error, "left the state file aside"),
        }
        self.cache = Some(cache);
        self
    }
}
