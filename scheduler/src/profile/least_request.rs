//! `least-request`: keeps endpoints whose queue is short, and prefers those with the least to do.
//!
//! The filter keeps an endpoint while fewer than `maxWaitingRequests` wait in its engine. The score is
//! `100 * (1 - (d - d_min) / max(d_max - d_min, maxWaitingRequests))`, where `d` is the demand in requests, half of it
//! weighed by uncached prompt tokens. Kthena divides by `d_max - d_min` alone, which turns one request more into 100
//! points; with the floor it costs `100 / maxWaitingRequests` and cannot drown cache affinity.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::demand::{demand, queued};
use super::plugin::{Candidates, Filter, Refusal, Score, Subject, parse};

/// Kthena's default, also for an explicit 0.
const DEFAULT_MAX_WAITING: u32 = 10;

/// The share of demand that is weighed by uncached prompt tokens rather than counted by heads: a long cold prompt keeps
/// an engine's prefill busy for as long as many short ones.
const TOKEN_SHARE: f32 = 0.5;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    #[serde(rename = "maxWaitingRequests", default)]
    max_waiting_requests: u32,
}

#[derive(Debug)]
struct LeastRequest {
    max_waiting: f32,
}

pub(super) fn filter(args: &Map<String, Value>) -> Result<Box<dyn Filter>, Refusal> {
    Ok(Box::new(compile(args)?))
}

pub(super) fn score(args: &Map<String, Value>) -> Result<Box<dyn Score>, Refusal> {
    Ok(Box::new(compile(args)?))
}

fn compile(args: &Map<String, Value>) -> Result<LeastRequest, Refusal> {
    let args: Args = parse(args)?;
    let max_waiting = match args.max_waiting_requests {
        0 => DEFAULT_MAX_WAITING,
        n => n,
    };
    Ok(LeastRequest {
        max_waiting: max_waiting as f32,
    })
}

impl Filter for LeastRequest {
    fn keep(&self, subject: &Subject<'_>) -> bool {
        queued(subject.view) < self.max_waiting
    }
}

impl Score for LeastRequest {
    fn score(&self, candidates: &Candidates<'_>, points: &mut [f32]) {
        let requests_per_token = requests_per_token(candidates);
        let (mut least, mut most) = (f32::INFINITY, f32::NEG_INFINITY);
        for (point, view) in points.iter_mut().zip(candidates.views) {
            let by_head = view.in_flight as f32;
            let by_tokens = view.in_flight_tokens as f32 * requests_per_token;
            let demand = demand(view) + TOKEN_SHARE * (by_tokens - by_head);
            least = least.min(demand);
            most = most.max(demand);
            *point = demand;
        }
        let points_per_request = 100.0 / (most - least).max(self.max_waiting);
        for point in points {
            *point = 100.0 - (*point - least) * points_per_request;
        }
    }
}

/// What one uncached prompt token in flight counts, so that over all candidates tokens and requests weigh the same.
fn requests_per_token(candidates: &Candidates<'_>) -> f32 {
    let (mut requests, mut tokens) = (0u64, 0u64);
    for view in candidates.views {
        requests += u64::from(view.in_flight);
        tokens = tokens.saturating_add(view.in_flight_tokens);
    }
    if tokens == 0 {
        0.0
    } else {
        requests as f32 / tokens as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Sample, View};

    fn plugin() -> LeastRequest {
        compile(&Map::new()).unwrap()
    }

    fn busy(in_flight: u32, tokens: u64) -> View {
        View {
            in_flight,
            in_flight_tokens: tokens,
            ..View::default()
        }
    }

    fn points(views: &[View]) -> Vec<f32> {
        let mut points = vec![0.0; views.len()];
        let candidates = Candidates {
            views,
            matched: &vec![0; views.len()],
            total_blocks: 0,
            seed: 0,
        };
        plugin().score(&candidates, &mut points);
        points
    }

    #[test]
    fn one_request_more_costs_ten_points_not_a_hundred() {
        assert_eq!(points(&[busy(0, 0), busy(1, 100)]), [100.0, 90.0]);
    }

    #[test]
    fn a_wide_spread_uses_the_whole_range() {
        assert_eq!(
            points(&[busy(0, 0), busy(40, 4000), busy(20, 2000)]),
            [100.0, 0.0, 50.0]
        );
    }

    #[test]
    fn a_long_cold_prompt_weighs_more_than_a_cached_one() {
        let points = points(&[busy(1, 30_000), busy(1, 100), busy(1, 100)]);
        assert!(points[0] < points[1] - 5.0, "{points:?}");
        assert_eq!(points[1], 100.0);
    }

    #[test]
    fn the_filter_drops_an_endpoint_whose_queue_is_full_until_the_news_is_old() {
        let mut view = View {
            sample: Sample {
                waiting: Some(10),
                ..Sample::default()
            },
            sample_age: Some(0),
            ..View::default()
        };
        let keep = |view: &View| {
            plugin().keep(&Subject {
                view,
                models: &[],
                model: "m",
            })
        };
        assert!(!keep(&view));
        view.sample_age = Some(4_000);
        assert!(keep(&view));
        view.sample_age = Some(0);
        view.sample.waiting = Some(9);
        assert!(keep(&view));
    }

    #[test]
    fn zero_means_the_default_and_a_negative_bound_is_refused() {
        let compile = |json: &str| compile(&serde_json::from_str(json).unwrap());
        assert_eq!(compile(r#"{"maxWaitingRequests":0}"#).unwrap().max_waiting, 10.0);
        assert_eq!(compile(r#"{"maxWaitingRequests":3}"#).unwrap().max_waiting, 3.0);
        assert!(compile(r#"{"maxWaitingRequests":-1}"#).is_err());
        assert!(compile(r#"{"maxWaiting":1}"#).unwrap_err().contains("maxWaiting"));
    }
}
