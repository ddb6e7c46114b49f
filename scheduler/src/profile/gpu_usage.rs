//! `gpu-usage`: prefers endpoints whose KV cache has room: `100 * (1 - usage)`.
//!
//! An engine that does not say, or whose sample is old, fades towards the average of the others.

use serde_json::{Map, Value};

use super::demand::trust;
use super::fade::fade;
use super::plugin::{Candidates, Refusal, Score, none};

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
            Some(((1.0 - usage.clamp(0.0, 1.0)) * 100.0, trust(view.sample_age)))
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
    fn free_cache_is_points() {
        assert_eq!(
            points(&[(Some(0.25), 0), (Some(1.0), 0), (Some(7.0), 0)]),
            [75.0, 0.0, 0.0]
        );
    }

    #[test]
    fn who_does_not_say_is_unscored_and_who_said_it_long_ago_counts_as_average() {
        let points = points(&[(Some(0.0), 0), (Some(0.5), 0), (None, 0), (Some(1.0), 120_000)]);
        assert_eq!(points[..2], [100.0, 50.0]);
        assert!(points[2].is_nan());
        assert!((points[3] - 75.0).abs() < 0.1, "{points:?}");
    }

    #[test]
    fn it_takes_no_arguments() {
        assert!(score(&serde_json::from_str(r#"{"x":1}"#).unwrap()).is_err());
    }
}
