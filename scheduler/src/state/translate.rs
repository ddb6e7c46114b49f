//! From protobuf messages to domain types, checked.
//!
//! What must always hold: what comes out needs no further check on the request path. Unknown fields and unknown engines
//! are tolerated, as a newer controller may send them; a condition or a target that this version does not know refuses
//! the resource, because leaving it out would send requests where nobody asked for them to go.

use std::net::SocketAddr;

use prost::Message;
use serde_json::Map;

use super::proto;
use crate::load::{Latency, Sample};
use crate::profile::{PluginConfig, Profile};
use crate::routing::{Backend, ModelRoute, Rule, StringMatch, Targets};
use crate::snapshot::{EndpointId, Engine, Retry};

/// A ModelServer's own part: what it is without its endpoints and its compiled profile.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Server {
    pub(super) model: Option<Box<str>>,
    pub(super) engine: Engine,
    pub(super) cluster: Box<str>,
    pub(super) timeout_ms: Option<u64>,
    pub(super) retry: Retry,
    /// The profile's name, "default" when none is given.
    pub(super) profile: Box<str>,
}

/// An endpoint as described, before it has a load cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Described {
    pub(super) id: EndpointId,
    pub(super) address: Box<str>,
    pub(super) pod: Box<str>,
    pub(super) models: Vec<Box<str>>,
    pub(super) kv_capacity_tokens: Option<u64>,
}

/// One endpoint's load as sent, with values out of range left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Observed {
    pub(super) id: EndpointId,
    pub(super) sample: Sample,
    /// Milliseconds; `None` = never sampled.
    pub(super) sample_age: Option<u64>,
    pub(super) latency: Latency,
    pub(super) latency_age: u64,
    pub(super) down: bool,
    pub(super) in_flight: u32,
    pub(super) in_flight_tokens: u64,
}

/// Decodes a resource's body.
pub(super) fn decode<M: Message + Default>(body: &[u8]) -> Result<M, String> {
    M::decode(body).map_err(|error| format!("the body does not decode: {error}"))
}

fn same_name(resource: &str, body: &str) -> Result<(), String> {
    if resource == body {
        return Ok(());
    }
    Err(format!("the body is about `{body}`"))
}

fn text(value: String) -> Option<Box<str>> {
    (!value.is_empty()).then(|| value.into_boxed_str())
}

/// A ModelRoute: regexes compiled, weights checked.
pub(super) fn route(name: &str, body: &[u8]) -> Result<ModelRoute, String> {
    let sent: proto::ModelRoute = decode(body)?;
    same_name(name, &sent.name)?;
    let rules = sent.rules.into_iter().enumerate();
    Ok(ModelRoute {
        name: name.into(),
        model_name: text(sent.model_name),
        lora_adapters: sent.lora_adapters.into_iter().filter_map(text).collect(),
        rules: rules
            .map(|(at, sent)| rule(sent).map_err(|reason| format!("rules[{at}]: {reason}")))
            .collect::<Result<_, _>>()?,
        rank: sent.rank,
    })
}

fn rule(sent: proto::Rule) -> Result<Rule, String> {
    let headers = sent.headers.into_iter().map(|header| {
        let expected = header.r#match.unwrap_or_default();
        let name = header.name.to_ascii_lowercase();
        match string_match(expected) {
            Ok(expected) => Ok((name.into_boxed_str(), expected)),
            Err(reason) => Err(format!("headers[{name}]: {reason}")),
        }
    });
    let targets = sent.targets.into_iter().map(target).collect::<Result<Vec<_>, _>>()?;
    Ok(Rule {
        name: sent.name.into(),
        headers: headers.collect::<Result<_, _>>()?,
        uri: sent
            .uri
            .map(string_match)
            .transpose()
            .map_err(|reason| format!("uri: {reason}"))?,
        body_model: sent.body_model.map(Into::into),
        targets: Targets::new(targets).ok_or("the weights of its targets sum to zero")?,
    })
}

