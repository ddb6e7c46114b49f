//! How busy an endpoint is, in requests.
//!
//! Two pictures of the same thing are at hand: requests in flight as the deciders count them (fresh, but blind to other
//! clients of the engine), and what the engine said of its batch and queue (complete, but older). The larger one counts.
//! What must always hold: a sample is believed less the older it is, so that a frozen one cannot keep an endpoint busy or
//! idle for ever. Nothing fails: an endpoint never heard of is idle.

use super::fade::halving;
use crate::float::larger;
use crate::load::View;

/// Up to this age in milliseconds a sample is believed entirely: twice the default interval between samples.
const FRESH_MS: u64 = 2_000;

/// After that, the belief in it halves in this time.
const HALF_LIFE_MS: u64 = 5_000;

/// What a request in the engine's queue counts on top of itself: it waits for another to end before it is even started,
/// and everything that comes after it waits behind it.
const QUEUED: f32 = 1.0;

/// The demand at an endpoint, in requests.
pub fn demand(view: &View) -> f32 {
    let trust = trust(view.sample_age);
    let waiting = view.sample.waiting.unwrap_or(0) as f32;
    let running = view.sample.running.unwrap_or(0) as f32;
    let seen = trust * (waiting + running);
    larger(seen, view.in_flight as f32) + QUEUED * trust * waiting
}

/// Requests in the engine's queue, as far as the sample is still believed.
pub(super) fn queued(view: &View) -> f32 {
    trust(view.sample_age) * view.sample.waiting.unwrap_or(0) as f32
}

/// How much a sample of this age is believed, 0 to 1.
pub(super) fn trust(age: Option<u64>) -> f32 {
    match age {
        None => 0.0,
        Some(age) if age <= FRESH_MS => 1.0,
        Some(age) => halving(age - FRESH_MS, HALF_LIFE_MS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Sample;

    fn view(in_flight: u32, running: u32, waiting: u32, age: u64) -> View {
        View {
            in_flight,
            sample: Sample {
                waiting: Some(waiting),
                running: Some(running),
                kv_usage: None,
            },
            sample_age: Some(age),
            ..View::default()
        }
    }

    #[test]
    fn the_larger_of_what_we_count_and_what_the_engine_says_is_believed() {
        assert_eq!(demand(&view(5, 3, 0, 100)), 5.0);
        assert_eq!(demand(&view(1, 3, 0, 100)), 3.0);
        assert_eq!(demand(&View::default()), 0.0, "an endpoint never heard of is idle");
    }

    #[test]
    fn a_request_in_the_engines_queue_counts_twice() {
        assert_eq!(demand(&view(0, 3, 2, 0)), 7.0);
    }

    #[test]
    fn a_frozen_sample_is_believed_less_and_less() {
        assert_eq!(demand(&view(0, 8, 0, 7_000)), 4.0);
        assert!(demand(&view(0, 8, 0, 60_000)) < 0.01);
        assert_eq!(demand(&view(2, 8, 0, 60_000)), 2.0, "our own count stays");
    }
}
