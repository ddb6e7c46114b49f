//! `least-request`: keeps endpoints whose queue is short, and prefers those with the least to do.
//!
//! The filter keeps an endpoint while fewer than `maxWaitingRequests` wait in its engine. The score takes the demand `d`
//! of each candidate, in requests, half of it weighed by uncached prompt tokens. With `m` the mean over the candidates:
//!
//! ```text
//! range = max(2 * maxWaitingRequests, m / 2)
//! above the mean:  100 points lost for every `range` requests
//! below the mean:  as much, but all of it together at most 10 points
//! ```
//!
//! Kthena spreads 100 points between the least and the most loaded, whatever lies between them: one request more can
//! cost as much as a fully cached prompt gains. Here it costs 5 points by default. Being less loaded than average gains
//! little, since the endpoint that is least loaded is so for all deciders at once, and the picture they share is old:
//! a large gain is a stampede.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::demand::{demand, queued};
use super::plugin::{Candidates, Filter, Refusal, Score, Subject, parse};

use crate::float::{larger, smaller};

/// Kthena's default, also for an explicit 0.
const DEFAULT_MAX_WAITING: u32 = 10;

/// The share of demand that is weighed by uncached prompt tokens rather than counted by heads: a long cold prompt keeps
/// an engine's prefill busy for as long as many short ones.
const TOKEN_SHARE: f32 = 0.5;

/// By how much of the mean an endpoint may be busier before that costs all points.
const RANGE: f32 = 0.5;

/// The most points between the least loaded endpoint and the mean: as many as the pick takes for nearly equal.
const BELOW: f32 = 10.0;

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
        let (mut least, mut sum) = (f32::INFINITY, 0.0);
        for (point, view) in points.iter_mut().zip(candidates.views) {
            let by_head = view.in_flight as f32;
            let by_tokens = view.in_flight_tokens as f32 * requests_per_token;
            let demand = demand(view) + TOKEN_SHARE * (by_tokens - by_head);
            least = smaller(least, demand);
            sum += demand;
            *point = demand;
        }
        let mean = sum / candidates.views.len().max(1) as f32;
        let range = (2.0 * self.max_waiting).max(RANGE * mean);
        let above = 100.0 / range;
        let below = above.min(BELOW / (mean - least).max(f32::MIN_POSITIVE));
        for point in points {
            let cost = (smaller(*point, mean) - least) * below + larger(*point - mean, 0.0) * above;
            *point = larger(100.0 - cost, 0.0);
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
    fn one_request_more_costs_five_points_not_a_hundred() {
        assert_eq!(points(&[busy(0, 0), busy(1, 100)]), [100.0, 95.0]);
    }

    #[test]
    fn being_less_loaded_than_average_gains_little_and_more_loaded_costs_much() {
        let points = points(&[busy(0, 0), busy(20, 2000), busy(20, 2000), busy(40, 4000)]);
        assert_eq!(points, [100.0, 90.0, 90.0, 0.0]);
    }

    #[test]
    fn in_a_large_load_a_request_counts_less() {
        let points = points(&[busy(100, 10_000), busy(100, 10_000), busy(110, 11_000)]);
        assert!(
            points[0] - points[2] > 15.0 && points[0] - points[2] < 25.0,
            "{points:?}"
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
                models: &|| &[],
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
