//! One decision with the default profile: a prompt of 32k tokens (128 kB), already hashed, over 1,000 to 10,000
//! endpoints under load; held entirely by some, half, or by none; and what placing it costs.

use std::cell::OnceCell;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use kthena_scheduler::load::{Fleet, Latency, Sample};
use kthena_scheduler::pick::{Ask, Scratch, decide, holder};
use kthena_scheduler::prefix::chain::{BlockChain, ChainBuilder};
use kthena_scheduler::prefix::{IndexConfig, Key, PrefixIndex, keys};
use kthena_scheduler::profile::Profile;
use kthena_scheduler::snapshot::{Endpoint, EndpointId, Engine, ModelServer, Retry};
use kthena_scheduler::time::Time;

const NOW: Time = Time::from_millis(100_000);
const PROMPT_BYTES: usize = 128_000;
const CONTEXT: u64 = 7;

struct Site {
    server: ModelServer,
    fleet: Arc<Fleet>,
    index: PrefixIndex,
}

fn chain(text: &[u8]) -> BlockChain {
    let mut builder = ChainBuilder::new(NonZeroU32::MIN.saturating_add(63));
    builder.push(text);
    builder.finish()
}

fn text(name: usize) -> Vec<u8> {
    let mut state = name as u64 + 1;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        b'a' + ((state >> 33) % 26) as u8
    };
    (0..PROMPT_BYTES).map(|_| letter()).collect()
}

fn endpoint(fleet: &Arc<Fleet>, at: usize) -> Option<Arc<Endpoint>> {
    let slot = fleet.claim()?;
    slot.set_others(at as u32 % 23, at as u64 % 23 * 900);
    let sample = Sample {
        waiting: Some(at as u32 % 3),
        running: Some(at as u32 % 19),
        kv_usage: Some((at % 97) as f32 / 100.0),
    };
    slot.sampled(sample, NOW.before(at as u64 % 3_000));
    let latency = Latency {
        ttft: Some(0.1 + (at % 31) as f32 / 40.0),
        tpot: Some(0.02 + (at % 7) as f32 / 500.0),
    };
    slot.measured(latency, NOW.before(at as u64 % 20_000));
    Some(Arc::new(Endpoint {
        id: EndpointId(at as u64 * 7_919 + 13),
        slot,
        address: format!("10.0.{}.{}:8000", at / 256, at % 256).into(),
        pod: format!("ns/pod-{at}").into(),
        models: Vec::new(),
        kv_capacity_tokens: Some(500_000),
    }))
}

fn site(endpoints: usize) -> Site {
    let fleet = Fleet::new(endpoints as u32);
    let endpoints: Vec<_> = (0..endpoints).filter_map(|at| endpoint(&fleet, at)).collect();
    let server = ModelServer {
        name: "ns/server".into(),
        model: None,
        engine: Engine::Vllm,
        cluster: "cluster".into(),
        timeout_ms: None,
        retry: Retry::default(),
        profile: Arc::new(Profile::default_profile()),
        slots: endpoints.iter().map(|endpoint| endpoint.slot.index()).collect(),
        endpoints,
    };
    let index = PrefixIndex::new(IndexConfig {
        max_bytes: 256 << 20,
        max_endpoints: fleet.capacity(),
    });
    let site = Site { server, fleet, index };
    // A full index: every endpoint holds prompts of its own, and the head of the one that is asked for is everywhere.
    let shared = chain(&text(0)[..4_096]);
    for at in 0..site.server.endpoints.len() {
        site.place(at, &shared);
        for n in 0..3 {
            site.place(at, &chain(&text(1_000 + at * 3 + n)));
        }
    }
    site
}

impl Site {
    fn place(&self, at: usize, chain: &BlockChain) {
        let keys: Vec<Key> = keys(chain, CONTEXT, u32::MAX).collect();
        if let Some(holder) = holder(&self.server.profile, &self.server.endpoints[at]) {
            self.index.insert(holder, &keys, &mut Vec::new());
        }
    }

    fn ask<'a>(&self, chain: &'a BlockChain, seed: u64) -> Ask<'a> {
        Ask {
            chain: Some(chain),
            context: CONTEXT,
            model: "m",
            prompt_tokens: PROMPT_BYTES as u64 / 4,
            seed,
            now: NOW,
        }
    }
}

/// The prompt that is asked for, in each case: held entirely by three endpoints, half of it by three, not at all.
const CASES: [(&str, usize); 3] = [("hit", 0), ("half", 1), ("miss", 2)];

fn warm(endpoints: usize) -> Site {
    let site = site(endpoints);
    for at in [3, 500, 900] {
        site.place(at, &chain(&text(0)));
        site.place(at, &chain(&text(1)[..PROMPT_BYTES / 2]));
    }
    site
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for endpoints in [1_000, 3_000, 10_000] {
        // Made by the first case that runs: a filter on the command line passes by the large ones at no cost.
        let made = OnceCell::new();
        group.throughput(Throughput::Elements(endpoints as u64));
        for (case, name) in CASES {
            let chain = chain(&text(name));
            let mut scratch = Scratch::default();
            let mut seed = 0;
            group.bench_function(BenchmarkId::new(case, endpoints), |bencher| {
                let site = made.get_or_init(|| warm(endpoints));
                bencher.iter(|| {
                    seed += 1;
                    let ask = site.ask(black_box(&chain), seed);
                    decide(&site.server, &site.fleet, &site.index, &ask, &mut scratch)
                });
            });
        }
    }
    group.finish();
}

fn placements(criterion: &mut Criterion) {
    let made = OnceCell::new();
    let [again, other] = [text(0), text(1)].map(|text| keys(&chain(&text), CONTEXT, u32::MAX).collect::<Vec<_>>());
    let mut news = Vec::new();
    let mut slot = 0;
    for (case, keys) in [("same", &again), ("spread", &other)] {
        criterion.bench_function(&format!("place/{case}"), |bencher| {
            let site = made.get_or_init(|| site(1_000));
            bencher.iter(|| {
                if case == "spread" {
                    slot = (slot + 1) % 1_000;
                }
                news.clear();
                let holder = holder(&site.server.profile, &site.server.endpoints[slot]);
                if let Some(holder) = holder {
                    site.index.insert(holder, black_box(keys), &mut news);
                }
            });
        });
    }
}

criterion_group!(benches, decisions, placements);
criterion_main!(benches);
