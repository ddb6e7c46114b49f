//! Counts of requests on their way to the controller: told once, whatever becomes of the stream.
//!
//! What must always hold: one message is on its way at a time, and stays until it is answered: after a reconnect it is
//! sent again under its sequence, so that whoever has it already does not add it twice. What is counted meanwhile waits in
//! a tally, which is bounded. A controller that does not know such messages never answers: the tally then holds what it
//! can, and nothing else suffers.

use super::proto;
use crate::tally::names::{error_type, path};
use crate::tally::{Histogram, Kind, Request, Sums, Tally, names};
use crate::time::Time;

/// Kinds of requests in one message: with the longest names it stays below the protocol's 256 KiB.
const KINDS_A_MESSAGE: usize = 64;
/// Least time between two messages, milliseconds.
const EVERY_MS: u64 = 1_000;

/// Counts that wait to be told, and those that are on their way.
#[derive(Debug)]
pub(super) struct Teller {
    tally: Tally,
    sequence: u64,
    /// Not answered yet.
    told: Option<proto::Counts>,
    /// It is to be sent on this stream.
    unsent: bool,
    overflowed_told: u64,
    last: Time,
}

// === impl Teller ===

impl Teller {
    /// Tells at most `max_kinds` kinds of requests apart.
    pub(super) fn new(max_kinds: usize) -> Self {
        Self {
            tally: Tally::new(max_kinds),
            sequence: 0,
            told: None,
            unsent: false,
            overflowed_told: 0,
            last: Time::default(),
        }
    }

    /// Counts a request that is over.
    pub(super) fn count(&mut self, request: &Request<'_>, match_ratio: Option<f64>) {
        self.tally.count(request, match_ratio);
    }

    /// Requests counted under other labels for want of room, since the start.
    pub(super) fn overflowed(&self) -> u64 {
        self.tally.overflowed()
    }

    /// A stream stands: what has no answer is sent again.
    pub(super) fn connected(&mut self) {
        self.unsent = self.told.is_some();
    }

    /// What is to be sent now.
    pub(super) fn next(&mut self, origin: &str, now: Time) -> Option<proto::Counts> {
        if std::mem::take(&mut self.unsent) {
            return self.told.clone();
        }
        if self.told.is_some() || self.tally.is_empty() || now.since(self.last) < EVERY_MS {
            return None;
        }
        self.last = now;
        self.make(origin)
    }

    /// The last messages of an origin that ends: no answer is waited for.
    pub(super) fn rest(&mut self, origin: &str) -> Vec<proto::Counts> {
        let mut messages = Vec::new();
        if std::mem::take(&mut self.unsent) {
            messages.extend(self.told.take());
        }
        while !self.tally.is_empty() {
            messages.extend(self.make(origin));
        }
        messages
    }

    fn make(&mut self, origin: &str) -> Option<proto::Counts> {
        self.sequence += 1;
        let overflowed = self.tally.overflowed() - self.overflowed_told;
        self.overflowed_told += overflowed;
        let requests = self.tally.take(KINDS_A_MESSAGE);
        self.told = Some(proto::Counts {
            origin: origin.to_owned(),
            sequence: self.sequence,
            requests: requests.iter().map(|(kind, sums)| encode(kind, sums)).collect(),
            overflowed,
        });
        self.told.clone()
    }

    /// The controller has added a message.
    pub(super) fn counted(&mut self, counted: &proto::Counted) {
        let is_it = |told: &proto::Counts| told.origin == counted.origin && told.sequence == counted.sequence;
        if self.told.as_ref().is_some_and(is_it) {
            self.told = None;
            self.unsent = false;
        }
    }
}

