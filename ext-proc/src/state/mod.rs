//! State from the controller, as requests read it, and what goes back.
//!
//! One task keeps the subscription and is the only writer (`subscribe`); requests read the newest snapshot with one
//! atomic load. What must always hold: a snapshot is published only after the prefix index forgot the former owners of
//! its load cells; a filter that loses its controller goes on with what it has and says so. It fails by having no
//! snapshot yet: requests are then held up to a bound and answered 503.

mod cache;
mod clock;
mod connect;
mod outbox;
mod session;
#[cfg(test)]
mod stories;
#[allow(missing_docs, clippy::all, unreachable_pub)]
#[rustfmt::skip]
mod stub;
mod subscribe;
mod subscription;
#[cfg(test)]
mod testing;

pub use clock::Clock;
pub use connect::{ConnectError, Controller, Credentials};
pub use outbox::Outbox;
pub use subscription::{Subscription, Timing};

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwapOption;
use kthena_scheduler::lease::Relocation;
use kthena_scheduler::load::Fleet;
use kthena_scheduler::prefix::{IndexConfig, Key, PrefixIndex};
use kthena_scheduler::snapshot::{EndpointId, Snapshot};
use kthena_scheduler::state::{Counters, proto};
use kthena_scheduler::time::Time;
use tokio::sync::watch;

/// Sizes of what a process keeps.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Endpoints there is room for.
    pub max_endpoints: u32,
    /// Bytes of the prefix index.
    pub prefix_index_bytes: u64,
    /// Placements, and settlements, that wait to be sent.
    pub outbox: usize,
}

/// What all requests of a process read, and where they leave what others should know.
#[derive(Debug)]
pub struct State {
    origin: String,
    clock: Clock,
    fleet: Arc<Fleet>,
    index: PrefixIndex,
    snapshot: ArcSwapOption<Snapshot>,
    changed: watch::Sender<u64>,
    outbox: Outbox,
    random: AtomicU64,
    health: Health,
}

/// How the subscription is doing.
#[derive(Debug, Default)]
struct Health {
    connected: AtomicBool,
    /// Set while what is served came from the file and no controller confirmed it yet.
    from_cache: AtomicBool,
    /// When the controller was last heard, in ms of the core's time; 0 = never.
    heard: AtomicU64,
    messages: AtomicU64,
    connections: AtomicU64,
    refused: AtomicU64,
    unplaced_endpoints: AtomicU64,
    forgotten_reports: AtomicU64,
    unknown_placements: AtomicU64,
}

/// How the subscription is doing, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether there is state to decide on.
    pub synced: bool,
    /// Whether the stream to the controller stands.
    pub connected: bool,
    /// Whether the state came from the file of an earlier process and no controller has confirmed it.
    pub from_cache: bool,
    /// Milliseconds since the controller was last heard; `None` = never.
    pub age_ms: Option<u64>,
    /// Messages received since the start.
    pub messages: u64,
    /// Streams to a controller begun since the start.
    pub connections: u64,
    /// Bounds hit and resources refused.
    pub counters: Counters,
    /// Placements of endpoints that were not known here.
    pub unknown_placements: u64,
    /// Placements and settlements that were dropped for want of room.
    pub dropped: (u64, u64),
}

// === impl State ===

impl State {
    /// No state yet.
    pub fn new(sizes: &Sizes) -> Arc<Self> {
        Self::with_clock(sizes, Clock::start())
    }

    /// No state yet, and the time of this clock.
    pub fn with_clock(sizes: &Sizes, clock: Clock) -> Arc<Self> {
        let random = RandomState::new();
        let index = IndexConfig {
            max_bytes: sizes.prefix_index_bytes,
            max_endpoints: sizes.max_endpoints,
        };
        Arc::new(Self {
            origin: format!("{:016x}", random.hash_one(std::process::id())),
            clock,
            fleet: Fleet::new(sizes.max_endpoints),
            index: PrefixIndex::new(index),
            snapshot: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
            outbox: Outbox::new(sizes.outbox),
            random: AtomicU64::new(random.hash_one("random")),
            health: Health::default(),
        })
    }

    /// The name of this process among all deciders; no two starts share one.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Now, as the core wants it.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// 64 uniform random bits; not for secrets.
    pub fn random(&self) -> u64 {
        // A Weyl sequence through the finaliser of MurmurHash3, as in SplitMix64: one atomic addition a request.
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The newest configuration; `None` = none yet.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Loads.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Which endpoint holds which beginning of a prompt.
    pub fn index(&self) -> &PrefixIndex {
        &self.index
    }

    /// Wakes whenever a new snapshot is published.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells other replicas what a dispatch placed at an endpoint.
    pub fn placed(&self, endpoint: EndpointId, placed: &[Key]) {
        if placed.is_empty() {
            return;
        }
        let (keys, blocks) = placed.iter().map(|key| (key.hash, key.span)).unzip();
        self.outbox.place(proto::Placement {
            endpoint: endpoint.0,
            keys,
            gone: false,
            blocks,
        });
    }

    /// Tells other replicas that another endpoint served than the one picked.
    pub fn relocated(&self, relocation: &Relocation) {
        if !relocation.gone.is_empty() {
            self.outbox.place(proto::Placement {
                endpoint: relocation.from.0,
                keys: relocation.gone.iter().map(|key| key.hash).collect(),
                gone: true,
                blocks: Vec::new(),
            });
        }
        self.placed(relocation.to, &relocation.placed);
    }

    /// Tells the replica that opened a lease that the request ended.
    pub fn settle_elsewhere(&self, owner: &str, lease: u64, served: &str) {
        self.outbox.settle(proto::Settlement {
            owner: owner.to_owned(),
            lease,
            served: served.to_owned(),
        });
    }

    /// How the subscription is doing.
    pub fn status(&self) -> Status {
        let health = &self.health;
        let heard = health.heard.load(Relaxed);
        Status {
            synced: self.snapshot.load().is_some(),
            connected: health.connected.load(Relaxed),
            from_cache: health.from_cache.load(Relaxed),
            age_ms: (heard > 0).then(|| self.now().since(Time::from_millis(heard))),
            messages: health.messages.load(Relaxed),
            connections: health.connections.load(Relaxed),
            counters: Counters {
                refused: health.refused.load(Relaxed),
                unplaced_endpoints: health.unplaced_endpoints.load(Relaxed),
                forgotten_reports: health.forgotten_reports.load(Relaxed),
            },
            unknown_placements: health.unknown_placements.load(Relaxed),
            dropped: self.outbox.dropped(),
        }
    }

    /// Forgets what the former owners of these load cells held: to be called before a snapshot is published.
    fn forget(&self, claimed: &[u32]) {
        claimed.iter().for_each(|slot| self.index.forget(*slot));
    }

    /// Makes a snapshot the newest one.
    fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(Some(snapshot));
        self.changed.send_modify(|version| *version += 1);
    }

    fn count(&self, counters: Counters) {
        self.health.refused.store(counters.refused, Relaxed);
        self.health
            .unplaced_endpoints
            .store(counters.unplaced_endpoints, Relaxed);
        self.health.forgotten_reports.store(counters.forgotten_reports, Relaxed);
    }
}
