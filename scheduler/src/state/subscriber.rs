//! A filter's part in the conversation with the controller, without the stream that carries it.
//!
//! Hello and welcome, then updates down, and acks, reports and placements up: which message comes when, and what becomes
//! of what arrives. What must always hold: every update is answered by an ack with its nonce; a snapshot is handed out
//! only after the prefix index forgot the former owners of its load cells; what waits to be sent is bounded in number and
//! in bytes a second, the oldest placements go first, and what is dropped is counted. Time is an argument; the shell
//! opens streams, and calls [`Subscriber::due`] now and then. It fails by [`ProtocolError`]: the shell ends the stream and
//! begins another.

use std::sync::Arc;

use super::counts::Teller;
use super::outbox::{Outbox, OutboxLimits};
use super::proto::{FromFilter, ToFilter, from_filter, to_filter};
use super::store::{Counters, Limits, Store};
use super::{PROTOCOL_MINOR, proto, residency};
use crate::lease::Relocation;
use crate::load::Fleet;
use crate::prefix::{Key, PrefixIndex};
use crate::profile::Profile;
use crate::snapshot::{EndpointId, Snapshot};
use crate::tally::Request;
use crate::time::Time;

/// How a subscriber is sized and how often it speaks.
#[derive(Clone, Debug)]
pub struct SubscriberConfig {
    /// Names the deciding process and its start.
    pub origin: String,
    /// Only what is in these namespaces is asked for; empty = everything.
    pub namespaces: Vec<String>,
    /// What is kept of the state.
    pub limits: Limits,
    /// What may wait to be sent.
    pub outbox: OutboxLimits,
    /// Least time between two reports of what is in flight, milliseconds.
    pub report_ms: u64,
    /// Kinds of requests that are told apart while they wait to be told.
    pub max_kinds: usize,
}

/// The controller did not keep to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Something came before the welcome.
    #[error("the controller did not begin with a welcome")]
    NoWelcome,
}

/// What a message of the controller brought.
#[derive(Debug, Default)]
pub struct Received {
    /// What to answer.
    pub reply: Option<FromFilter>,
    /// A new snapshot to decide on.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The first complete state of this stream has come.
    pub synced: bool,
    /// Resources that were refused, for the log.
    pub refused: Vec<proto::Refusal>,
    /// Leases of ours whose end another replica saw.
    pub settlements: Vec<proto::Settlement>,
}

/// The conversation, across streams.
#[derive(Debug)]
pub struct Subscriber {
    store: Store,
    namespaces: Vec<String>,
    outbox: Outbox,
    teller: Teller,
    report_ms: u64,
    phase: Phase,
    /// Own counts may have changed since the last report.
    unreported: bool,
    last_report: Time,
    unknown_placements: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No stream.
    Away,
    /// Hello was said.
    Greeted,
    /// The stream stands.
    Welcome,
}

// === impl Subscriber ===

impl Subscriber {
    /// No stream yet; load cells are in `fleet`.
    pub fn new(fleet: Arc<Fleet>, config: SubscriberConfig) -> Self {
        Self {
            store: Store::new(fleet, config.origin, config.limits),
            namespaces: config.namespaces,
            outbox: Outbox::new(config.outbox),
            teller: Teller::new(config.max_kinds),
            report_ms: config.report_ms,
            phase: Phase::Away,
            unreported: true,
            last_report: Time::default(),
            unknown_placements: 0,
        }
    }

    /// Starts from what an earlier process saved with [`Subscriber::saved`]; `None` when that is not a complete state.
    pub fn restore(&mut self, saved: &proto::Update, index: &PrefixIndex, now: Time) -> Option<Arc<Snapshot>> {
        let applied = self.store.apply(saved, &[], now);
        applied.claimed.iter().for_each(|slot| index.forget(*slot));
        applied.snapshot
    }

    /// The whole state but for loads, to be kept for a later process.
    pub fn saved(&self) -> Option<proto::Update> {
        self.store.saved()
    }

    /// A stream was opened: the first message on it.
    pub fn hello(&mut self) -> FromFilter {
        self.phase = Phase::Greeted;
        up(from_filter::Message::Hello(proto::Hello {
            protocol_minor: PROTOCOL_MINOR,
            origin: self.store.origin().to_owned(),
            gateway: String::new(),
            pools: Vec::new(),
            plugins: Profile::plugin_names().iter().map(|name| (*name).to_owned()).collect(),
            have: self.store.have(),
            namespaces: self.namespaces.clone(),
        }))
    }

    /// The stream has ended, if there was one: others' counts begin to fade.
    pub fn lost(&mut self, now: Time) {
        if std::mem::replace(&mut self.phase, Phase::Away) == Phase::Welcome {
            self.store.disconnected(now);
        }
    }

