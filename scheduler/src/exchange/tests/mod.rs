//! Stories and properties of the exchange.

mod by_head;
mod calls;
mod errors;
mod orders;
mod routing;
mod waiting;

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::exchange::{Context, Dispatch, Effect, Exchange, Input, RequestHead, Settings, World};
use crate::load::Fleet;
use crate::pick::Scratch;
use crate::prefix::{IndexConfig, PrefixIndex};
use crate::profile::Profile;
use crate::routing::{Backend, ModelRoute, RouteTable, Rule, StringMatch, Targets};
use crate::snapshot::{Endpoint, EndpointId, Engine, ModelServer, Retry, Snapshot};
use crate::time::Time;

/// A world of one ModelServer `a/s` that serves `real`, reached as `alias`, and an adapter `lora`.
struct House {
    fleet: Arc<Fleet>,
    index: PrefixIndex,
    snapshot: Option<Arc<Snapshot>>,
    settings: Settings,
    scratch: Scratch,
    now: Time,
}

fn rule(backend: Backend) -> Rule {
    Rule {
        name: "".into(),
        headers: Vec::new(),
        uri: None,
        body_model: None,
        targets: Targets::new(vec![(backend, 100)]).unwrap(),
    }
}

fn route(model: &str, adapters: &[&str], backend: Backend) -> Arc<ModelRoute> {
    Arc::new(ModelRoute {
        name: format!("a/{model}").into(),
        model_name: Some(model.into()),
        lora_adapters: adapters.iter().map(|a| (*a).into()).collect(),
        rules: vec![rule(backend)],
        rank: 0,
    })
}

/// A route for requests that no test sends.
fn picky() -> Arc<ModelRoute> {
    Arc::new(ModelRoute {
        name: "a/picky".into(),
        model_name: Some("picky".into()),
        lora_adapters: Vec::new(),
        rules: vec![Rule {
            uri: Some(StringMatch::exact("/elsewhere")),
            ..rule(Backend::ModelServer("a/s".into()))
        }],
        rank: 0,
    })
}

impl House {
    fn new(endpoints: u32) -> Self {
        let fleet = Fleet::new(16);
        let server = |name: &str, endpoints: u32| {
            let endpoints: Vec<_> = (0..endpoints)
                .map(|n| {
                    Arc::new(Endpoint {
                        id: EndpointId(u64::from(n) + 1),
                        slot: fleet.claim().unwrap(),
                        address: format!("127.0.0.{}:8000", n + 2).into(),
                        pod: format!("a/pod-{n}").into(),
                        models: Vec::new(),
                        kv_capacity_tokens: None,
                    })
                })
                .collect();
            Arc::new(ModelServer {
                name: name.into(),
                model: Some("real".into()),
                engine: Engine::Vllm,
                cluster: format!("model-server/{name}/8000").into(),
                timeout_ms: Some(1500),
                retry: Retry {
                    attempts: 2,
                    interval_ms: 100,
                },
                profile: Arc::new(Profile::default_profile()),
                slots: endpoints.iter().map(|e: &Arc<Endpoint>| e.slot.index()).collect(),
                endpoints,
            })
        };
        let to = |name: &str| Backend::ModelServer(name.into());
        let snapshot = Snapshot {
            routes: RouteTable::new(vec![
                picky(),
                route("alias", &["lora"], to("a/s")),
                route("nobody", &[], to("a/empty")),
                route("missing", &[], to("a/missing")),
                route("external", &[], Backend::ExternalProvider("a/openai".into())),
            ]),
            servers: vec![server("a/empty", 0), server("a/s", endpoints)],
            block_bytes: NonZeroU32::new(64).unwrap(),
        };
        Self {
            index: PrefixIndex::new(IndexConfig {
                max_bytes: 1 << 20,
                max_endpoints: fleet.capacity(),
            }),
            fleet,
            snapshot: Some(Arc::new(snapshot)),
            settings: Settings::default(),
            scratch: Scratch::default(),
            now: Time::from_millis(1_000),
        }
    }

    fn step(&mut self, exchange: &mut Exchange, input: Input<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut cx = Context {
            now: self.now,
            random: 7,
            settings: &self.settings,
            world: World {
                snapshot: self.snapshot.as_ref(),
                fleet: &self.fleet,
                index: &self.index,
            },
            scratch: &mut self.scratch,
            may_wait: true,
        };
        exchange.step(&mut cx, input, &mut effects);
        effects
    }

    /// Sends a whole request and returns what came of its last input.
    fn send(&mut self, exchange: &mut Exchange, head: RequestHead, body: &str) -> Vec<Effect> {
        let mut effects = self.step(
            exchange,
            Input::Request {
                head,
                end: body.is_empty(),
            },
        );
        if !body.is_empty() {
            effects.extend(self.step(exchange, Input::RequestBody(body.as_bytes())));
            effects.extend(self.step(exchange, Input::RequestEnd));
        }
        effects
    }

    fn in_flight(&self) -> u32 {
        (0..self.fleet.capacity())
            .map(|slot| self.fleet.view(slot, self.now).in_flight)
            .sum()
    }
}

fn post(path: &str) -> RequestHead {
    RequestHead {
        method: "POST".into(),
        path: path.into(),
        authority: "llm.example".into(),
        headers: Vec::new(),
    }
}

fn get(path: &str) -> RequestHead {
    RequestHead {
        method: "GET".into(),
        ..post(path)
    }
}

const CHAT: &str = "/v1/chat/completions";

fn chat(model: &str) -> String {
    format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"tell me a story"}}]}}"#)
}

fn dispatched(effects: Vec<Effect>) -> Option<Dispatch> {
    effects.into_iter().find_map(|effect| match effect {
        Effect::Dispatch(dispatch) => Some(*dispatch),
        _ => None,
    })
}

/// Status and body of the reply among these effects.
fn replied(effects: &[Effect]) -> Option<(u16, String)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Respond(reply) => Some((reply.status, String::from_utf8(reply.body.clone()).unwrap())),
        _ => None,
    })
}
