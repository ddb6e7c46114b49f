//! A ModelServer to decide on, for tests.

use std::sync::Arc;

use super::{Ask, Decision, Scratch, decide};
use crate::load::{Fleet, Sample};
use crate::prefix::chain::{BlockChain, ChainBuilder};
use crate::prefix::{IndexConfig, Key, PrefixIndex};
use crate::profile::{PluginConfig, Profile};
use crate::snapshot::{Endpoint, EndpointId, Engine, ModelServer, Retry};
use crate::time::Time;

pub(crate) struct Site {
    pub(crate) server: ModelServer,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) index: PrefixIndex,
    pub(crate) scratch: Scratch,
}

/// The time of all decisions.
pub(crate) const NOW: Time = Time::from_millis(10_000);

pub(crate) fn profile(filters: &[&str], scores: &[&str]) -> Profile {
    let plugins = |names: &[&str]| -> Vec<PluginConfig> {
        let plugin = |name: &&str| PluginConfig::from_json(name, 1, "").unwrap();
        names.iter().map(plugin).collect()
    };
    Profile::compile("test", &plugins(filters), &plugins(scores)).unwrap()
}

pub(crate) fn prompt(text: &str) -> BlockChain {
    let mut builder = ChainBuilder::new(std::num::NonZeroU32::new(64).unwrap());
    builder.push(text.as_bytes());
    builder.finish()
}

pub(crate) fn ask(chain: Option<&BlockChain>, seed: u64) -> Ask<'_> {
    Ask {
        chain,
        context: 1,
        model: "m",
        prompt_tokens: 1_000,
        seed,
        now: NOW,
    }
}

impl Site {
    pub(crate) fn new(endpoints: u32, profile: Profile) -> Self {
        let fleet = Fleet::new(endpoints);
        let endpoints: Vec<_> = (0..endpoints)
            .map(|at| {
                Arc::new(Endpoint {
                    id: EndpointId(u64::from(at) + 1),
                    slot: fleet.claim().unwrap(),
                    address: format!("10.0.0.{at}:8000").into(),
                    pod: format!("ns/pod-{at}").into(),
                    models: Vec::new(),
                    kv_capacity_tokens: None,
                })
            })
            .collect();
        let server = ModelServer {
            name: "ns/server".into(),
            model: None,
            engine: Engine::Vllm,
            cluster: "cluster".into(),
            timeout_ms: None,
            retry: Retry::default(),
            profile: Arc::new(profile),
            slots: endpoints.iter().map(|endpoint| endpoint.slot.index()).collect(),
            endpoints,
        };
        let index = PrefixIndex::new(IndexConfig {
            max_bytes: 1 << 24,
            max_endpoints: fleet.capacity(),
        });
        Self {
            server,
            fleet,
            index,
            scratch: Scratch::default(),
        }
    }

    pub(crate) fn decide(&mut self, ask: &Ask<'_>) -> Decision {
        decide(&self.server, &self.fleet, &self.index, ask, &mut self.scratch).unwrap()
    }

    /// Decides, and places the prompt where it goes.
    pub(crate) fn dispatch(&mut self, ask: &Ask<'_>) -> u32 {
        let first = self.decide(ask).endpoints[0];
        let keys: Vec<Key> = self.scratch.keys().to_vec();
        self.place(first, &keys);
        first
    }

    pub(crate) fn place(&self, at: u32, keys: &[Key]) {
        let endpoint = &self.server.endpoints[at as usize];
        let holder = super::holder(&self.server.profile, endpoint).unwrap();
        self.index.insert(holder, keys, &mut Vec::new());
    }

    pub(crate) fn busy(&self, at: u32, requests: u32) {
        self.server.endpoints[at as usize]
            .slot
            .set_others(requests, u64::from(requests) * 100);
    }

    pub(crate) fn waiting(&self, at: u32, waiting: u32) {
        let sample = Sample {
            waiting: Some(waiting),
            ..Sample::default()
        };
        self.server.endpoints[at as usize].slot.sampled(sample, NOW);
    }

    pub(crate) fn down(&self, at: u32) {
        self.server.endpoints[at as usize].slot.set_down(true);
    }
}
