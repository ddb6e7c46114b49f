//! Conversations, engines, the decider between them, and the events that drive all three.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU32;
use std::sync::Arc;

use kthena_scheduler::lease::Lease;
use kthena_scheduler::load::{Fleet, Latency, Sample};
use kthena_scheduler::pick::{Ask, Scratch, decide, holder};
use kthena_scheduler::prefix::chain::ChainBuilder;
use kthena_scheduler::prefix::{IndexConfig, PrefixIndex};
use kthena_scheduler::profile::{PluginConfig, Profile};
use kthena_scheduler::snapshot::{Endpoint, EndpointId, Engine as Kind, ModelServer, Retry};
use kthena_scheduler::time::Time;

use crate::engine::{BLOCK_TOKENS, Engine, Figures, Job, Micros};

pub(crate) const ENDPOINTS: usize = 8;

/// People who talk: each asks, reads, thinks, asks again, and starts over when the conversation ends.
#[derive(Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) conversations: usize,
    pub(crate) turns: usize,
    pub(crate) systems: u64,
    pub(crate) system_bytes: usize,
    pub(crate) question_bytes: usize,
    pub(crate) answer_tokens: u64,
    pub(crate) think_ms: u64,
    pub(crate) requests: usize,
}

/// What came of it; times to first token in milliseconds; all of the second half of the requests.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Cached tokens by prompt tokens, as the engines count them.
    pub(crate) hit: f64,
    /// The same as the decisions believed it.
    pub(crate) believed: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) mean_ms: f64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ask(usize),
    Prefilled(usize),
    Finished(usize, usize),
    Scrape(usize),
}

struct Talk {
    text: Vec<u8>,
    turn: usize,
}

struct Pending {
    talk: usize,
    lease: Option<Lease>,
}

pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn around(&mut self, mean: u64) -> u64 {
        mean / 2 + self.next() % mean.max(1)
    }
}

struct World {
    workload: Workload,
    rng: Rng,
    now: Micros,
    events: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    sequence: u64,
    engines: Vec<Engine>,
    talks: Vec<Talk>,
    pending: Vec<Pending>,
    server: ModelServer,
    fleet: Arc<Fleet>,
    index: PrefixIndex,
    scratch: Scratch,
    ttft: Vec<(usize, Micros)>,
    prompt_tokens: u64,
    cached_tokens: u64,
    believed_tokens: u64,
}

pub(crate) fn run(workload: &Workload, figures: Figures, filters: &[&str], scores: &[&str]) -> Outcome {
    let mut world = World::new(*workload, figures, filters, scores);
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        world.now = at;
        match event {
            Event::Ask(talk) if world.pending.len() < workload.requests => world.ask(talk),
            Event::Ask(_) => {}
            Event::Prefilled(engine) => world.prefilled(engine),
            Event::Finished(engine, id) => world.finished(engine, id),
            Event::Scrape(engine) if world.ttft.len() < workload.requests => world.scrape(engine),
            Event::Scrape(_) => {}
        }
    }
    world.outcome()
}

fn plugins(names: &[&str]) -> Vec<PluginConfig> {
    names
        .iter()
        .map(|name| PluginConfig::from_json(name, 1, "").unwrap())
        .collect()
}

/// A ModelServer of idle endpoints.
pub(crate) fn server(endpoints: usize, profile: Profile, cache_tokens: u64) -> (Arc<Fleet>, ModelServer) {
    let fleet = Fleet::new(endpoints as u32);
    let endpoints: Vec<_> = (0..endpoints)
        .map(|at| {
            Arc::new(Endpoint {
                id: EndpointId(1_000 + at as u64),
                slot: fleet.claim().unwrap(),
                address: format!("10.0.0.{at}:8000").into(),
                pod: format!("ns/pod-{at}").into(),
                models: Vec::new(),
                kv_capacity_tokens: Some(cache_tokens),
            })
        })
        .collect();
    let server = ModelServer {
        name: "ns/server".into(),
        model: None,
        engine: Kind::Vllm,
        cluster: "c".into(),
        timeout_ms: None,
        retry: Retry::default(),
        profile: Arc::new(profile),
        slots: endpoints.iter().map(|endpoint| endpoint.slot.index()).collect(),
        endpoints,
    };
    (fleet, server)
}

pub(crate) fn text(rng: &mut Rng, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| b'a' + (rng.next() % 26) as u8).collect()
}

impl World {
    fn new(workload: Workload, figures: Figures, filters: &[&str], scores: &[&str]) -> Self {
        let profile = Profile::compile("p", &plugins(filters), &plugins(scores)).unwrap();
        let (fleet, server) = server(ENDPOINTS, profile, figures.cache_tokens);
        let mut world = Self {
            workload,
            rng: Rng::new(1),
            now: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            engines: (0..ENDPOINTS).map(|_| Engine::new(figures)).collect(),
            talks: Vec::new(),
            pending: Vec::new(),
            server,
            fleet,
            index: PrefixIndex::new(IndexConfig {
                max_bytes: 64 << 20,
                max_endpoints: ENDPOINTS as u32,
            }),
            scratch: Scratch::default(),
            ttft: Vec::new(),
            prompt_tokens: 0,
            cached_tokens: 0,
            believed_tokens: 0,
        };
        for talk in 0..workload.conversations {
            world.talks.push(Talk {
                text: Vec::new(),
                turn: workload.turns,
            });
            let start = world.rng.next() % 5_000_000;
            world.at(start, Event::Ask(talk));
        }
        for engine in 0..ENDPOINTS {
            let start = world.rng.next() % 1_000_000;
            world.at(start, Event::Scrape(engine));
        }
        world
    }

