//! A model of an inference engine: continuous batching over a paged KV cache, in steps.
//!
//! The engine is a state machine. Time is an argument (a `Duration` since the engine started), nothing waits and nothing
//! is random. It works in steps: at the start of a step every running sequence is given tokens to compute, prompts in
//! chunks within the step's budget of tokens, answers one token at a time; then sequences are admitted from the queue as
//! long as sequences, tokens and blocks allow; the profile says when the step ends; at its end every sequence whose known
//! tokens are all computed has one token more. A step in flight is not changed by what arrives meanwhile, so prefills
//! wait for each other and for running batches, as they do on a GPU.
//!
//! What must always hold: the blocks that running sequences hold and the free blocks are all blocks; waiting sequences
//! hold none; while a sequence is running or waiting a step is in flight; every submission ends by an event or an abort.
//! A sequence always fits, since prompt and answer together are bounded by `max_model_len` and that by the cache.

mod blocks;
pub(crate) mod prompt;
mod sequence;
pub(crate) mod stats;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::profile::Timing;
use blocks::BlockPool;
use sequence::Sequence;
pub(crate) use sequence::Submission;
use stats::{FinishReason, Stats};

/// Names a sequence within one engine; never used twice.
pub(crate) type SequenceId = u64;

/// What an engine is made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EngineConfig {
    /// How long steps take.
    pub(crate) timing: Timing,
    /// Blocks of the KV cache.
    pub(crate) blocks: u32,
    /// Tokens in a block.
    pub(crate) block_size: u32,
    /// Sequences in a batch.
    pub(crate) max_num_seqs: u32,
    /// Tokens in a step.
    pub(crate) max_num_batched_tokens: u32,
    /// Adapters in a batch.
    pub(crate) max_loras: u32,
    /// Sequences in the queue.
    pub(crate) max_queued: u32,
    /// Whether finished prefixes are found again.
    pub(crate) prefix_caching: bool,
}

/// News of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    /// Which one.
    pub(crate) id: SequenceId,
    /// Tokens generated so far.
    pub(crate) generated: u32,
    /// Prompt tokens that came from the cache.
    pub(crate) cached: u32,
    /// Set in the last event of a sequence.
    pub(crate) finished: Option<FinishReason>,
}

/// The queue is full; nothing was changed but a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueueFull;

#[derive(Debug)]
struct Step {
    ends: Duration,
    work: Vec<(SequenceId, u32)>,
}

/// How full an engine is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Load {
    /// Sequences in the batch.
    pub(crate) running: usize,
    /// Sequences in the queue.
    pub(crate) waiting: usize,
    /// Held blocks as a share of all, 0 to 1.
    pub(crate) kv_usage: f64,
    /// Adapters of the batch.
    pub(crate) running_adapters: BTreeSet<usize>,
    /// Adapters of the queue.
    pub(crate) waiting_adapters: BTreeSet<usize>,
}

/// One engine.
#[derive(Debug)]
pub(crate) struct Engine {
    config: EngineConfig,
    pool: BlockPool,
    sequences: HashMap<SequenceId, Sequence>,
    /// In order of admission: the last is preempted first.
    running: Vec<SequenceId>,
    waiting: VecDeque<SequenceId>,
    step: Option<Step>,
    slowdown: f64,
    next_id: SequenceId,
    stats: Stats,
}