    /// Whether the stream stands.
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Welcome
    }

    /// How often bounds of the state were hit.
    pub fn counters(&self) -> Counters {
        self.store.counters()
    }

    /// Placements dropped for want of room or of bytes a second, since the start.
    pub fn dropped_placements(&self) -> u64 {
        self.outbox.dropped()
    }

    /// Placements of endpoints that were not known here, since the start.
    pub fn unknown_placements(&self) -> u64 {
        self.unknown_placements
    }

    /// Takes a message of the controller.
    ///
    /// # Errors
    /// When it is not this message's turn; the stream is to be ended.
    pub fn receive(&mut self, message: ToFilter, index: &PrefixIndex, now: Time) -> Result<Received, ProtocolError> {
        let mut received = Received::default();
        match (self.phase, message.message) {
            (Phase::Greeted, Some(to_filter::Message::Welcome(_))) => {
                self.phase = Phase::Welcome;
                self.unreported = true;
                self.store.connected();
                self.teller.connected();
            }
            (Phase::Greeted | Phase::Away, _) => return Err(ProtocolError::NoWelcome),
            (Phase::Welcome, Some(to_filter::Message::Update(update))) => {
                let applied = self.store.apply(&update, &message.echoes, now);
                applied.claimed.iter().for_each(|slot| index.forget(*slot));
                received.refused.clone_from(&applied.ack.refused);
                received.reply = Some(up(from_filter::Message::Ack(applied.ack)));
                received.snapshot = applied.snapshot;
                received.synced = update.synced;
            }
            (Phase::Welcome, Some(to_filter::Message::Placements(placements))) => {
                self.unknown_placements += residency::learn(&placements, &self.store, index).unknown;
            }
            (Phase::Welcome, Some(to_filter::Message::Settlements(settlements))) => {
                let origin = self.store.origin();
                let ours = settlements.settlements.into_iter().filter(|s| s.owner == origin);
                received.settlements = ours.collect();
            }
            (Phase::Welcome, Some(to_filter::Message::Counted(counted))) => self.teller.counted(&counted),
            // A second welcome, or a message that a newer controller added.
            (Phase::Welcome, Some(to_filter::Message::Welcome(_)) | None) => {}
        }
        Ok(received)
    }

    /// What is to be sent now, in order. While there is no stream others' counts fade instead.
    pub fn due(&mut self, now: Time) -> Vec<FromFilter> {
        let mut messages = Vec::new();
        if self.phase != Phase::Welcome {
            self.store.fade(now);
            return messages;
        }
        while let Some(placements) = self.outbox.next(now) {
            messages.push(up(from_filter::Message::Placements(placements)));
        }
        if self.unreported && now.since(self.last_report) >= self.report_ms {
            self.unreported = false;
            self.last_report = now;
            messages.extend(
                self.store
                    .report()
                    .map(|report| up(from_filter::Message::Report(report))),
            );
        }
        let counts = self.teller.next(self.store.origin(), now);
        messages.extend(counts.map(|counts| up(from_filter::Message::Counts(counts))));
        messages
    }

    /// The last messages before the process ends: what was counted and not told yet.
    pub fn farewell(&mut self) -> Vec<FromFilter> {
        if self.phase != Phase::Welcome {
            return Vec::new();
        }
        let rest = self.teller.rest(self.store.origin()).into_iter();
        rest.map(|counts| up(from_filter::Message::Counts(counts))).collect()
    }

    /// Counts a request that is over, to be told. `match_ratio` is the part of its prompt that the chosen endpoint was
    /// believed to hold.
    pub fn count(&mut self, request: &Request<'_>, match_ratio: Option<f64>) {
        self.teller.count(request, match_ratio);
    }

    /// Requests counted under other labels for want of room, since the start.
    pub fn overflowed_counts(&self) -> u64 {
        self.teller.overflowed()
    }

    /// A lease was opened or settled: the next report has something to say.
    pub fn count_changed(&mut self) {
        self.unreported = true;
    }

    /// Tells other deciders what a dispatch placed at an endpoint.
    pub fn placed(&mut self, endpoint: EndpointId, placed: &[Key]) {
        if placed.is_empty() {
            return;
        }
        let (keys, blocks) = placed.iter().map(|key| (key.hash, key.span)).unzip();
        self.outbox.push(proto::Placement {
            endpoint: endpoint.0,
            keys,
            gone: false,
            blocks,
        });
    }

    /// Tells other deciders that another endpoint served than the one picked.
    pub fn relocated(&mut self, relocation: &Relocation) {
        if !relocation.gone.is_empty() {
            self.outbox.push(proto::Placement {
                endpoint: relocation.from.0,
                keys: relocation.gone.iter().map(|key| key.hash).collect(),
                gone: true,
                blocks: Vec::new(),
            });
        }
        self.placed(relocation.to, &relocation.placed);
    }
}

