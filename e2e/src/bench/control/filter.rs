//! A filter in this process: the code by which `kthena-ext-proc` follows the controller, without the requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use kthena_ext_proc::state::{Controller, Credentials, Sizes, State, Subscription, Timing};
use kthena_scheduler::snapshot::Snapshot;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Endpoints that there is room for.
const MAX_ENDPOINTS: u32 = 16_384;

/// A subscription that lives as long as this.
pub(super) struct Filter {
    state: Arc<State>,
    changed: watch::Receiver<u64>,
    _stop: watch::Sender<bool>,
}

impl Filter {
    /// Subscribes to the controller at this address, whether or not it is there yet.
    pub(super) fn start(controller: SocketAddr) -> Result<Self> {
        let state = State::new(&Sizes {
            max_endpoints: MAX_ENDPOINTS,
            prefix_index_bytes: 1 << 20,
            outbox: 1_000,
        });
        let controller = Controller::new(&format!("http://{controller}"), Credentials::default())?;
        // Nobody here has a lease that could be settled elsewhere.
        let (settlements, _) = mpsc::channel(1);
        let subscription = Subscription::new(Arc::clone(&state), controller, Timing::default(), settlements);
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(subscription.run(stopped));
        Ok(Self {
            changed: state.changed(),
            state,
            _stop: stop,
        })
    }

    /// Waits until what it decides by is such; returns when it was.
    pub(super) async fn until(
        &mut self,
        what: &str,
        within: Duration,
        holds: impl Fn(&Snapshot) -> bool,
    ) -> Result<Instant> {
        let waited = timeout(within, async {
            loop {
                self.changed.borrow_and_update();
                if self.state.snapshot().is_some_and(|snapshot| holds(&snapshot)) {
                    return anyhow::Ok(Instant::now());
                }
                self.changed.changed().await.context("the subscription has ended")?;
            }
        });
        waited
            .await
            .with_context(|| format!("waited {within:?} in vain for a filter: {what}"))?
    }
}
