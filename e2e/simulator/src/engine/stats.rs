//! What an engine counts about itself, as Prometheus sees it: counters that only rise, and histograms.
//!
//! The names and bucket bounds are those of vLLM 0.32; `metrics` puts them on the wire. Durations are in seconds.

/// Bounds of the token histograms.
const TOKENS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0];
/// Bounds of the histograms of a whole request's phases.
const PHASES: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
/// Bounds of the histograms of time per token.
const PER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
/// Bounds of the time to the first token.
const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
/// Bounds of the tokens in one step.
const STEP: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];

/// A cumulative histogram.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    buckets: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            buckets: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Counts one value.
    pub(crate) fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[bucket] += 1;
        self.sum += value;
    }

    /// How many values there were.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of all values.
    pub(crate) fn sum(&self) -> f64 {
        self.sum
    }

    /// How many values were at most the bound at `index`; the bound after the last is infinity.
    pub(crate) fn at_most(&self, index: usize) -> u64 {
        self.buckets.iter().take(index + 1).sum()
    }

    /// The bounds, without infinity.
    pub(crate) fn bounds(&self) -> &'static [f64] {
        self.bounds
    }
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FinishReason {
    /// The engine had said all it had to say.
    Stop,
    /// The limit of the request, or of the model's context, was reached.
    Length,
}

/// Everything that one incarnation of an engine has counted.
#[derive(Debug, Clone)]
pub(crate) struct Stats {
    /// Tokens that were looked up in the prefix cache.
    pub(crate) prefix_queries: u64,
    /// Tokens that were found there.
    pub(crate) prefix_hits: u64,
    /// Prompt tokens of the requests whose prefill is done.
    pub(crate) prompt_tokens: u64,
    /// Of these, the tokens that came from the cache.
    pub(crate) cached_tokens: u64,
    /// Tokens generated.
    pub(crate) generation_tokens: u64,
    /// Sequences thrown out of the batch for want of blocks.
    pub(crate) preemptions: u64,
    /// Sequences that ended by themselves.
    pub(crate) stopped: u64,
    /// Sequences that ended by a limit.
    pub(crate) reached_length: u64,
    /// Sequences whose client went away.
    pub(crate) aborted: u64,
    /// Requests turned away because the queue was full.
    pub(crate) rejected: u64,
    /// Tokens of each prompt.
    pub(crate) request_prompt_tokens: Histogram,
    /// Tokens of each answer.
    pub(crate) request_generation_tokens: Histogram,
    /// Tokens computed in each step.
    pub(crate) step_tokens: Histogram,
    /// Answers asked for by each request (`n`).
    pub(crate) params_n: Histogram,
    /// Most tokens asked for by each request.
    pub(crate) params_max_tokens: Histogram,
    /// From arrival to the first token.
    pub(crate) first_token: Histogram,
    /// Between two tokens of one sequence.
    pub(crate) inter_token: Histogram,
    /// Mean time per token after the first, of each sequence.
    pub(crate) per_output_token: Histogram,
    /// From arrival to the end.
    pub(crate) end_to_end: Histogram,
    /// From arrival to admission.
    pub(crate) queue: Histogram,
    /// From admission to the end.
    pub(crate) inference: Histogram,
    /// From admission to the first token.
    pub(crate) prefill: Histogram,
    /// From the first token to the last.
    pub(crate) decode: Histogram,
    /// Preemptions of each sequence.
    pub(crate) request_preemptions: Histogram,
    /// Prompt tokens that had to be computed, of each sequence.
    pub(crate) computed_prompt_tokens: Histogram,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            prefix_queries: 0,
            prefix_hits: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            generation_tokens: 0,
            preemptions: 0,
            stopped: 0,
            reached_length: 0,
            aborted: 0,
            rejected: 0,
            request_prompt_tokens: Histogram::new(TOKENS),
            request_generation_tokens: Histogram::new(TOKENS),
            step_tokens: Histogram::new(STEP),
            params_n: Histogram::new(&[1.0, 2.0, 5.0, 10.0, 20.0]),
            params_max_tokens: Histogram::new(TOKENS),
            first_token: Histogram::new(FIRST_TOKEN),
            inter_token: Histogram::new(PER_TOKEN),
            per_output_token: Histogram::new(PER_TOKEN),
            end_to_end: Histogram::new(PHASES),
            queue: Histogram::new(PHASES),
            inference: Histogram::new(PHASES),
            prefill: Histogram::new(PHASES),
            decode: Histogram::new(PHASES),
            request_preemptions: Histogram::new(&[1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0]),
            computed_prompt_tokens: Histogram::new(TOKENS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_to_that_bucket() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 9.0] {
            histogram.observe(value);
        }
        assert_eq!([0, 1, 2].map(|index| histogram.at_most(index)), [2, 3, 4]);
        assert_eq!((histogram.count(), histogram.sum()), (4, 12.0));
    }
}
