//! Requests that are over, summed by what they were: what a shell without a page of metrics of its own counts with.
//!
//! What must always hold: the number of kinds is bounded, and what goes beyond it is counted under `other`, so that sums
//! stay right; the values of labels come from sets that clients cannot enlarge; nothing is counted that is not known.
//! What was taken out to be told elsewhere is not here any more: a tally holds what is not told yet, or, where tallies
//! meet, all there is.

mod histogram;
pub mod names;

pub use histogram::Histogram;
pub use names::{Request, operation};

use ahash::AHashMap;

use names::{NONE, OTHER};

/// What tells requests apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// The model asked for, `unknown` where no ModelRoute has that name.
    pub model: Box<str>,
    /// The path of the API.
    pub path: &'static str,
    /// The ModelRoute, `none` where there was none.
    pub route: Box<str>,
    /// The ModelServer, `none` where there was none.
    pub server: Box<str>,
    /// The model name sent to the engine.
    pub upstream_model: Box<str>,
    /// The status that the client saw; 0 = not known.
    pub status: u16,
    /// Kthena's `error_type`; empty = no error.
    pub error_type: &'static str,
}

/// What is summed of requests of one kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// How many.
    pub requests: u64,
    /// From the first byte of the request to the last of the answer, seconds; Kthena's buckets.
    pub seconds: Histogram,
    /// The same in OpenTelemetry's buckets.
    pub server_seconds: Histogram,
    /// To the first byte of answers without error, seconds.
    pub first_byte: Histogram,
    /// Tokens of prompts, as engines counted them.
    pub input_tokens: Histogram,
    /// Tokens generated, as engines counted them.
    pub output_tokens: Histogram,
    /// The part of a prompt that the chosen endpoint was believed to hold.
    pub match_ratio: Histogram,
}

/// Sums by kind.
#[derive(Clone, Debug)]
pub struct Tally {
    kinds: AHashMap<Kind, Sums>,
    max: usize,
    overflowed: u64,
}

// === impl Kind ===

impl Kind {
    /// The kind of a request; its strings are bounded here.
    pub fn of(request: &Request<'_>) -> Self {
        let or_none = |name: Option<&str>| names::bounded(name.unwrap_or(NONE)).into();
        Self {
            model: names::bounded(request.model.unwrap_or("unknown")).into(),
            path: names::path(request.path),
            route: or_none(request.route),
            server: or_none(request.server),
            upstream_model: or_none(request.upstream_model.or(request.model)),
            status: request.status.unwrap_or(0),
            error_type: names::error_type(request.error_type),
        }
    }

    /// The kind that stands for those there is no room for.
    fn rest(&self) -> Self {
        Self {
            model: OTHER.into(),
            path: OTHER,
            route: OTHER.into(),
            server: OTHER.into(),
            upstream_model: OTHER.into(),
            status: self.status / 100 * 100,
            error_type: "",
        }
    }
}

// === impl Sums ===

impl Default for Sums {
    fn default() -> Self {
        Self {
            requests: 0,
            seconds: Histogram::new(&names::REQUEST_SECONDS),
            server_seconds: Histogram::new(&names::SERVER_SECONDS),
            first_byte: Histogram::new(&names::FIRST_TOKEN_SECONDS),
            input_tokens: Histogram::new(&names::TOKENS),
            output_tokens: Histogram::new(&names::TOKENS),
            match_ratio: Histogram::new(&names::MATCH_RATIO),
        }
    }
}

impl Sums {
    /// Adds other sums.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.seconds.add(&other.seconds);
        self.server_seconds.add(&other.server_seconds);
        self.first_byte.add(&other.first_byte);
        self.input_tokens.add(&other.input_tokens);
        self.output_tokens.add(&other.output_tokens);
        self.match_ratio.add(&other.match_ratio);
    }

    fn count(&mut self, request: &Request<'_>, match_ratio: Option<f64>) {
        self.requests += 1;
        if let Some(seconds) = request.duration_s {
            self.seconds.observe(seconds);
            self.server_seconds.observe(seconds);
        }
        let served = request.error_type.is_none() && request.status.is_some_and(|status| (1..400).contains(&status));
        if let Some(seconds) = request.first_byte_s.filter(|_| served) {
            self.first_byte.observe(seconds);
        }
        let observe = |histogram: &mut Histogram, tokens: Option<u64>| {
            if let Some(tokens) = tokens {
                histogram.observe(tokens as f64);
            }
        };
        observe(&mut self.input_tokens, request.input_tokens);
        observe(&mut self.output_tokens, request.output_tokens);
        if let Some(ratio) = match_ratio {
            self.match_ratio.observe(ratio);
        }
    }
}

// === impl Tally ===

