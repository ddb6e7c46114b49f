//! Keeps a stream to the controller: connects, reconnects, and serves from the file while there is none.
//!
//! What must always hold: every wait has a deadline, and losing the controller loses nothing but freshness: the snapshot
//! stays, others' counts fade, the next connection says what is held already. Tries are spread by jitter, so that a
//! restarted controller is not met by all filters at once.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::session::{Ended, Session};
use super::subscription::Subscription;

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often others' counts are faded while there is no controller.
const FADE_STEP: Duration = Duration::from_millis(250);

impl Subscription {
    /// Runs until `stop` becomes true, or its sender is gone.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut wait = FIRST_WAIT;
        loop {
            let began = Instant::now();
            let connected = tokio::select! {
                session = self.session() => session,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            // Where there are several, another may be there.
            self.controller.move_on();
            if connected && began.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
            }
            tokio::select! {
                () = self.idle(jittered(wait)) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// One connection from its beginning to its end; whether there was one.
    async fn session(&mut self) -> bool {
        let mut session = match Session::open(self).await {
            Ok(session) => session,
            Err(ended) => {
                self.say(&ended, false);
                return false;
            }
        };
        tracing::info!(controller = self.controller.url(), "subscribed to the controller");
        self.state.health.connections.fetch_add(1, Relaxed);
        self.state.health.connected.store(true, Relaxed);
        let ended = session.run(self).await;
        self.state.health.connected.store(false, Relaxed);
        self.store.disconnected(self.state.now());
        self.say(&ended, true);
        true
    }

    fn say(&self, ended: &Ended, was_connected: bool) {
        let controller = self.controller.url();
        if was_connected {
            tracing::warn!(controller, %ended, "lost the controller; going on with the last state");
        } else {
            tracing::debug!(controller, %ended, "no controller yet");
        }
    }

    /// Waits, and lets others' counts fade meanwhile.
    async fn idle(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        // Faded counts stay at zero, so there is no need to know when fading ended.
        let step = FADE_STEP.min(Duration::from_millis(self.fade_ms));
        while Instant::now() < until {
            self.store.fade(self.state.now());
            tokio::select! {
                () = sleep_until(until) => {}
                () = sleep(step) => {}
            }
        }
    }
}

/// Between half of it and one and a half.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 1_000;
    wait / 2 + wait * u32::try_from(random).unwrap_or(0) / 1_000
}