fn encode(kind: &Kind, sums: &Sums) -> proto::RequestCounts {
    let histogram = |of: &Histogram| {
        (of.count() > 0).then(|| proto::Histogram {
            buckets: of.counts().to_vec(),
            sum: of.sum(),
        })
    };
    proto::RequestCounts {
        model: kind.model.to_string(),
        path: kind.path.to_owned(),
        model_route: kind.route.to_string(),
        model_server: kind.server.to_string(),
        upstream_model: kind.upstream_model.to_string(),
        status: kind.status.into(),
        error_type: kind.error_type.to_owned(),
        requests: sums.requests,
        seconds: histogram(&sums.seconds),
        server_seconds: histogram(&sums.server_seconds),
        first_byte: histogram(&sums.first_byte),
        input_tokens: histogram(&sums.input_tokens),
        output_tokens: histogram(&sums.output_tokens),
        match_ratio: histogram(&sums.match_ratio),
    }
}

/// Adds what a message tells to a tally. Returns how many histograms were left out, as they cannot be: the rest of their
/// kind counts.
pub fn add(counts: &proto::Counts, tally: &mut Tally) -> u64 {
    let mut left_out = 0;
    for requests in &counts.requests {
        let mut histogram = |told: &Option<proto::Histogram>, empty: Histogram, bounds| {
            let Some(told) = told else { return empty };
            Histogram::from_counts(bounds, &told.buckets, told.sum).unwrap_or_else(|| {
                left_out += 1;
                empty
            })
        };
        let empty = Sums::default();
        let sums = Sums {
            requests: requests.requests,
            seconds: histogram(&requests.seconds, empty.seconds, &names::REQUEST_SECONDS),
            server_seconds: histogram(&requests.server_seconds, empty.server_seconds, &names::SERVER_SECONDS),
            first_byte: histogram(&requests.first_byte, empty.first_byte, &names::FIRST_TOKEN_SECONDS),
            input_tokens: histogram(&requests.input_tokens, empty.input_tokens, &names::TOKENS),
            output_tokens: histogram(&requests.output_tokens, empty.output_tokens, &names::TOKENS),
            match_ratio: histogram(&requests.match_ratio, empty.match_ratio, &names::MATCH_RATIO),
        };
        tally.add(decode(requests), &sums);
    }
    left_out
}