impl Tally {
    /// Nothing counted; at most `max` kinds are told apart.
    pub fn new(max: usize) -> Self {
        Self {
            kinds: AHashMap::new(),
            max,
            overflowed: 0,
        }
    }

    /// Counts a request that is over. `match_ratio` is the part of its prompt that the chosen endpoint was believed to
    /// hold, where that was looked at.
    pub fn count(&mut self, request: &Request<'_>, match_ratio: Option<f64>) {
        self.sums(Kind::of(request), 1).count(request, match_ratio);
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, kind: Kind, sums: &Sums) {
        self.sums(kind, sums.requests).add(sums);
    }

    fn sums(&mut self, kind: Kind, requests: u64) -> &mut Sums {
        let fits = self.kinds.len() < self.max || self.kinds.contains_key(&kind);
        let kind = if fits {
            kind
        } else {
            self.overflowed = self.overflowed.saturating_add(requests);
            kind.rest()
        };
        self.kinds.entry(kind).or_default()
    }

    /// Takes out at most so many kinds, in no particular order, with their sums.
    pub fn take(&mut self, at_most: usize) -> Vec<(Kind, Sums)> {
        if self.kinds.len() <= at_most {
            return self.kinds.drain().collect();
        }
        let kinds: Vec<Kind> = self.kinds.keys().take(at_most).cloned().collect();
        kinds.iter().filter_map(|kind| self.kinds.remove_entry(kind)).collect()
    }

    /// All kinds and their sums, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&Kind, &Sums)> {
        self.kinds.iter()
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// Requests counted under `other` for want of room, since the start.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: Request<'_> = Request {
        model: Some("m"),
        path: "/v1/chat/completions",
        status: Some(200),
        error_type: None,
        route: Some("a/r"),
        server: Some("a/s"),
        upstream_model: None,
        duration_s: Some(0.2),
        first_byte_s: Some(0.05),
        input_tokens: Some(7),
        output_tokens: None,
    };

    #[test]
    fn requests_of_one_kind_are_summed_and_what_is_not_known_is_not_counted() {
        let mut tally = Tally::new(10);
        tally.count(&CHAT, Some(0.5));
        tally.count(&CHAT, None);
        let failed = Request {
            status: Some(503),
            error_type: Some("scheduling"),
            ..CHAT
        };
        tally.count(&failed, None);
        let sums = |status| tally.iter().find(|(kind, _)| kind.status == status).unwrap().1.clone();
        let good = sums(200);
        assert_eq!(
            (good.requests, good.input_tokens.sum(), good.output_tokens.count()),
            (2, 14.0, 0)
        );
        assert_eq!((good.match_ratio.count(), good.first_byte.count()), (1, 2));
        assert_eq!((sums(503).first_byte.count(), sums(503).seconds.count()), (0, 1));
    }

    #[test]
    fn what_clients_choose_makes_no_kinds() {
        let mut tally = Tally::new(10);
        for n in 0..100 {
            let made_up = Request {
                model: None,
                path: &format!("/v1/{n}"),
                error_type: Some("made up"),
                route: Some(&"x".repeat(10_000)),
                ..CHAT
            };
            tally.count(&made_up, None);
        }
        let kinds: Vec<_> = tally.iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds.len(), 1);
        assert_eq!(
            (kinds[0].path, kinds[0].error_type, &*kinds[0].route),
            (OTHER, OTHER, OTHER)
        );
    }

    #[test]
    fn kinds_beyond_the_bound_are_counted_together() {
        let mut tally = Tally::new(2);
        for n in 0..10 {
            let model = format!("model-{n}");
            let request = Request {
                model: Some(&model),
                ..CHAT
            };
            tally.count(&request, None);
        }
        assert_eq!((tally.overflowed(), tally.iter().count()), (8, 3));
        let all: u64 = tally.iter().map(|(_, sums)| sums.requests).sum();
        assert_eq!(all, 10, "sums stay right");
    }

    #[test]
    fn what_is_taken_out_in_pieces_sums_up_to_what_was_in() {
        let mut from = Tally::new(100);
        for n in 0..10 {
            let model = format!("model-{}", n % 7);
            let request = Request {
                model: Some(&model),
                ..CHAT
            };
            from.count(&request, Some(1.0));
        }
        let whole = from.clone();
        let mut to = Tally::new(100);
        while !from.is_empty() {
            let taken = from.take(3);
            assert!(taken.len() <= 3);
            for (kind, sums) in taken {
                to.add(kind, &sums);
            }
        }
        let sorted = |tally: &Tally| {
            let mut all: Vec<_> = tally.iter().map(|(kind, sums)| (kind.clone(), sums.clone())).collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        assert_eq!(sorted(&to), sorted(&whole));
    }
}
