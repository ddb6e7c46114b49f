//! What all requests of a VM decide with: the newest snapshot, loads, residency, a clock and a source of randomness.
//!
//! What must always hold: time never goes backwards, though the host's clock is that of the wall; a step of an exchange
//! sees one picture. Everything in here is bounded by the configuration.

use std::sync::Arc;

use kthena_scheduler::exchange::{Context, Settings, World};
use kthena_scheduler::load::Fleet;
use kthena_scheduler::pick::Scratch;
use kthena_scheduler::prefix::{IndexConfig, PrefixIndex};
use kthena_scheduler::snapshot::Snapshot;
use kthena_scheduler::state::{Subscriber, SubscriberConfig};
use kthena_scheduler::time::Time;

use crate::config::{Config, Usage};

/// What requests of a VM share.
#[derive(Debug)]
pub struct State {
    /// The conversation with the controller.
    pub subscriber: Subscriber,
    /// Where the usage of answers is read.
    pub usage: Usage,
    /// Requests that wait for state.
    pub held: usize,
    settings: Settings,
    max_held: usize,
    fleet: Arc<Fleet>,
    index: PrefixIndex,
    snapshot: Option<Arc<Snapshot>>,
    scratch: Scratch,
    now: Time,
    nanoseconds: u64,
    random: u64,
}

// === impl State ===

impl State {
    /// No state yet. `origin` names this VM among all deciders, `seed` begins its random choices.
    pub fn new(config: &Config, origin: String, seed: u64) -> Self {
        let fleet = Fleet::new(config.max_endpoints);
        let subscriber = SubscriberConfig {
            origin,
            namespaces: config.namespaces.clone(),
            limits: config.limits(),
            outbox: config.outbox(),
            report_ms: config.report_ms,
            max_kinds: config.max_metric_series,
        };
        Self {
            subscriber: Subscriber::new(Arc::clone(&fleet), subscriber),
            usage: config.usage,
            held: 0,
            settings: config.settings(),
            max_held: config.max_held,
            index: PrefixIndex::new(IndexConfig {
                max_bytes: config.prefix_index_bytes,
                max_endpoints: config.max_endpoints,
            }),
            fleet,
            snapshot: None,
            scratch: Scratch::default(),
            now: Time::default(),
            nanoseconds: 0,
            random: seed,
        }
    }

    /// Takes the host's time, nanoseconds since the Unix epoch.
    pub fn set_now(&mut self, nanoseconds: u64) {
        self.nanoseconds = self.nanoseconds.max(nanoseconds);
        self.now = Time::from_millis(self.nanoseconds / 1_000_000);
    }

    /// The last time taken, nanoseconds since the Unix epoch.
    pub fn nanoseconds(&self) -> u64 {
        self.nanoseconds
    }

    /// The last time taken.
    pub fn now(&self) -> Time {
        self.now
    }

    /// 64 uniform random bits; not for secrets.
    pub fn random(&mut self) -> u64 {
        // SplitMix64: a Weyl sequence through a finaliser.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The newest configuration; `None` = none yet.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// Makes a snapshot the newest one.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = Some(snapshot);
    }

    /// Residency.
    pub fn index(&self) -> &PrefixIndex {
        &self.index
    }

    /// Residency, and the conversation that teaches it.
    pub fn learning(&mut self) -> (&mut Subscriber, &PrefixIndex) {
        (&mut self.subscriber, &self.index)
    }

    /// What a step of an exchange is taken in.
    pub fn context(&mut self) -> Context<'_> {
        let random = self.random();
        Context {
            now: self.now,
            random,
            settings: &self.settings,
            world: World {
                snapshot: self.snapshot.as_ref(),
                fleet: &self.fleet,
                index: &self.index,
            },
            scratch: &mut self.scratch,
            may_wait: self.held < self.max_held,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_follow_a_clock_that_is_set_back() {
        let mut state = State::new(&Config::default(), "me".into(), 1);
        state.set_now(5_000_000);
        state.set_now(3_000_000);
        assert_eq!(state.now(), Time::from_millis(5));
        state.set_now(7_999_999);
        assert_eq!(state.now(), Time::from_millis(7));
    }
}