impl Engine {
    /// An idle engine with an empty cache.
    pub(crate) fn new(config: EngineConfig) -> Self {
        Self {
            pool: BlockPool::new(config.blocks),
            config,
            sequences: HashMap::new(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            step: None,
            slowdown: 1.0,
            next_id: 0,
            stats: Stats::default(),
        }
    }

    /// Queues sequences that belong together, all or none. What happened up to `now`, and what takes no time, is added
    /// to `events`.
    pub(crate) fn submit(
        &mut self,
        now: Duration,
        submissions: Vec<Submission>,
        events: &mut Vec<Event>,
    ) -> Result<Vec<SequenceId>, QueueFull> {
        self.advance(now, events);
        if self.waiting.len() + submissions.len() > self.config.max_queued as usize {
            self.stats.rejected += 1;
            return Err(QueueFull);
        }
        self.stats.params_n.observe(submissions.len() as f64);
        let ids = submissions
            .into_iter()
            .map(|submission| self.enqueue(now, submission))
            .collect();
        if self.step.is_none() {
            self.start_step(now);
            self.advance(now, events);
        }
        Ok(ids)
    }

    /// Lets time pass: ends all steps that end by `now`.
    pub(crate) fn advance(&mut self, now: Duration, events: &mut Vec<Event>) {
        while let Some(step) = self.step.take_if(|step| step.ends <= now) {
            self.end_step(&step, events);
            self.start_step(step.ends);
        }
    }

    /// Forgets a sequence and frees its blocks at once. Does nothing when it has ended.
    pub(crate) fn abort(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.remove(&id) else {
            return;
        };
        self.pool.release(&sequence.blocks);
        self.running.retain(|running| *running != id);
        self.waiting.retain(|waiting| *waiting != id);
        self.stats.aborted += 1;
    }

    /// Makes all steps from the next on take `factor` times as long.
    pub(crate) fn slow_down(&mut self, factor: f64) {
        self.slowdown = factor;
    }

    /// When something will happen next, unless something is submitted before.
    pub(crate) fn next_event(&self) -> Option<Duration> {
        self.step.as_ref().map(|step| step.ends)
    }

    /// What it has counted.
    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How full it is.
    pub(crate) fn load(&self) -> Load {
        let adapters = |ids: &mut dyn Iterator<Item = &SequenceId>| {
            ids.filter_map(|id| self.sequences.get(id)?.submission.adapter)
                .collect()
        };
        let held = self.pool.capacity() - self.pool.free();
        Load {
            running: self.running.len(),
            waiting: self.waiting.len(),
            kv_usage: f64::from(held) / f64::from(self.pool.capacity().max(1)),
            running_adapters: adapters(&mut self.running.iter()),
            waiting_adapters: adapters(&mut self.waiting.iter()),
        }
    }

    fn enqueue(&mut self, now: Duration, submission: Submission) -> SequenceId {
        let id = self.next_id;
        self.next_id += 1;
        self.stats.params_max_tokens.observe(f64::from(submission.tokens));
        self.sequences.insert(id, Sequence::new(submission, now));
        self.waiting.push_back(id);
        id
    }

    /// Plans the next step. Without work there is none.
    fn start_step(&mut self, now: Duration) {
        let mut budget = self.config.max_num_batched_tokens;
        let mut work = Vec::with_capacity(self.running.len() + self.waiting.len().min(16));
        let preempted = self.plan_running(&mut budget, &mut work);
        if !preempted {
            self.admit_waiting(now, &mut budget, &mut work);
        }
        if work.is_empty() {
            return;
        }
        let tokens: u64 = work.iter().map(|(_, tokens)| u64::from(*tokens)).sum();
        let context: u64 = work
            .iter()
            .filter_map(|(id, _)| self.sequences.get(id))
            .map(|s| u64::from(s.computed))
            .sum();
        self.stats.step_tokens.observe(tokens as f64);
        let ends = now + self.config.timing.step(tokens, context, self.slowdown);
        self.step = Some(Step { ends, work });
    }

    /// Gives every running sequence its next tokens, oldest first. Whoever came last makes room when blocks run out.
    fn plan_running(&mut self, budget: &mut u32, work: &mut Vec<(SequenceId, u32)>) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while index < self.running.len() && *budget > 0 {
            let id = self.running[index];
            let Some(tokens) = self.sequences.get(&id).map(|sequence| sequence.pending().min(*budget)) else {
                break;
            };
            while !self.take_blocks(id, tokens) {
                preempted = true;
                self.preempt_newest();
                if self.running.len() <= index {
                    return preempted;
                }
            }
            *budget -= tokens;
            work.push((id, tokens));
            index += 1;
        }
        preempted
    }

