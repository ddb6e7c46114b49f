//! From a complete request to a plan: ModelRoute, ModelServer, endpoints, and what is changed on the way.

use std::sync::Arc;

use twox_hash::XxHash3_64;

use crate::draws::mix;
use crate::exchange::effect::{Dispatch, Effect, Header, Stage};
use crate::exchange::failure::Failure;
use crate::exchange::input::RequestHead;
use crate::exchange::settings::WhenSaturated;
use crate::exchange::{Asked, Context, Exchange, Phase, What, header, models};
use crate::explain::explain;
use crate::lease::{Lease, Trail};
use crate::pick::{self, Ask, Decision};
use crate::prefix::{Key, PrefixIndex};
use crate::request::{RequestFacts, Splice, splice};
use crate::routing::{Attributes, Backend};
use crate::snapshot::{Endpoint, ModelServer, Snapshot};

/// Where a request goes and under which name its engine knows the model.
struct Target {
    server: Arc<ModelServer>,
    /// The adapter, where the client named one.
    adapter: Option<Box<str>>,
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    /// The model that the client named.
    model: &'a str,
    /// What its body says; `None` where bodies are not read.
    facts: Option<&'a RequestFacts>,
}

impl Exchange {
    /// Ends the holding of the request: dispatch or reply.
    pub(super) fn decide(&mut self, cx: &mut Context<'_>, asked: Asked, effects: &mut Vec<Effect>) {
        let Some(snapshot) = cx.world.snapshot else {
            return self.refuse(&Failure::NoState, effects);
        };
        let Asked { head, what } = asked;
        let result = match what {
            What::ListModels => return self.respond(models::list(&snapshot.routes), effects),
            What::GetModel(name) => match models::get(&snapshot.routes, &name) {
                Ok(reply) => return self.respond(reply, effects),
                Err(failure) => Err(failure),
            },
            What::Infer(facts) => {
                let wanted = Wanted {
                    model: &facts.model.name,
                    facts: Some(&facts),
                };
                self.plan(cx, snapshot, &head, wanted)
            }
            What::ByHead(named) => {
                let wanted = Wanted {
                    model: &named.model,
                    facts: None,
                };
                let plan = self.plan(cx, snapshot, &head, wanted);
                plan.map(|mut dispatch| {
                    let path = named.in_path.then(|| Header {
                        name: header::PATH,
                        value: head.path.clone(),
                    });
                    dispatch.headers.extend(path);
                    dispatch
                })
            }
        };
        match result {
            Ok(dispatch) => {
                self.phase = Phase::Sent(None);
                effects.push(Effect::Dispatch(Box::new(dispatch)));
            }
            Err(failure) => self.refuse(&failure, effects),
        }
    }

    fn plan(
        &mut self,
        cx: &mut Context<'_>,
        snapshot: &Arc<Snapshot>,
        head: &RequestHead,
        wanted: Wanted<'_>,
    ) -> Result<Dispatch, Failure> {
        let seed = head
            .header(header::REQUEST_ID)
            .map_or(cx.random, |id| XxHash3_64::oneshot(id.as_bytes()));
        let target = self.route(snapshot, head, wanted.model, seed)?;
        let server = &target.server;
        let engine_model = target
            .adapter
            .as_deref()
            .or(server.model.as_deref())
            .unwrap_or(wanted.model);
        let chain = wanted.facts.map(|facts| &facts.prompt.chain);
        // Blocks of another size than the index holds match nothing: the size changed while the body was read.
        let chain = chain.filter(|chain| chain.block_bytes == snapshot.block_bytes.get());
        let salt = wanted.facts.and_then(|facts| facts.cache_salt.as_deref());
        let ask = Ask {
            chain,
            context: context(server, target.adapter.as_deref(), salt),
            model: engine_model,
            prompt_tokens: self.record.prompt_tokens,
            seed,
            now: cx.now,
        };
        let decision = pick::decide(server, cx.world.fleet, cx.world.index, &ask, cx.scratch)
            .ok_or_else(|| Failure::NoEndpoint(server.name.to_string()))?;
        if decision.saturated && cx.settings.when_saturated == WhenSaturated::Reject {
            return Err(Failure::Saturated(server.name.to_string()));
        }
        self.remember(&target, &decision, engine_model, wanted);
        let asked_to_explain = cx.settings.explain && head.header(header::EXPLAIN).is_some();
        let sampled = cx.random < cx.settings.explain_below;
        let explanation = (asked_to_explain || sampled).then(|| explain(server, cx.scratch, &decision));
        if let Some(explanation) = explanation.as_ref().filter(|_| asked_to_explain) {
            self.response_headers.push(Header {
                name: header::EXPLANATION,
                value: explanation.to_header(),
            });
        }
        let endpoints: Vec<_> = decision
            .endpoints
            .iter()
            .filter_map(|at| server.endpoints.get(*at as usize))
            .map(Arc::clone)
            .collect();
        let Some(first) = endpoints.first() else {
            return Err(Failure::NoEndpoint(server.name.to_string()));
        };
        let trail = place(server, first, cx.world.index, cx.scratch.keys());
        let placed = trail.news.clone();
        self.lease = Some(Lease::begin(
            Arc::clone(first),
            target.adapter.clone(),
            decision.uncached_tokens,
        ));
        self.trail = Some(trail);
        let stage = Stage {
            cluster: server.cluster.clone(),
            endpoints,
            retries: server.retry.attempts,
            retry_interval_ms: server.retry.interval_ms,
            try_timeout_ms: server.timeout_ms,
        };
        let mut dispatch = Dispatch {
            headers: Vec::new(),
            splices: wanted
                .facts
                .map_or_else(Vec::new, |facts| self.splices(cx, facts, engine_model)),
            stages: vec![stage],
            placed,
            explanation,
            asked_to_explain,
        };
        dispatch.headers = self.headers(&dispatch, head, seed);
        Ok(dispatch)
    }

