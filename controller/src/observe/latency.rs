//! Mean latency over the interval between two scrapes, from histograms that only ever grow.
//!
//! What must always hold: an interval without samples changes nothing (the last value stays, with its age, for the
//! deciders to fade), and a histogram that fell was reset by a restart, so what it holds counts from zero.

use super::parse::Sums;

/// Follows one histogram of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tracker {
    last: Option<Sums>,
}

/// What a new scrape tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Step {
    /// Mean of the interval, seconds; `None` when it had no samples.
    pub(super) mean: Option<f32>,
    /// True when the histogram fell: the engine started anew.
    pub(super) reset: bool,
}

impl Tracker {
    /// Takes the sums of a new scrape. The first is only a base: what it sums up may be hours old.
    pub(super) fn step(&mut self, sums: Option<Sums>) -> Step {
        let Some(sums) = sums else { return Step::default() };
        let Some(last) = self.last.replace(sums) else {
            return Step::default();
        };
        let reset = sums.count < last.count || sums.sum < last.sum;
        let base = if reset { Sums::default() } else { last };
        let count = sums.count - base.count;
        let mean = (count > 0.0).then(|| ((sums.sum - base.sum) / count) as f32);
        Step { mean, reset }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(sum: f64, count: f64) -> Option<Sums> {
        Some(Sums { sum, count })
    }

    #[test]
    fn the_mean_is_of_the_interval_alone() {
        let mut tracker = Tracker::default();
        assert_eq!(tracker.step(sums(100.0, 10.0)).mean, None, "the first is a base");
        assert_eq!(tracker.step(sums(101.0, 14.0)).mean, Some(0.25));
        assert_eq!(tracker.step(sums(101.0, 14.0)).mean, None, "no new samples");
        assert_eq!(tracker.step(None).mean, None, "not said");
        assert_eq!(
            tracker.step(sums(102.0, 15.0)).mean,
            Some(1.0),
            "the base survives a gap"
        );
    }

    #[test]
    fn a_restart_counts_from_zero() {
        let mut tracker = Tracker::default();
        tracker.step(sums(100.0, 10.0));
        let step = tracker.step(sums(4.0, 2.0));
        assert_eq!((step.mean, step.reset), (Some(2.0), true));
        let idle = tracker.step(sums(0.0, 0.0));
        assert_eq!((idle.mean, idle.reset), (None, true));
    }
}