    /// Admits from the queue, in order. A sequence whose adapter finds no slot is passed over; one that finds no blocks
    /// stops the admission, or long prompts would starve.
    fn admit_waiting(&mut self, now: Duration, budget: &mut u32, work: &mut Vec<(SequenceId, u32)>) {
        let mut adapters = if self.waiting.is_empty() {
            BTreeSet::new()
        } else {
            self.load().running_adapters
        };
        let mut index = 0;
        while index < self.waiting.len() && *budget > 0 && self.running.len() < self.config.max_num_seqs as usize {
            let id = self.waiting[index];
            let adapter = self.sequences.get(&id).and_then(|sequence| sequence.submission.adapter);
            if let Some(adapter) = adapter
                && !adapters.contains(&adapter)
                && adapters.len() >= self.config.max_loras as usize
            {
                index += 1;
                continue;
            }
            let Some(tokens) = self.admit(id, *budget, now) else {
                return;
            };
            self.waiting.remove(index);
            adapters.extend(adapter);
            *budget -= tokens;
            self.running.push(id);
            work.push((id, tokens));
        }
    }

    /// Gives a waiting sequence its cached blocks and those of its first chunk, or nothing when they are not there.
    fn admit(&mut self, id: SequenceId, budget: u32, now: Duration) -> Option<u32> {
        let block_size = self.config.block_size;
        let sequence = self.sequences.get_mut(&id)?;
        let prompt = &sequence.submission.prompt;
        let total = prompt.total_tokens();
        let hits = if self.config.prefix_caching {
            // The last token is always computed: its output is the first token of the answer.
            let most = (total.saturating_sub(1) / block_size) as usize;
            self.pool.hits(&prompt.hashes()[..most.min(prompt.hashes().len())])
        } else {
            0
        };
        let cached = hits as u32 * block_size;
        let tokens = (total - cached).min(budget);
        let fresh = (cached + tokens).div_ceil(block_size) - hits as u32;
        let hit_hashes = &prompt.hashes()[..hits];
        if fresh + self.pool.unheld(hit_hashes) > self.pool.free() {
            return None;
        }
        let blocks: Vec<_> = hit_hashes
            .iter()
            .filter_map(|hash| self.pool.hold_cached(*hash))
            .collect();
        if self.config.prefix_caching {
            self.stats.prefix_queries += u64::from(total);
            self.stats.prefix_hits += u64::from(cached);
        }
        sequence.admit(blocks, cached, now);
        self.take_blocks(id, tokens);
        Some(tokens)
    }

    /// Holds the blocks that computing `tokens` more needs; all or none.
    fn take_blocks(&mut self, id: SequenceId, tokens: u32) -> bool {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return true;
        };
        let wanted = sequence.blocks_wanted(tokens, self.config.block_size);
        if wanted > self.pool.free() {
            return false;
        }
        for _ in 0..wanted {
            sequence.blocks.extend(self.pool.hold_new());
        }
        if self.config.prefix_caching {
            sequence.publish(tokens, self.config.block_size, &mut self.pool);
        }
        true
    }

    fn preempt_newest(&mut self) {
        let Some(id) = self.running.pop() else { return };
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.preempt(&mut self.pool);
            self.stats.preemptions += 1;
            self.waiting.push_front(id);
        }
    }

    fn end_step(&mut self, step: &Step, events: &mut Vec<Event>) {
        for (id, tokens) in &step.work {
            // An aborted sequence is gone by now.
            let Some(sequence) = self.sequences.get_mut(id) else {
                continue;
            };
            sequence.computed += tokens;
            if sequence.pending() > 0 {
                continue;
            }
            sequence.complete_step(step.ends, &mut self.stats);
            let complete = sequence.is_complete();
            events.push(Event {
                id: *id,
                generated: sequence.submission.prompt.generated(),
                cached: sequence.cached,
                finished: complete.then_some(sequence.submission.ending),
            });
            if complete {
                sequence.record_end(&mut self.stats);
                self.pool.release(&sequence.blocks);
                self.sequences.remove(id);
            }
        }
        self.running.retain(|id| self.sequences.contains_key(id));
    }
}