    fn route(&mut self, snapshot: &Snapshot, head: &RequestHead, model: &str, seed: u64) -> Result<Target, Failure> {
        self.record.model_known = snapshot.routes.knows(model);
        let attributes = Attributes {
            model,
            path: head.path_only(),
            header: &|name| head.header(name),
        };
        // The draw between weighted targets must not repeat the draw between endpoints.
        let draw = XxHash3_64::oneshot_with_seed(seed, b"target");
        let found = snapshot.routes.find(&attributes, draw);
        let found = found.ok_or_else(|| {
            let model = model.to_owned();
            match self.record.model_known {
                true => Failure::NoRule { model },
                false => Failure::RouteNotFound { model },
            }
        })?;
        self.record.route = Some(Arc::clone(found.route));
        match found.backend {
            Backend::ExternalProvider(name) => Err(Failure::ExternalProvider(name.to_string())),
            Backend::ModelServer(name) => {
                let server = snapshot
                    .server(name)
                    .ok_or_else(|| Failure::NoModelServer(name.to_string()))?;
                self.record.server = Some(Arc::clone(server));
                Ok(Target {
                    server: Arc::clone(server),
                    adapter: found.by_adapter.then(|| model.into()),
                })
            }
        }
    }

    fn remember(&mut self, target: &Target, decision: &Decision, engine_model: &str, wanted: Wanted<'_>) {
        // A body that is not read is not changed either.
        let is_rewritten = wanted.facts.is_some() && engine_model != wanted.model;
        self.record.upstream_model = is_rewritten.then(|| engine_model.into());
        self.record.selected = decision
            .endpoints
            .first()
            .and_then(|at| target.server.endpoints.get(*at as usize))
            .map(Arc::clone);
        self.record.matched_blocks = decision.matched_blocks;
        self.record.total_blocks = decision.total_blocks;
        self.record.saturated = decision.saturated;
    }

    fn splices(&mut self, cx: &Context<'_>, facts: &RequestFacts, engine_model: &str) -> Vec<Splice> {
        let usage = if cx.settings.usage_injection && !self.unseen {
            splice::inject_usage(facts)
        } else {
            None
        };
        self.injected = usage.is_some();
        let mut splices: Vec<_> = splice::rewrite_model(facts, engine_model)
            .into_iter()
            .chain(usage)
            .collect();
        splices.sort_by_key(|splice| splice.range.start);
        splices
    }

    fn headers(&mut self, dispatch: &Dispatch, head: &RequestHead, seed: u64) -> Vec<Header> {
        let mut headers = vec![Header {
            name: header::DESTINATION,
            value: dispatch.destinations(),
        }];
        if let Some(stage) = dispatch.stages.first() {
            headers.push(Header {
                name: header::CLUSTER,
                value: stage.cluster.to_string(),
            });
            headers.push(Header {
                name: header::MAX_RETRIES,
                value: stage.retries.to_string(),
            });
            if let Some(timeout) = stage.try_timeout_ms {
                headers.push(Header {
                    name: header::TRY_TIMEOUT,
                    value: timeout.to_string(),
                });
            }
        }
        if head.header(header::REQUEST_ID).is_none() {
            let id = Header {
                name: header::REQUEST_ID,
                value: request_id(seed),
            };
            self.response_headers.push(id.clone());
            headers.push(id);
        }
        headers
    }
}

/// What else than its text makes a prompt another one for an engine.
fn context(server: &ModelServer, adapter: Option<&str>, salt: Option<&str>) -> u64 {
    let hash = |text: Option<&str>| text.map_or(0, |text| XxHash3_64::oneshot(text.as_bytes()));
    mix(mix(server.identity(), hash(adapter)), hash(salt))
}

/// Notes at dispatch that the prompt will live where it is sent: the next request with its beginning may be at hand
/// before this one has an answer.
fn place(server: &Arc<ModelServer>, endpoint: &Arc<Endpoint>, index: &PrefixIndex, keys: &[Key]) -> Trail {
    let mut trail = Trail {
        server: Arc::clone(server),
        endpoint: Arc::clone(endpoint),
        keys: keys.to_vec(),
        news: Vec::new(),
    };
    if let Some(holder) = pick::holder(&server.profile, endpoint) {
        index.insert(holder, keys, &mut trail.news);
    }
    trail
}

/// A version 4 UUID from random bits.
fn request_id(random: u64) -> String {
    let more = XxHash3_64::oneshot_with_seed(random, b"request-id");
    let bits = (u128::from(random) << 64) | u128::from(more);
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

#[cfg(test)]
mod tests {
    use super::request_id;

    #[test]
    fn request_ids_are_uuids_of_version_4() {
        for random in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let id = request_id(random);
            let parts: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
            assert_eq!(&id[14..15], "4");
            assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        }
        assert_ne!(request_id(1), request_id(2));
    }
}