    fn at(&mut self, time: Micros, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    fn time(&self) -> Time {
        Time::from_millis(self.now / 1_000)
    }

    /// A person asks the next question, or starts over.
    fn ask(&mut self, talk: usize) {
        let workload = self.workload;
        if self.talks[talk].turn == workload.turns {
            let mut system = Rng::new(77 + self.rng.next() % workload.systems);
            self.talks[talk] = Talk {
                text: text(&mut system, workload.system_bytes),
                turn: 0,
            };
        }
        let bytes = self.rng.around(workload.question_bytes as u64) as usize;
        let question = text(&mut self.rng, bytes);
        self.talks[talk].text.extend(question);
        self.talks[talk].turn += 1;
        self.dispatch(talk);
    }

    fn dispatch(&mut self, talk: usize) {
        let prompt = self.talks[talk].text.clone();
        let prompt_tokens = prompt.len() as u64 / 4;
        let mut builder = ChainBuilder::new(NonZeroU32::new(64).unwrap());
        builder.push(&prompt);
        let chain = builder.finish();
        let ask = Ask {
            chain: Some(&chain),
            context: 7,
            model: "m",
            prompt_tokens,
            seed: self.rng.next(),
            now: self.time(),
        };
        let decision = decide(&self.server, &self.fleet, &self.index, &ask, &mut self.scratch).unwrap();
        let at = decision.endpoints[0] as usize;
        let endpoint = Arc::clone(&self.server.endpoints[at]);
        if let Some(holder) = holder(&self.server.profile, &endpoint) {
            self.index.insert(holder, self.scratch.keys(), &mut Vec::new());
        }
        let answer_tokens = self.rng.around(self.workload.answer_tokens);
        let answer = text(&mut self.rng, answer_tokens as usize * 4);
        self.talks[talk].text.extend(answer);
        let id = self.pending.len();
        self.pending.push(Pending {
            talk,
            lease: Some(Lease::begin(endpoint, None, decision.uncached_tokens)),
        });
        if id >= self.workload.requests / 2 {
            self.prompt_tokens += prompt_tokens;
            self.believed_tokens += prompt_tokens - decision.uncached_tokens;
        }
        let blocks_after = blocks(&self.talks[talk].text);
        self.engines[at].enqueue(Job {
            id,
            blocks: blocks(&prompt),
            prompt_tokens,
            output_tokens: answer_tokens,
            blocks_after,
            arrived: self.now,
        });
        self.start(at);
    }

    fn start(&mut self, engine: usize) {
        if let Some(prefill) = self.engines[engine].start(self.now) {
            if prefill.id >= self.workload.requests / 2 {
                self.cached_tokens += prefill.cached_tokens;
            }
            self.at(prefill.ends, Event::Prefilled(engine));
        }
    }

    fn prefilled(&mut self, engine: usize) {
        let (id, ttft, ends) = self.engines[engine].prefilled(self.now);
        self.ttft.push((id, ttft));
        self.at(ends, Event::Finished(engine, id));
        self.start(engine);
    }

    fn finished(&mut self, engine: usize, id: usize) {
        self.engines[engine].finished(id);
        self.pending[id].lease = None;
        let think = self.rng.around(self.workload.think_ms * 1_000);
        self.at(self.now + think, Event::Ask(self.pending[id].talk));
        self.start(engine);
    }

    fn scrape(&mut self, engine: usize) {
        let metrics = self.engines[engine].metrics();
        let slot = &self.server.endpoints[engine].slot;
        slot.sampled(
            Sample {
                waiting: Some(metrics.waiting),
                running: Some(metrics.running),
                kv_usage: Some(metrics.kv_usage),
            },
            self.time(),
        );
        if metrics.ttft.is_some() {
            let latency = Latency {
                ttft: metrics.ttft,
                tpot: metrics.tpot,
            };
            slot.measured(latency, self.time());
        }
        self.at(self.now + 1_000_000, Event::Scrape(engine));
    }

    fn outcome(mut self) -> Outcome {
        let half = self.workload.requests / 2;
        self.ttft.retain(|(id, _)| *id >= half);
        let mut ttft: Vec<Micros> = self.ttft.iter().map(|(_, ttft)| *ttft).collect();
        ttft.sort_unstable();
        let at = |share: f64| ttft[((ttft.len() - 1) as f64 * share) as usize] as f64 / 1e3;
        Outcome {
            hit: self.cached_tokens as f64 / self.prompt_tokens as f64,
            believed: self.believed_tokens as f64 / self.prompt_tokens as f64,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            mean_ms: ttft.iter().sum::<u64>() as f64 / ttft.len() as f64 / 1e3,
        }
    }
}

/// Chained hashes of the full blocks, as an engine makes them: not the core's.
pub(crate) fn blocks(text: &[u8]) -> Vec<u64> {
    let mut hash = 0u64;
    text.chunks_exact(BLOCK_TOKENS as usize * 4)
        .map(|block| {
            for byte in block {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
            hash = hash.rotate_left(23) ^ 0x5bd1_e995;
            hash
        })
        .collect()
}
