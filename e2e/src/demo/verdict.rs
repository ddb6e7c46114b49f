//! What was measured, and whether it is what the demo promises.
//!
//! The promise: nothing is lost; the default profile finds at least 1.5 times as much in the engines' caches as random choice does; its
//! 90th percentile of the time to first token is at most 0.7 times that of random choice, and no more than that of least-request.

use std::time::Duration;

/// The default profile's hit share is at least this many times random's.
const HITS: f64 = 1.5;

/// The default profile's p90 is at most this share of random's.
const TTFT: f64 = 0.7;

/// What was measured of one profile.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Times to first token at the client, of the requests that were answered.
    pub first_tokens: Vec<Duration>,
    /// Prompt tokens from the cache to all prompt tokens, 0 to 1, as the engines count them.
    pub hit_share: f64,
    /// Requests without a whole answer.
    pub lost: usize,
}

impl Figures {
    /// The time that this share (0 to 1) of the answered requests did not exceed; zero when there were none.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Duration {
        let mut sorted = self.first_tokens.clone();
        sorted.sort_unstable();
        // The nearest rank, from 1 on.
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
    }

    /// The 90th percentile in whole milliseconds.
    #[must_use]
    pub fn p90_ms(&self) -> u128 {
        self.percentile(0.9).as_millis()
    }

    fn hit_percent(&self) -> f64 {
        self.hit_share * 100.0
    }
}

/// What was measured of all profiles.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Random choice.
    pub random: Figures,
    /// The least loaded.
    pub least_request: Figures,
    /// The default profile.
    pub default: Figures,
}

impl Results {
    /// Requests without a whole answer.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.random.lost + self.least_request.lost + self.default.lost
    }

    /// What was promised and is not so, a sentence each; empty when all is.
    #[must_use]
    pub fn broken_promises(&self) -> Vec<String> {
        let (default, random) = (&self.default, &self.random);
        let mut broken = Vec::new();
        for (name, figures) in [
            ("default", default),
            ("random", random),
            ("least-request", &self.least_request),
        ] {
            if figures.first_tokens.is_empty() {
                broken.push(format!("no request of the profile {name} was answered"));
            }
        }
        if self.lost() > 0 {
            broken.push(format!("{} requests were lost, none should be", self.lost()));
        }
        // Written so that a share that is no number breaks the promise too.
        let hits = default.hit_share >= HITS * random.hit_share && default.hit_share > 0.0;
        if !hits {
            broken.push(format!(
                "the default profile's hit share, {:.1} %, should be at least {HITS} times random's, {:.1} %",
                default.hit_percent(),
                random.hit_percent()
            ));
        }
        if default.percentile(0.9).as_secs_f64() > TTFT * random.percentile(0.9).as_secs_f64() {
            broken.push(format!(
                "the default profile's p90, {} ms, should be at most {TTFT} times random's, {} ms",
                default.p90_ms(),
                random.p90_ms()
            ));
        }
        if default.percentile(0.9) > self.least_request.percentile(0.9) {
            broken.push(format!(
                "the default profile's p90, {} ms, should not exceed least-request's, {} ms",
                default.p90_ms(),
                self.least_request.p90_ms()
            ));
        }
        broken
    }

    /// The last line, for programs.
    #[must_use]
    pub fn last_line(&self) -> String {
        format!(
            "demo: default ttft_p90_ms={} hit={:.1}% | random ttft_p90_ms={} hit={:.1}% | lost={}",
            self.default.p90_ms(),
            self.default.hit_percent(),
            self.random.p90_ms(),
            self.random.hit_percent(),
            self.lost()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(milliseconds: &[u64], hit_share: f64) -> Figures {
        Figures {
            first_tokens: milliseconds.iter().copied().map(Duration::from_millis).collect(),
            hit_share,
            lost: 0,
        }
    }

    fn good() -> Results {
        Results {
            random: figures(&[100, 200, 1000], 0.3),
            least_request: figures(&[100, 200, 900], 0.3),
            default: figures(&[100, 200, 700], 0.45),
        }
    }

    fn broken(change: impl FnOnce(&mut Results)) -> String {
        let mut results = good();
        change(&mut results);
        results.broken_promises().join("; ")
    }

    #[test]
    fn what_just_keeps_the_promises_passes() {
        assert_eq!(good().broken_promises(), [""; 0]);
        assert_eq!(
            good().last_line(),
            "demo: default ttft_p90_ms=700 hit=45.0% | random ttft_p90_ms=1000 hit=30.0% | lost=0"
        );
    }

    #[test]
    fn each_promise_that_is_broken_is_told() {
        assert!(broken(|results| results.least_request.lost = 1).contains("1 requests were lost"));
        assert!(broken(|results| results.default.hit_share = 0.449).contains("hit share, 44.9 %"));
        assert!(broken(|results| results.random.hit_share = f64::NAN).contains("hit share"));
        assert!(broken(|results| results.default = figures(&[701], 0.9)).contains("701 ms"));
        assert!(broken(|results| results.least_request = figures(&[699], 0.3)).contains("least-request's, 699 ms"));
        assert!(broken(|results| results.default.first_tokens.clear()).contains("no request of the profile default"));
    }

    #[test]
    fn three_times_the_same_decision_fails() {
        let random = || figures(&[100, 200, 1000], 0.3);
        let results = Results {
            random: random(),
            least_request: random(),
            default: random(),
        };
        assert_eq!(results.broken_promises().len(), 2);
        assert!(
            !Results::default().broken_promises().is_empty(),
            "nothing measured is no success"
        );
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let ten = figures(&[10, 9, 8, 7, 6, 5, 4, 3, 2, 1], 0.0);
        assert_eq!(ten.percentile(0.5), Duration::from_millis(5));
        assert_eq!(ten.percentile(0.9), Duration::from_millis(9));
        assert_eq!(ten.percentile(1.0), Duration::from_millis(10));
    }
}