/// The kind, with every value held to what it can be.
fn decode(requests: &proto::RequestCounts) -> Kind {
    let name = |name: &str| names::bounded(name).into();
    let status = u16::try_from(requests.status).ok();
    Kind {
        model: name(&requests.model),
        path: path(&requests.path),
        route: name(&requests.model_route),
        server: name(&requests.model_server),
        upstream_model: name(&requests.upstream_model),
        status: status.filter(|status| (100..600).contains(status)).unwrap_or(0),
        error_type: error_type(Some(requests.error_type.as_str()).filter(|told| !told.is_empty())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn request(model: &str) -> Request<'_> {
        Request {
            model: Some(model),
            path: "/v1/completions",
            status: Some(200),
            route: Some("a/r"),
            server: Some("a/s"),
            duration_s: Some(0.3),
            first_byte_s: Some(0.1),
            input_tokens: Some(5),
            output_tokens: Some(2),
            ..Request::default()
        }
    }

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    /// What a controller has that adds every sequence once.
    #[derive(Debug)]
    struct Controller {
        tally: Tally,
        last: u64,
    }

    impl Controller {
        fn new() -> Self {
            Self {
                tally: Tally::new(1_000),
                last: 0,
            }
        }

        fn take(&mut self, message: &proto::Counts) -> proto::Counted {
            if message.sequence > self.last {
                self.last = message.sequence;
                assert_eq!(add(message, &mut self.tally), 0);
            }
            proto::Counted {
                origin: message.origin.clone(),
                sequence: message.sequence,
            }
        }

        fn requests(&self) -> u64 {
            self.tally.iter().map(|(_, sums)| sums.requests).sum()
        }
    }

    #[test]
    fn what_arrives_is_what_was_counted() {
        let mut teller = Teller::new(10);
        let mut whole = Tally::new(10);
        for (model, ratio) in [("m", Some(0.5)), ("m", None), ("n", Some(1.0))] {
            teller.count(&request(model), ratio);
            whole.count(&request(model), ratio);
        }
        let message = teller.next("me", at(5_000)).unwrap();
        let message = proto::Counts::decode(&*message.encode_to_vec()).unwrap();
        let mut controller = Controller::new();
        controller.take(&message);
        let sorted = |tally: &Tally| {
            let mut all: Vec<_> = tally.iter().map(|(kind, sums)| (kind.clone(), sums.clone())).collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        assert_eq!(sorted(&controller.tally), sorted(&whole));
    }

    #[test]
    fn the_next_message_waits_for_the_answer_and_for_its_time() {
        let mut teller = Teller::new(10);
        teller.count(&request("m"), None);
        let first = teller.next("me", at(5_000)).unwrap();
        teller.count(&request("m"), None);
        assert_eq!(teller.next("me", at(60_000)), None, "the first has no answer");
        teller.counted(&proto::Counted {
            origin: "another".into(),
            sequence: first.sequence,
        });
        assert_eq!(teller.next("me", at(60_000)), None, "nor has it now");
        teller.counted(&proto::Counted {
            origin: "me".into(),
            sequence: first.sequence,
        });
        assert_eq!(teller.next("me", at(5_999)), None, "too soon");
        assert_eq!(teller.next("me", at(6_000)).unwrap().sequence, 2);
    }

    #[test]
    fn the_longest_names_fit_a_message() {
        let mut teller = Teller::new(1_000);
        let long = "x".repeat(512);
        for n in 0..200 {
            let model = format!("{n:03}{}", &long[3..]);
            let long = Request {
                route: Some(&long),
                server: Some(&long),
                upstream_model: Some(&long),
                ..request(&model)
            };
            teller.count(&long, Some(0.5));
        }
        let message = teller.next("me", at(5_000)).unwrap();
        assert!(message.encoded_len() < 256 << 10, "{}", message.encoded_len());
        assert_eq!(teller.rest("me").len(), 3);
    }

    #[test]
    fn what_cannot_be_is_left_out_and_the_rest_counts() {
        let mut tally = Tally::new(10);
        let odd = proto::RequestCounts {
            path: "/etc/passwd".into(),
            status: 70_000,
            error_type: "x".repeat(1 << 16),
            requests: 3,
            seconds: Some(proto::Histogram {
                buckets: vec![1, 2],
                sum: f64::NAN,
            }),
            ..proto::RequestCounts::default()
        };
        let counts = proto::Counts {
            requests: vec![odd],
            ..proto::Counts::default()
        };
        assert_eq!(add(&counts, &mut tally), 1);
        let (kind, sums) = tally.iter().next().unwrap();
        assert_eq!((kind.path, kind.status, kind.error_type), ("other", 0, "other"));
        assert_eq!((sums.requests, sums.seconds.count()), (3, 0));
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Request(u8),
        /// A message is due; it arrives, and its answer does, or not.
        Tell {
            arrives: bool,
            answered: bool,
        },
        Reconnect,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            any::<u8>().prop_map(|model| Event::Request(model % 4)),
            (any::<bool>(), any::<bool>()).prop_map(|(arrives, answered)| Event::Tell { arrives, answered }),
            Just(Event::Reconnect),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_lost_on_the_way_every_request_is_counted_once(events in prop::collection::vec(event(), 0..60)) {
            let mut teller = Teller::new(3);
            let mut controller = Controller::new();
            let (mut now, mut asked) = (at(0), 0);
            let tell = |teller: &mut Teller, controller: &mut Controller, now, arrives, answered| {
                if let Some(message) = teller.next("me", now)
                    && arrives
                {
                    let counted = controller.take(&message);
                    if answered {
                        teller.counted(&counted);
                    }
                }
            };
            for event in events {
                now = now.after(2_000);
                match event {
                    Event::Request(model) => {
                        teller.count(&request(&format!("model-{model}")), None);
                        asked += 1;
                    }
                    Event::Tell { arrives, answered } => tell(&mut teller, &mut controller, now, arrives, answered),
                    Event::Reconnect => teller.connected(),
                }
            }
            for _ in 0..20 {
                now = now.after(2_000);
                teller.connected();
                tell(&mut teller, &mut controller, now, true, true);
            }
            prop_assert_eq!(controller.requests(), asked);
        }
    }
}
