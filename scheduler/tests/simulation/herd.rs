//! Eight hundred deciders, each with a picture that is 200 ms old but for its own requests.
//!
//! What a decider sees of an endpoint is what all had in flight there 200 ms ago, minus its own part of that, plus its own
//! now: one fleet is made to show each decider's picture in turn. Placements reach the index 200 ms after their
//! dispatch, for the decider that made them too, which is harder than the truth.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

use kthena_scheduler::explain::explain;
use kthena_scheduler::load::{Fleet, Latency, Sample};
use kthena_scheduler::pick::{Ask, Decision, Scratch, decide, holder};
use kthena_scheduler::prefix::chain::ChainBuilder;
use kthena_scheduler::prefix::{IndexConfig, Key, PrefixIndex};
use kthena_scheduler::profile::Profile;
use kthena_scheduler::snapshot::ModelServer;
use kthena_scheduler::time::Time;

use crate::engine::{Engine, Figures, Job, Micros};
use crate::world::{Rng, blocks, server, text};

const DECIDERS: usize = 800;
const TICK: Micros = 10_000;
/// Ticks by which the picture is late.
const LATE: usize = 20;

/// Requests and uncached tokens in flight, by endpoint.
type Counts = Vec<(u32, u64)>;

/// How a decision's result is turned into a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// As the core orders them.
    Ours,
    /// Any, by chance.
    Random,
    /// The highest total, as Kthena takes it.
    Highest,
}

pub(crate) struct Shape {
    pub(crate) endpoints: usize,
    pub(crate) rps: u64,
    pub(crate) seconds: u64,
}

/// The busiest endpoint's load divided by the mean, over the moments of the run.
#[derive(Debug)]
pub(crate) struct Skew {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) worst: f64,
    pub(crate) hit: f64,
    pub(crate) in_flight: f64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ask,
    Tick,
    Prefilled(usize),
    Finished(usize, usize),
    Scrape(usize),
}

struct Herd {
    shape: Shape,
    choice: Choice,
    rng: Rng,
    now: Micros,
    sequence: u64,
    events: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    engines: Vec<Engine>,
    server: ModelServer,
    fleet: Arc<Fleet>,
    index: PrefixIndex,
    scratch: Scratch,
    /// In flight now, by decider, and the sum.
    own: Vec<Counts>,
    all: Counts,
    /// The same at the last ticks, oldest first.
    past: VecDeque<(Vec<Counts>, Counts)>,
    placements: VecDeque<(Micros, usize, Vec<Key>)>,
    /// Decider, endpoint and tokens of each request.
    requests: Vec<(usize, usize, u64)>,
    skews: Vec<f64>,
    in_flight: Vec<f64>,
    cached: u64,
    prompted: u64,
}

pub(crate) fn run(shape: Shape, figures: Figures, choice: Choice) -> Skew {
    let mut herd = Herd::new(shape, figures, choice);
    let end = herd.shape.seconds * 1_000_000;
    while let Some(Reverse((at, _, event))) = herd.events.pop() {
        if at > end {
            break;
        }
        herd.now = at;
        match event {
            Event::Ask => herd.ask(),
            Event::Tick => herd.tick(),
            Event::Prefilled(engine) => herd.prefilled(engine),
            Event::Finished(engine, id) => herd.finished(engine, id),
            Event::Scrape(engine) => herd.scrape(engine),
        }
    }
    herd.skew()
}

impl Herd {
    fn new(shape: Shape, figures: Figures, choice: Choice) -> Self {
        let (fleet, server) = server(shape.endpoints, Profile::default_profile(), figures.cache_tokens);
        let none: Counts = vec![(0, 0); shape.endpoints];
        let mut herd = Self {
            choice,
            rng: Rng::new(5),
            now: 0,
            sequence: 0,
            events: BinaryHeap::new(),
            engines: (0..shape.endpoints).map(|_| Engine::new(figures)).collect(),
            index: PrefixIndex::new(IndexConfig {
                max_bytes: 64 << 20,
                max_endpoints: fleet.capacity(),
            }),
            server,
            fleet,
            scratch: Scratch::default(),
            own: vec![none.clone(); DECIDERS],
            all: none,
            past: VecDeque::new(),
            placements: VecDeque::new(),
            requests: Vec::new(),
            skews: Vec::new(),
            in_flight: Vec::new(),
            cached: 0,
            prompted: 0,
            shape,
        };
        herd.at(0, Event::Tick);
        herd.at(1, Event::Ask);
        for engine in 0..herd.shape.endpoints {
            let start = herd.rng.next() % 1_000_000;
            herd.at(start, Event::Scrape(engine));
        }
        herd
    }

