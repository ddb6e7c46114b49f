//! Another controller, followed: what it tells goes into the hub and into the table of what is observed.
//!
//! What must always hold: nothing that it tells is told on; its end, however it comes, starts the clock for what its filters have in flight, and
//! lets what it observed grow old. It fails by leaving out what is beyond its bounds, counted.

use std::net::SocketAddr;
use std::sync::Arc;

use kthena_scheduler::load::{Latency, Sample};
use kthena_scheduler::state::proto::{Placements, Report, Settlements};
use kthena_scheduler::time::Time;
use tokio::sync::watch;

use super::followed::Followed;
use super::hub::Hub;
use super::merge::{MAX_ORIGIN, Outcome, Speaker, SubscriberId};
use super::progress;
use super::view::{Answered, PeerView};
use crate::compile::{EndpointKey, Fact};
use crate::metrics::kind;
use crate::observe::{Observation, Told};
use crate::peers::proto::{self, news};

/// A controller that is followed; dropping it ends that.
#[derive(Debug)]
pub struct Peer {
    hub: Arc<Hub>,
    id: SubscriberId,
}

// === impl Peer ===

impl Peer {
    /// A controller that is at `address` and calls itself `instance` is followed from now on. `None` = it is followed already, by another
    /// address of it.
    pub fn begin(hub: &Arc<Hub>, instance: &str, address: &str) -> Option<Self> {
        let mut inner = hub.inner.lock();
        if inner.followed.values().any(|followed| followed.instance == instance) {
            return None;
        }
        let id = inner.next_subscriber;
        inner.next_subscriber += 1;
        let followed = Followed {
            instance: instance.to_owned(),
            address: address.to_owned(),
            since: hub.clock.now(),
            progress: progress::Heard::default(),
        };
        inner.followed.insert(id, followed);
        hub.metrics.peers.followed.set(inner.followed.len() as i64);
        Some(Self {
            hub: Arc::clone(hub),
            id,
        })
    }

    /// Takes what it tells.
    pub fn hear(&self, news: proto::News) {
        let label = match news.message {
            // A second welcome, or a message of a later version of the protocol.
            None | Some(news::Message::Welcome(_)) => "unknown",
            Some(news::Message::Report(report)) => {
                self.report(report);
                "report"
            }
            Some(news::Message::Gone(gone)) => {
                let mut inner = self.hub.inner.lock();
                for origin in &gone.origins {
                    inner.merge.end(origin, Speaker::Peer(self.id));
                }
                "gone"
            }
            Some(news::Message::Placements(placements)) => {
                self.place(placements);
                "placements"
            }
            Some(news::Message::Settlements(settlements)) => {
                self.settle(settlements);
                "settlements"
            }
            Some(news::Message::Filters(filters)) => {
                self.progress(filters);
                "filters"
            }
            Some(news::Message::Observations(observations)) => {
                self.observe(observations);
                "observations"
            }
        };
        self.hub.metrics.peers.messages.get_or_create(&kind(label)).inc();
    }

    fn report(&self, report: Report) {
        if !(1..=MAX_ORIGIN).contains(&report.origin.len()) {
            self.drop_some("reports", 1);
            return;
        }
        let mut inner = self.hub.inner.lock();
        let origin = report.origin.clone();
        let was_here = inner.merge.speaker(&origin).is_some_and(Speaker::is_filter);
        let outcome = inner.merge.report(Speaker::Peer(self.id), report);
        if was_here && outcome != Outcome::Stale {
            // The filter has moved there: who follows us hears of it from there.
            let followers = inner.followers.values_mut();
            followers.for_each(|follower| follower.note_gone(&origin));
        }
        drop(inner);
        self.drop_some("reports", u64::from(outcome == Outcome::Excess));
    }

    fn place(&self, placements: Placements) {
        let mut inner = self.hub.inner.lock();
        let inner = &mut *inner;
        let left_out = inner.ring.push(Speaker::Peer(self.id), placements, |endpoint| {
            inner.loads.knows(endpoint)
        });
        self.hub
            .metrics
            .placements_dropped
            .get_or_create(&kind("unknown_endpoint"))
            .inc_by(left_out);
        inner.subscribers.values().for_each(|one| one.wake.notify_one());
    }

