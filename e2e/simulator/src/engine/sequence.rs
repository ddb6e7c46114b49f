//! One sequence on its way through the engine: what is computed of it, which blocks it holds, and when what happened.

use std::time::Duration;

use super::blocks::{BlockId, BlockPool};
use super::prompt::Prompt;
use super::stats::{FinishReason, Stats};

/// What a request asks of the engine.
#[derive(Debug, Clone)]
pub(crate) struct Submission {
    /// The tokens to compute.
    pub(crate) prompt: Prompt,
    /// Tokens to generate; none for an embedding.
    pub(crate) tokens: u32,
    /// How it ends when all of them are generated.
    pub(crate) ending: FinishReason,
    /// The adapter it needs, if any.
    pub(crate) adapter: Option<usize>,
}

/// A submission with its state. Times are on the engine's clock.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) submission: Submission,
    pub(super) blocks: Vec<BlockId>,
    /// Tokens whose keys and values are in the blocks.
    pub(super) computed: u32,
    /// Prompt tokens that were found in the cache when the sequence was first admitted.
    pub(super) cached: u32,
    published: usize,
    preemptions: u32,
    arrived: Duration,
    admitted: Option<Duration>,
    first_token: Option<Duration>,
    last_token: Duration,
}

impl Sequence {
    pub(super) fn new(submission: Submission, now: Duration) -> Self {
        Self {
            submission,
            blocks: Vec::new(),
            computed: 0,
            cached: 0,
            published: 0,
            preemptions: 0,
            arrived: now,
            admitted: None,
            first_token: None,
            last_token: now,
        }
    }

    /// Tokens that are known and not yet computed.
    pub(super) fn pending(&self) -> u32 {
        self.submission.prompt.total_tokens() - self.computed
    }

    /// How many more blocks it must hold to compute `tokens` more.
    pub(super) fn blocks_wanted(&self, tokens: u32, block_size: u32) -> u32 {
        (self.computed + tokens)
            .div_ceil(block_size)
            .saturating_sub(self.blocks.len() as u32)
    }

    /// Makes the blocks findable that are full once `tokens` more are computed.
    pub(super) fn publish(&mut self, tokens: u32, block_size: u32, pool: &mut BlockPool) {
        let full = ((self.computed + tokens) / block_size) as usize;
        for index in self.published..full {
            pool.publish(self.blocks[index], self.submission.prompt.hashes()[index]);
        }
        self.published = self.published.max(full);
    }

    /// Begins with `blocks` found in the cache, which hold `tokens`.
    pub(super) fn admit(&mut self, blocks: Vec<BlockId>, tokens: u32, now: Duration) {
        self.published = blocks.len();
        self.blocks = blocks;
        self.computed = tokens;
        if self.admitted.is_none() {
            self.admitted = Some(now);
            self.cached = tokens;
        }
    }

    /// Gives everything back; the sequence starts again, keeping the tokens that it has already said.
    pub(super) fn preempt(&mut self, pool: &mut BlockPool) {
        pool.release(&std::mem::take(&mut self.blocks));
        self.computed = 0;
        self.published = 0;
        self.preemptions += 1;
    }

    /// Counts the end of the prefill, and the token that it gives if one is wanted.
    pub(super) fn complete_step(&mut self, now: Duration, stats: &mut Stats) {
        if self.first_token.is_none() {
            self.first_token = Some(now);
            stats.prompt_tokens += u64::from(self.submission.prompt.prompt_tokens());
            stats.cached_tokens += u64::from(self.cached);
            if self.submission.tokens > 0 {
                stats.first_token.observe(seconds(now, self.arrived));
            }
        } else {
            stats.inter_token.observe(seconds(now, self.last_token));
        }
        self.last_token = now;
        if self.submission.tokens > 0 {
            self.submission.prompt.generate();
            stats.generation_tokens += 1;
        }
    }

    /// Whether nothing is left to do.
    pub(super) fn is_complete(&self) -> bool {
        self.first_token.is_some() && self.submission.prompt.generated() == self.submission.tokens
    }

    /// Counts the end of the whole sequence.
    pub(super) fn record_end(&self, stats: &mut Stats) {
        match self.submission.ending {
            FinishReason::Stop => stats.stopped += 1,
            FinishReason::Length => stats.reached_length += 1,
        }
        let prompt = &self.submission.prompt;
        let admitted = self.admitted.unwrap_or(self.arrived);
        let first_token = self.first_token.unwrap_or(self.last_token);
        let decode = seconds(self.last_token, first_token);
        stats.request_prompt_tokens.observe(f64::from(prompt.prompt_tokens()));
        stats.request_generation_tokens.observe(f64::from(prompt.generated()));
        stats.end_to_end.observe(seconds(self.last_token, self.arrived));
        stats.queue.observe(seconds(admitted, self.arrived));
        stats.inference.observe(seconds(self.last_token, admitted));
        stats.prefill.observe(seconds(first_token, admitted));
        stats.decode.observe(decode);
        stats.request_preemptions.observe(f64::from(self.preemptions));
        stats
            .computed_prompt_tokens
            .observe(f64::from(prompt.prompt_tokens() - self.cached));
        if prompt.generated() > 1 {
            stats
                .per_output_token
                .observe(decode / f64::from(prompt.generated() - 1));
        }
    }
}

fn seconds(later: Duration, earlier: Duration) -> f64 {
    later.saturating_sub(earlier).as_secs_f64()
}
