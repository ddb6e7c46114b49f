//! `gpu-usage`: avoids endpoints whose KV cache is filling up: `100 * (1 - max(0, usage - 0.5))`.
//!
//! Kthena scores `100 * (1 - usage)`. But the figure is up to a second old and the same for all deciders, and it tells
//! little as long as there is room: it drew all requests of a second to the endpoint that had been emptiest, and
//! conversations away from their cache. Up to one half it therefore costs nothing; above, a point for each percent.
//! An engine that does not say, or whose sample is old, fades towards the average of the others.

use serde_json::{Map, Value};

use super::demand::trust;
use super::fade::fade;
use super::plugin::{Candidates, Refusal, Score, none};

use crate::float::{larger, smaller};

/// Usage up to this share of the cache costs nothing.
const HARMLESS: f32 = 0.5;

#[derive(Debug)]
struct GpuUsage;

pub(super) fn score(args: &Map<String, Value>) -> Result<Box<dyn Score>, Refusal> {
    none(args)?;
    Ok(Box::new(GpuUsage))
}

impl Score for GpuUsage {
    fn score(&self, candidates: &Candidates<'_>, points: &mut [f32]) {
        fade(points, |at| {
            let view = &candidates.views[at];
            let usage = view.sample.kv_usage?;
            let excess = larger(smaller(usage, 1.0) - HARMLESS, 0.0);
            Some((100.0 * (1.0 - excess), trust(view.sample_age)))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Sample, View};

    fn points(said: &[(Option<f32>, u64)]) -> Vec<f32> {
        let views: Vec<View> = said
            .iter()
            .map(|(kv_usage, age)| View {
                sample: Sample {
                    kv_usage: *kv_usage,
                    ..Sample::default()
                },
                sample_age: Some(*age),
                ..View::default()
            })
            .collect();
        let mut points = vec![0.0; views.len()];
        GpuUsage.score(
            &Candidates {
                views: &views,
                matched: &vec![0; views.len()],
                total_blocks: 0,
                seed: 0,
            },
            &mut points,
        );
        points
    }

    #[test]
    fn only_a_cache_that_fills_up_costs_points() {
        let points = points(&[(Some(0.25), 0), (Some(0.75), 0), (Some(7.0), 0)]);
        assert_eq!(points, [100.0, 75.0, 50.0]);
    }

    #[test]
    fn who_does_not_say_is_unscored_and_who_said_it_long_ago_counts_as_average() {
        let points = points(&[(Some(0.0), 0), (Some(1.0), 0), (None, 0), (Some(1.0), 120_000)]);
        assert_eq!(points[..2], [100.0, 50.0]);
        assert!(points[2].is_nan());
        assert!((points[3] - 75.0).abs() < 0.1, "{points:?}");
    }

    #[test]
    fn it_takes_no_arguments() {
        assert!(score(&serde_json::from_str(r#"{"x":1}"#).unwrap()).is_err());
    }
}