    fn settle(&self, settlements: Settlements) {
        let mut inner = self.hub.inner.lock();
        for settlement in settlements.settlements {
            if let Some(reason) = inner.settle_here(settlement, self.hub.settings.max_settlements) {
                self.hub.metrics.settlements_dropped.get_or_create(&kind(reason)).inc();
            }
        }
    }

    fn progress(&self, filters: proto::Filters) {
        let max = self.hub.settings.peers.max_resources;
        let mut inner = self.hub.inner.lock();
        let state = &mut *inner;
        let Some(followed) = state.followed.get_mut(&self.id) else {
            return;
        };
        let (refused, news) = followed.progress.hear(filters, max, &state.resources);
        match news {
            Answered::Some(keys) => state.answered.note(keys),
            Answered::Anything => state.answered = Answered::Anything,
        }
        drop(inner);
        self.drop_some("resources", refused);
        self.hub.answered();
    }

    fn observe(&self, observations: proto::Observations) {
        let now = self.hub.clock.now();
        let told = observations.observations.into_iter().map(|one| told(one, now));
        let max = self.hub.settings.peers.max_endpoints;
        let refused = self.hub.table.hear(self.id, told.collect(), max);
        self.drop_some("observations", refused);
    }

    fn drop_some(&self, what: &'static str, count: u64) {
        if count > 0 {
            self.hub.metrics.peers.dropped.get_or_create(&kind(what)).inc_by(count);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut inner = self.hub.inner.lock();
        inner.followed.remove(&self.id);
        inner.answered = Answered::Anything;
        inner.merge.lose(self.id, self.hub.clock.now());
        self.hub.metrics.peers.followed.set(inner.followed.len() as i64);
        drop(inner);
        self.hub.table.forget_teller(self.id);
        self.hub.answered();
    }
}

impl Hub {
    /// Changes whenever another controller begins to follow this one.
    pub fn callers(&self) -> watch::Receiver<u64> {
        self.callers.subscribe()
    }

    /// Where the controllers listen that follow this one.
    pub fn callers_addresses(&self) -> Vec<SocketAddr> {
        let inner = self.inner.lock();
        inner
            .followers
            .values()
            .filter_map(|follower| follower.address)
            .collect()
    }

    /// The controllers that are followed, for people.
    pub fn peers(&self) -> Vec<PeerView> {
        let now = self.clock.now();
        let inner = self.inner.lock();
        let view = |followed: &Followed| PeerView {
            instance: followed.instance.clone(),
            address: followed.address.clone(),
            since_ms: now.since(followed.since),
            filters: followed.progress.connected(),
            follows_us: inner.followers.values().any(|one| one.instance == followed.instance),
        };
        inner.followed.values().map(view).collect()
    }
}

fn told(observation: proto::Observation, now: Time) -> Told {
    let ago = |age: u64| Time::from_millis(now.as_millis().saturating_sub(age));
    let load = observation.load.unwrap_or_default();
    let fact = observation.fact.map(|fact| Fact {
        incarnation: fact.incarnation,
        models: fact.models,
        kv_capacity_tokens: Some(fact.kv_capacity_tokens).filter(|tokens| *tokens > 0),
    });
    Told {
        key: EndpointKey {
            uid: observation.uid,
            port: u16::try_from(observation.port).unwrap_or_default(),
        },
        target: observation.target,
        looked_at: ago(observation.looked_age_ms),
        load: Observation {
            sample: Sample {
                waiting: load.waiting,
                running: load.running,
                kv_usage: load.kv_usage,
            },
            sampled_at: load.sample_age_ms.map(ago),
            latency: Latency {
                ttft: load.ttft_s,
                tpot: load.tpot_s,
            },
            latency_at: ago(load.latency_age_ms),
            down: load.down,
            fact: Arc::default(),
        },
        fact,
    }
}