fn string_match(sent: proto::StringMatch) -> Result<StringMatch, String> {
    use proto::string_match::Match;
    match sent.r#match {
        None => Ok(StringMatch::any()),
        Some(Match::Exact(value)) => Ok(StringMatch::exact(&value)),
        Some(Match::Prefix(value)) => Ok(StringMatch::prefix(&value)),
        Some(Match::Regex(pattern)) => StringMatch::regex(&pattern).map_err(|error| error.to_string()),
    }
}

fn target(sent: proto::Target) -> Result<(Backend, u32), String> {
    use proto::target::Backend as Sent;
    let backend = match sent.backend {
        Some(Sent::ModelServer(name)) => Backend::ModelServer(name.into()),
        Some(Sent::ExternalProvider(name)) => Backend::ExternalProvider(name.into()),
        None => return Err("a target of a kind that this version does not know".to_owned()),
    };
    Ok((backend, sent.weight))
}

/// A ModelServer.
pub(super) fn server(name: &str, body: &[u8]) -> Result<Server, String> {
    let sent: proto::ModelServer = decode(body)?;
    same_name(name, &sent.name)?;
    let engine = match proto::Engine::try_from(sent.engine) {
        Ok(proto::Engine::Sglang) => Engine::Sglang,
        // Every engine that serves the OpenAI API can be reached; the name only decides details of its dialect.
        Ok(proto::Engine::Vllm | proto::Engine::Unspecified) | Err(_) => Engine::Vllm,
    };
    Ok(Server {
        model: sent.model.and_then(text),
        engine,
        cluster: text(sent.cluster).ok_or("it names no cluster")?,
        timeout_ms: sent.timeout_ms.filter(|timeout| *timeout > 0),
        retry: sent.retry.map_or_else(Retry::default, |retry| Retry {
            attempts: retry.attempts,
            interval_ms: retry.interval_ms,
        }),
        profile: text(sent.profile).unwrap_or_else(|| "default".into()),
    })
}

/// A profile: every plugin exists and accepts its arguments.
pub(super) fn profile(name: &str, body: &[u8]) -> Result<Profile, String> {
    let sent: proto::Profile = decode(body)?;
    same_name(name, &sent.name)?;
    let filters = sent.filters.into_iter().map(plugin).collect::<Result<Vec<_>, _>>()?;
    let scores = sent.scores.into_iter().map(plugin).collect::<Result<Vec<_>, _>>()?;
    Profile::compile(name, &filters, &scores).map_err(|error| error.to_string())
}

fn plugin(sent: proto::Plugin) -> Result<PluginConfig, String> {
    let args = match sent.args.as_str() {
        "" => Map::new(),
        text => serde_json::from_str(text).map_err(|error| format!("plugin {}: args: {error}", sent.name))?,
    };
    Ok(PluginConfig {
        name: sent.name.into(),
        weight: sent.weight,
        args,
    })
}

/// The endpoints of a ModelServer, each once.
pub(super) fn endpoints(body: &[u8]) -> Result<Vec<Described>, String> {
    let sent: proto::Endpoints = decode(body)?;
    let mut described = sent
        .endpoints
        .into_iter()
        .map(endpoint)
        .collect::<Result<Vec<_>, _>>()?;
    described.sort_by_key(|endpoint| endpoint.id);
    match described.windows(2).find(|pair| pair[0].id == pair[1].id) {
        Some(pair) => Err(format!("endpoint {} is listed twice", pair[0].address)),
        None => Ok(described),
    }
}

fn endpoint(sent: proto::Endpoint) -> Result<Described, String> {
    if sent.address.parse::<SocketAddr>().is_err() {
        return Err(format!("`{}` of pod {} is not ip:port", sent.address, sent.pod));
    }
    Ok(Described {
        id: EndpointId(sent.id),
        address: sent.address.into(),
        pod: sent.pod.into(),
        models: sent.models.into_iter().map(Into::into).collect(),
        kv_capacity_tokens: Some(sent.kv_capacity_tokens).filter(|tokens| *tokens > 0),
    })
}