fn up(message: from_filter::Message) -> FromFilter {
    FromFilter { message: Some(message) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{endpoints, server, update};
    use super::*;
    use crate::prefix::IndexConfig;

    struct Filter {
        subscriber: Subscriber,
        index: PrefixIndex,
    }

    impl Filter {
        fn new() -> Self {
            let config = SubscriberConfig {
                origin: "me".into(),
                namespaces: vec!["team".into()],
                limits: Limits::default(),
                outbox: OutboxLimits {
                    placements: 100,
                    bytes_per_s: 1 << 20,
                },
                report_ms: 50,
                max_kinds: 10,
            };
            let index = IndexConfig {
                max_bytes: 1 << 20,
                max_endpoints: 8,
            };
            Self {
                subscriber: Subscriber::new(Fleet::new(8), config),
                index: PrefixIndex::new(index),
            }
        }

        fn receive(&mut self, message: to_filter::Message, ms: u64) -> Result<Received, ProtocolError> {
            let message = ToFilter {
                message: Some(message),
                echoes: Vec::new(),
            };
            self.subscriber.receive(message, &self.index, Time::from_millis(ms))
        }

        fn welcome(&mut self) {
            self.subscriber.hello();
            self.receive(to_filter::Message::Welcome(proto::Welcome::default()), 0)
                .unwrap();
        }

        fn due(&mut self, ms: u64) -> Vec<from_filter::Message> {
            let due = self.subscriber.due(Time::from_millis(ms));
            due.into_iter().filter_map(|message| message.message).collect()
        }
    }

    fn state() -> to_filter::Message {
        to_filter::Message::Update(update(vec![server("a/s"), endpoints("a/s", &[1])], true))
    }

    #[test]
    fn nothing_is_taken_before_the_welcome() {
        let mut filter = Filter::new();
        assert_eq!(filter.receive(state(), 0).unwrap_err(), ProtocolError::NoWelcome);
        filter.subscriber.hello();
        assert_eq!(filter.receive(state(), 0).unwrap_err(), ProtocolError::NoWelcome);
        assert!(filter.due(100).is_empty() && !filter.subscriber.is_connected());
    }

    #[test]
    fn an_update_is_acknowledged_and_makes_a_snapshot() {
        let mut filter = Filter::new();
        filter.welcome();
        let received = filter.receive(state(), 0).unwrap();
        assert!(received.snapshot.is_some() && received.synced);
        let Some(from_filter::Message::Ack(ack)) = received.reply.unwrap().message else {
            panic!("no ack");
        };
        assert!(ack.refused.is_empty());
    }

    #[test]
    fn counts_are_reported_when_they_changed_and_not_too_often() {
        let mut filter = Filter::new();
        filter.welcome();
        let reports = |messages: Vec<from_filter::Message>| {
            let is_report = |message: &from_filter::Message| matches!(message, from_filter::Message::Report(_));
            messages.iter().filter(|message| is_report(message)).count()
        };
        assert_eq!(
            reports(filter.due(100)),
            1,
            "the first is complete, and so also when there is nothing"
        );
        filter.receive(state(), 100).unwrap();
        let slot = Arc::clone(&filter.subscriber.store.endpoint(EndpointId(1)).unwrap().slot);
        slot.begin(None, 10);
        filter.subscriber.count_changed();
        assert_eq!(reports(filter.due(149)), 0, "too soon");
        assert_eq!(reports(filter.due(150)), 1);
        assert_eq!(reports(filter.due(500)), 0, "nothing changed");
    }

    #[test]
    fn a_lost_stream_begins_again_with_what_is_held() {
        let mut filter = Filter::new();
        filter.welcome();
        filter.receive(state(), 0).unwrap();
        filter.subscriber.lost(Time::from_millis(10));
        filter.subscriber.placed(EndpointId(1), &[Key { hash: 1, span: 1 }]);
        assert!(filter.due(20).is_empty(), "nothing is sent without a stream");
        let Some(from_filter::Message::Hello(hello)) = filter.subscriber.hello().message else {
            panic!("no hello");
        };
        assert_eq!((hello.have.len(), hello.namespaces), (2, vec!["team".to_owned()]));
        filter
            .receive(to_filter::Message::Welcome(proto::Welcome::default()), 30)
            .unwrap();
        let kinds: Vec<_> = filter.due(100).iter().map(std::mem::discriminant).collect();
        assert_eq!(kinds.len(), 2, "placements that waited, and a complete report");
    }

    #[test]
    fn a_saved_state_serves_another_process() {
        let mut first = Filter::new();
        first.subscriber.store = Store::new(
            Fleet::new(8),
            "me".into(),
            Limits {
                keep_bodies: true,
                ..Limits::default()
            },
        );
        first.welcome();
        assert_eq!(first.subscriber.saved(), None);
        first.receive(state(), 0).unwrap();
        let saved = first.subscriber.saved().unwrap();
        let mut second = Filter::new();
        let snapshot = second.subscriber.restore(&saved, &second.index, Time::default());
        assert_eq!(snapshot.unwrap().servers.len(), 1);
    }
}
