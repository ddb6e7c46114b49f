//! A model of an inference engine, coarse and deterministic: prefills one after the other at a fixed speed, decodes a
//! batch whose steps slow with its size, and keeps a block cache with least-recently-used eviction.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Microseconds.
pub(crate) type Micros = u64;

/// The figures of an engine: about a 7 B model on a small GPU.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) prefill_tokens_per_s: f64,
    pub(crate) prefill_base: Micros,
    pub(crate) step_base: Micros,
    pub(crate) step_per_request: Micros,
    pub(crate) max_batch: usize,
    pub(crate) cache_tokens: u64,
}

pub(crate) const BLOCK_TOKENS: u64 = 16;

/// What an engine is asked.
pub(crate) struct Job {
    pub(crate) id: usize,
    /// Hash of each full block of the prompt, chained.
    pub(crate) blocks: Vec<u64>,
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
    /// Blocks that the cache holds once the answer is written too.
    pub(crate) blocks_after: Vec<u64>,
    pub(crate) arrived: Micros,
}

pub(crate) struct Engine {
    pub(crate) figures: Figures,
    cache: Cache,
    waiting: VecDeque<Job>,
    prefilling: Option<Job>,
    decoding: HashMap<usize, Job>,
    ttft: (f64, u32),
    tpot: (f64, u32),
}

/// What an engine says on its metrics page.
pub(crate) struct Metrics {
    pub(crate) waiting: u32,
    pub(crate) running: u32,
    pub(crate) kv_usage: f32,
    pub(crate) ttft: Option<f32>,
    pub(crate) tpot: Option<f32>,
}

/// What a prefill did.
pub(crate) struct Prefill {
    pub(crate) id: usize,
    pub(crate) ends: Micros,
    pub(crate) cached_tokens: u64,
    pub(crate) prompt_tokens: u64,
}

impl Engine {
    pub(crate) fn new(figures: Figures) -> Self {
        Self {
            figures,
            cache: Cache::new((figures.cache_tokens / BLOCK_TOKENS) as usize),
            waiting: VecDeque::new(),
            prefilling: None,
            decoding: HashMap::new(),
            ttft: (0.0, 0),
            tpot: (0.0, 0),
        }
    }

    pub(crate) fn enqueue(&mut self, job: Job) {
        self.waiting.push_back(job);
    }

    /// Starts the next prefill if there is one and room for it.
    pub(crate) fn start(&mut self, now: Micros) -> Option<Prefill> {
        if self.prefilling.is_some() || self.decoding.len() >= self.figures.max_batch {
            return None;
        }
        let job = self.waiting.pop_front()?;
        let cached_tokens = (self.cache.matched(&job.blocks) * BLOCK_TOKENS).min(job.prompt_tokens);
        let seconds = (job.prompt_tokens - cached_tokens) as f64 / self.figures.prefill_tokens_per_s;
        let prefill = Prefill {
            id: job.id,
            ends: now + self.figures.prefill_base + (seconds * 1e6) as Micros,
            cached_tokens,
            prompt_tokens: job.prompt_tokens,
        };
        self.prefilling = Some(job);
        Some(prefill)
    }

    /// Ends the prefill; the time to first token, and when the answer ends.
    pub(crate) fn prefilled(&mut self, now: Micros) -> (usize, Micros, Micros) {
        let job = self.prefilling.take().unwrap();
        self.cache.touch(&job.blocks);
        let ttft = now - job.arrived;
        let step = self.figures.step_base + self.figures.step_per_request * (self.decoding.len() as u64 + 1);
        self.ttft = (self.ttft.0 + ttft as f64 / 1e6, self.ttft.1 + 1);
        self.tpot = (self.tpot.0 + step as f64 / 1e6, self.tpot.1 + 1);
        let id = job.id;
        let ends = now + step * job.output_tokens;
        self.decoding.insert(id, job);
        (id, ttft, ends)
    }

    pub(crate) fn finished(&mut self, id: usize) {
        let job = self.decoding.remove(&id).unwrap();
        self.cache.touch(&job.blocks_after);
    }

    pub(crate) fn metrics(&mut self) -> Metrics {
        let used: u64 = self.decoding.values().map(|job| job.prompt_tokens).sum();
        let mean = |(sum, count): (f64, u32)| (count > 0).then(|| (sum / f64::from(count)) as f32);
        Metrics {
            waiting: self.waiting.len() as u32,
            running: self.decoding.len() as u32 + u32::from(self.prefilling.is_some()),
            kv_usage: (used as f32 / self.figures.cache_tokens as f32).min(1.0),
            ttft: mean(std::mem::take(&mut self.ttft)),
            tpot: mean(std::mem::take(&mut self.tpot)),
        }
    }
}

/// Blocks in order of use. The end of a prompt is older than its beginning.
struct Cache {
    room: usize,
    clock: u64,
    used: HashMap<u64, u64>,
    order: BTreeMap<u64, u64>,
}

impl Cache {
    fn new(room: usize) -> Self {
        Self {
            room,
            clock: 0,
            used: HashMap::new(),
            order: BTreeMap::new(),
        }
    }

    fn matched(&self, blocks: &[u64]) -> u64 {
        blocks.iter().take_while(|block| self.used.contains_key(block)).count() as u64
    }

    fn touch(&mut self, blocks: &[u64]) {
        for block in blocks.iter().rev() {
            self.clock += 1;
            if let Some(before) = self.used.insert(*block, self.clock) {
                self.order.remove(&before);
            }
            self.order.insert(self.clock, *block);
        }
        while self.used.len() > self.room {
            let (_, oldest) = self.order.pop_first().unwrap();
            self.used.remove(&oldest);
        }
    }
}
