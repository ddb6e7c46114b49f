//! `least-latency`: avoids endpoints that answered slower than the others lately.
//!
//! For the time to first token and the time per output token alike, an endpoint that took `t` where the mean is `m` gets
//!
//! ```text
//! 100                                          if t <= m
//! 100 * (1 - (t - m) / (t + 3 m + slack))      otherwise; slack = 1 s and 100 ms
//! ```
//!
//! and `TTFTTPOTWeightFactor` is the share of the first. Kthena spreads 100 points between the fastest and the slowest.
//! But most of the difference is the doing of the requests, not of the endpoint: who got the cached prompts was fast.
//! So being faster than the mean gains nothing, being a little slower costs little, one outlier does not squeeze the
//! others together, and what is far slower loses nearly all.
//!
//! Latency is a memory of requests served, and an endpoint that gets none makes no new ones: what it did fades with a
//! half-life of ten seconds towards the mean, so that one that was once slow gets its chance again.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::fade::halving;
use super::plugin::{Candidates, Refusal, Score, UNSCORED, parse};

use crate::float::larger;

/// The memory of a latency halves in this time.
const HALF_LIFE_MS: u64 = 10_000;

/// Seconds that nobody waits for knowingly: differences that are small against them cost little.
const TTFT_SLACK: f32 = 1.0;
const TPOT_SLACK: f32 = 0.1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    #[serde(rename = "TTFTTPOTWeightFactor", default = "half")]
    ttft_share: f32,
}

fn half() -> f32 {
    0.5
}

#[derive(Debug)]
struct LeastLatency {
    ttft_share: f32,
}

/// One kind of latency over the candidates.
struct Scale {
    mean: f32,
    slack: f32,
}

pub(super) fn score(args: &Map<String, Value>) -> Result<Box<dyn Score>, Refusal> {
    let args: Args = parse(args)?;
    if !(0.0..=1.0).contains(&args.ttft_share) {
        return Err(format!(
            "TTFTTPOTWeightFactor is {}: it must lie between 0 and 1",
            args.ttft_share
        ));
    }
    Ok(Box::new(LeastLatency {
        ttft_share: args.ttft_share,
    }))
}

impl Score for LeastLatency {
    fn score(&self, candidates: &Candidates<'_>, points: &mut [f32]) {
        let (mut ttft, mut tpot) = (Mean::default(), Mean::default());
        for (trusted, view) in points.iter_mut().zip(candidates.views) {
            // How much a latency is still believed waits in its place for the second pass.
            *trusted = UNSCORED;
            if let (Some(first), Some(next)) = (view.latency.ttft, view.latency.tpot) {
                *trusted = halving(view.latency_age, HALF_LIFE_MS);
                ttft.add(first, *trusted);
                tpot.add(next, *trusted);
            }
        }
        let (ttft, tpot) = (ttft.scale(TTFT_SLACK), tpot.scale(TPOT_SLACK));
        let (ttft_share, tpot_share) = (100.0 * self.ttft_share, 100.0 * (1.0 - self.ttft_share));
        for (point, view) in points.iter_mut().zip(candidates.views) {
            let trusted = *point;
            if let (Some(first), Some(next)) = (view.latency.ttft, view.latency.tpot) {
                *point = 100.0 - ttft_share * ttft.cost(first, trusted) - tpot_share * tpot.cost(next, trusted);
            }
        }
    }
}

/// A mean in which each value counts by how much it is believed.
#[derive(Default)]
struct Mean {
    sum: f32,
    weight: f32,
}

impl Mean {
    fn add(&mut self, value: f32, trust: f32) {
        self.sum += value * trust;
        self.weight += trust;
    }

    fn scale(&self, slack: f32) -> Scale {
        let mean = self.sum / self.weight.max(f32::MIN_POSITIVE);
        Scale {
            mean,
            slack: 3.0 * mean + slack,
        }
    }
}

impl Scale {
    /// The share of the points that a latency costs, 0 to 1.
    fn cost(&self, value: f32, trust: f32) -> f32 {
        let excess = larger((value - self.mean) * trust, 0.0);
        excess / (self.mean + excess + self.slack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Latency, View};

    fn plugin(json: &str) -> Result<Box<dyn Score>, Refusal> {
        score(&serde_json::from_str(json).unwrap())
    }

    /// Points of endpoints by time to first token and its age; all write tokens equally fast.
    fn points(said: &[(Option<f32>, u64)]) -> Vec<f32> {
        let views: Vec<View> = said
            .iter()
            .map(|(ttft, age)| View {
                latency: Latency {
                    ttft: *ttft,
                    tpot: Some(0.05),
                },
                latency_age: *age,
                ..View::default()
            })
            .collect();
        let mut points = vec![0.0; views.len()];
        let candidates = Candidates {
            views: &views,
            matched: &vec![0; views.len()],
            total_blocks: 0,
            seed: 0,
        };
        plugin(r#"{"TTFTTPOTWeightFactor":1}"#)
            .unwrap()
            .score(&candidates, &mut points);
        points
    }

    #[test]
    fn a_small_difference_costs_little_and_a_large_one_nearly_all() {
        let near = points(&[(Some(1.0), 0), (Some(1.1), 0)]);
        assert_eq!(near[0], 100.0);
        assert!(near[1] > 98.0, "{near:?}");
        let far = points(&[
            (Some(1.0), 0),
            (Some(1.0), 0),
            (Some(1.0), 0),
            (Some(1.0), 0),
            (Some(60.0), 0),
        ]);
        assert!(far[0] == 100.0 && far[4] < 55.0, "{far:?}");
    }

    #[test]
    fn being_faster_than_the_others_gains_nothing() {
        let points = points(&[(Some(0.05), 0), (Some(0.5), 0), (Some(0.5), 0), (Some(0.5), 0)]);
        assert!(points[0] - points[1] < 5.0, "{points:?}");
    }

    #[test]
    fn an_endpoint_that_was_slow_and_then_idle_recovers() {
        let cost = |age| {
            let points = points(&[(Some(1.0), 0), (Some(1.0), 0), (Some(9.0), age)]);
            points[0] - points[2]
        };
        assert!(cost(0) > 20.0, "{}", cost(0));
        assert!(cost(20_000) > cost(40_000));
        assert!(cost(120_000) < 1.0, "{}", cost(120_000));
    }

    #[test]
    fn an_endpoint_without_both_latencies_is_unscored() {
        let points = points(&[(Some(1.0), 0), (None, 0)]);
        assert!(points[1].is_nan() && !points[0].is_nan(), "{points:?}");
    }

    #[test]
    fn a_factor_out_of_range_is_refused() {
        assert!(plugin(r#"{"TTFTTPOTWeightFactor":1.5}"#).is_err());
        assert!(plugin(r#"{"TTFTTPOTWeightFactor":-0.1}"#).is_err());
        assert!(plugin(r#"{"ttft":0.1}"#).is_err());
        assert!(plugin("{}").is_ok());
    }
}