    fn at(&mut self, time: Micros, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    fn time(&self) -> Time {
        Time::from_millis(self.now / 1_000)
    }

    /// Seven of ten prompts begin like others of their group, whose sizes follow Zipf's law; the largest group is a new
    /// one every five seconds. The others are like no other.
    fn prompt(&mut self) -> Vec<u8> {
        let mut prompt = if self.rng.next() % 10 < 7 {
            let rank = (200f64.powf((self.rng.next() % 1_000_000) as f64 / 1e6) - 1.0) as u64;
            let generation = if rank == 0 { self.now / 5_000_000 } else { 0 };
            text(&mut Rng::new(1_000 + rank + generation * 1_000), 2_000)
        } else {
            text(&mut self.rng, 1_500)
        };
        prompt.extend(text(&mut self.rng, 500));
        prompt
    }

    fn ask(&mut self) {
        let gap = 2_000_000 / self.shape.rps;
        let next = self.now + 1 + self.rng.next() % gap;
        self.at(next, Event::Ask);
        while self.placements.front().is_some_and(|(due, ..)| *due <= self.now) {
            if let Some((_, at, keys)) = self.placements.pop_front() {
                let holder = holder(&self.server.profile, &self.server.endpoints[at]).unwrap();
                self.index.insert(holder, &keys, &mut Vec::new());
            }
        }
        let decider = (self.rng.next() % DECIDERS as u64) as usize;
        let prompt = self.prompt();
        let (at, uncached) = self.decide(decider, &prompt);
        let due = self.now + LATE as u64 * TICK;
        self.placements.push_back((due, at, self.scratch.keys().to_vec()));
        self.begin(decider, at, uncached);
        let id = self.requests.len() - 1;
        let blocks = blocks(&prompt);
        self.engines[at].enqueue(Job {
            id,
            blocks_after: blocks.clone(),
            blocks,
            prompt_tokens: prompt.len() as u64 / 4,
            output_tokens: 25 + self.rng.next() % 50,
            arrived: self.now,
        });
        self.start(at);
    }

    fn decide(&mut self, decider: usize, prompt: &[u8]) -> (usize, u64) {
        self.show(decider);
        let mut builder = ChainBuilder::new(NonZeroU32::new(64).unwrap());
        builder.push(prompt);
        let chain = builder.finish();
        let ask = Ask {
            chain: Some(&chain),
            context: 7,
            model: "m",
            prompt_tokens: prompt.len() as u64 / 4,
            seed: self.rng.next(),
            now: self.time(),
        };
        let decision = decide(&self.server, &self.fleet, &self.index, &ask, &mut self.scratch).unwrap();
        let at = match self.choice {
            Choice::Ours => decision.endpoints[0] as usize,
            Choice::Random => self.rng.next() as usize % self.shape.endpoints,
            Choice::Highest => self.highest(&decision),
        };
        (at, decision.uncached_tokens)
    }

    fn highest(&self, decision: &Decision) -> usize {
        let explanation = explain(&self.server, &self.scratch, decision);
        let total = |at: &usize| {
            let pod = &*self.server.endpoints[*at].pod;
            explanation
                .endpoints
                .iter()
                .find(|entry| entry.pod == pod)
                .and_then(|entry| entry.total)
                .unwrap_or(f32::MIN)
        };
        (0..self.shape.endpoints)
            .max_by(|a, b| total(a).total_cmp(&total(b)))
            .unwrap()
    }

    /// Makes the fleet show what `decider` knows.
    fn show(&self, decider: usize) {
        let (own_then, all_then) = self.past.front().unwrap();
        for (at, endpoint) in self.server.endpoints.iter().enumerate() {
            let (all, then, now) = (all_then[at], own_then[decider][at], self.own[decider][at]);
            endpoint.slot.set_others(all.0 - then.0 + now.0, all.1 - then.1 + now.1);
        }
    }

    fn begin(&mut self, decider: usize, at: usize, tokens: u64) {
        for counts in [&mut self.own[decider][at], &mut self.all[at]] {
            counts.0 += 1;
            counts.1 += tokens;
        }
        self.requests.push((decider, at, tokens));
    }

    fn finished(&mut self, engine: usize, id: usize) {
        self.engines[engine].finished(id);
        let (decider, at, tokens) = self.requests[id];
        for counts in [&mut self.own[decider][at], &mut self.all[at]] {
            counts.0 -= 1;
            counts.1 -= tokens;
        }
        self.start(engine);
    }

    fn tick(&mut self) {
        let next = self.now + TICK;
        self.at(next, Event::Tick);
        self.past.push_back((self.own.clone(), self.all.clone()));
        if self.past.len() > LATE {
            self.past.pop_front();
        }
        if self.now > 2_000_000 {
            let mean = self.all.iter().map(|(requests, _)| f64::from(*requests)).sum::<f64>() / self.all.len() as f64;
            let busiest = self.all.iter().map(|(requests, _)| *requests).max().unwrap_or(0);
            self.skews.push(f64::from(busiest) / mean);
            self.in_flight.push(mean);
        }
    }

    fn start(&mut self, engine: usize) {
        if let Some(prefill) = self.engines[engine].start(self.now) {
            self.cached += prefill.cached_tokens;
            self.prompted += prefill.prompt_tokens;
            self.at(prefill.ends, Event::Prefilled(engine));
        }
    }

    fn prefilled(&mut self, engine: usize) {
        let (id, _, ends) = self.engines[engine].prefilled(self.now);
        self.at(ends, Event::Finished(engine, id));
        self.start(engine);
    }

    fn scrape(&mut self, engine: usize) {
        let metrics = self.engines[engine].metrics();
        let slot = &self.server.endpoints[engine].slot;
        let sample = Sample {
            waiting: Some(metrics.waiting),
            running: Some(metrics.running),
            kv_usage: Some(metrics.kv_usage),
        };
        slot.sampled(sample, self.time());
        if metrics.ttft.is_some() {
            let latency = Latency {
                ttft: metrics.ttft,
                tpot: metrics.tpot,
            };
            slot.measured(latency, self.time());
        }
        let next = self.now + 1_000_000;
        self.at(next, Event::Scrape(engine));
    }

    fn skew(mut self) -> Skew {
        self.skews.sort_by(f64::total_cmp);
        let at = |share: f64| self.skews[((self.skews.len() - 1) as f64 * share) as usize];
        Skew {
            p50: at(0.5),
            p99: at(0.99),
            worst: at(1.0),
            hit: self.cached as f64 / self.prompted as f64,
            in_flight: self.in_flight.iter().sum::<f64>() / self.in_flight.len() as f64,
        }
    }
}