/// What was observed of a ModelServer's endpoints.
pub(super) fn load(body: &[u8]) -> Result<Vec<Observed>, String> {
    let sent: proto::Load = decode(body)?;
    Ok(sent.endpoints.iter().map(observed).collect())
}

fn observed(sent: &proto::EndpointLoad) -> Observed {
    let positive = |value: Option<f32>| value.filter(|v| v.is_finite() && *v >= 0.0);
    let count = |value: Option<u32>| value.filter(|v| *v < u32::MAX);
    Observed {
        id: EndpointId(sent.endpoint),
        sample: Sample {
            waiting: count(sent.waiting),
            running: count(sent.running),
            kv_usage: positive(sent.kv_usage).map(|share| share.min(1.0)),
        },
        sample_age: sent.sample_age_ms,
        latency: Latency {
            ttft: positive(sent.ttft_s),
            tpot: positive(sent.tpot_s),
        },
        latency_age: sent.latency_age_ms,
        down: sent.down,
        in_flight: sent.in_flight_requests,
        in_flight_tokens: sent.in_flight_tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(weight: u32) -> proto::Target {
        proto::Target {
            weight,
            backend: Some(proto::target::Backend::ModelServer("a/s".into())),
        }
    }

    fn route_with(rule: proto::Rule) -> Result<ModelRoute, String> {
        let sent = proto::ModelRoute {
            name: "a/r".into(),
            model_name: "m".into(),
            rules: vec![rule],
            ..Default::default()
        };
        route("a/r", &sent.encode_to_vec())
    }

    #[test]
    fn a_refusal_says_which_rule_and_why() {
        let no_weight = proto::Rule {
            targets: vec![target(0)],
            ..Default::default()
        };
        assert_eq!(
            route_with(no_weight).unwrap_err(),
            "rules[0]: the weights of its targets sum to zero"
        );
        let broken = proto::Rule {
            uri: Some(proto::StringMatch {
                r#match: Some(proto::string_match::Match::Regex("a(".into())),
            }),
            targets: vec![target(1)],
            ..Default::default()
        };
        assert!(route_with(broken).unwrap_err().starts_with("rules[0]: uri: regex `a(`"));
        let unknown = proto::Rule {
            targets: vec![proto::Target {
                weight: 1,
                backend: None,
            }],
            ..Default::default()
        };
        assert!(route_with(unknown).is_err());
    }

    #[test]
    fn an_engine_from_the_future_is_served_as_openai() {
        let sent = proto::ModelServer {
            name: "a/s".into(),
            engine: 77,
            cluster: "c".into(),
            timeout_ms: Some(0),
            ..Default::default()
        };
        let server = server("a/s", &sent.encode_to_vec()).unwrap();
        assert_eq!(
            (server.engine, server.timeout_ms, &*server.profile),
            (Engine::Vllm, None, "default")
        );
    }

    #[test]
    fn values_out_of_range_are_absent() {
        let seen = observed(&proto::EndpointLoad {
            waiting: Some(u32::MAX),
            running: Some(3),
            kv_usage: Some(f32::NAN),
            ttft_s: Some(-1.0),
            tpot_s: Some(f32::INFINITY),
            ..Default::default()
        });
        assert_eq!(seen.sample.waiting, None);
        assert_eq!(seen.sample.running, Some(3));
        assert_eq!((seen.sample.kv_usage, seen.latency), (None, Latency::default()));
    }

    #[test]
    fn endpoints_need_an_address_and_an_identity_of_their_own() {
        let one = |id, address: &str| proto::Endpoint {
            id,
            address: address.into(),
            ..Default::default()
        };
        let of = |list: Vec<proto::Endpoint>| endpoints(&proto::Endpoints { endpoints: list }.encode_to_vec());
        assert!(of(vec![one(1, "[::1]:80"), one(2, "10.0.0.1:80")]).is_ok());
        assert!(of(vec![one(1, "host:80")]).is_err());
        assert!(of(vec![one(1, "10.0.0.1:80"), one(1, "10.0.0.2:80")]).is_err());
    }
}
