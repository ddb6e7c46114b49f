//! Resources as a controller would send them, for the tests of this folder.

use prost::Message;
use prost::bytes::Bytes;

use super::proto::{self, ResourceType};

/// The age of every sample that [`load`] makes.
pub(super) const SAMPLE_AGE_MS: u64 = 200;

pub(super) fn resource(r#type: ResourceType, name: &str, body: Vec<u8>) -> proto::Resource {
    proto::Resource {
        r#type: r#type as i32,
        name: name.into(),
        version: twox_hash::XxHash3_64::oneshot(&body),
        body: Bytes::from(body),
        part: 0,
        parts: 1,
    }
}

pub(super) fn update(resources: Vec<proto::Resource>, synced: bool) -> proto::Update {
    proto::Update {
        nonce: 1,
        resources,
        removed: Vec::new(),
        synced,
    }
}

pub(super) fn removed(r#type: ResourceType, name: &str) -> proto::ResourceVersion {
    proto::ResourceVersion {
        r#type: r#type as i32,
        name: name.into(),
        version: 0,
    }
}

/// A route of one rule without conditions, to ModelServer "a/s".
pub(super) fn route(name: &str, model: &str, weight: u32) -> proto::Resource {
    let route = proto::ModelRoute {
        name: name.into(),
        model_name: model.into(),
        rules: vec![proto::Rule {
            targets: vec![proto::Target {
                weight,
                backend: Some(proto::target::Backend::ModelServer("a/s".into())),
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    resource(ResourceType::Route, name, route.encode_to_vec())
}

/// A route that no filter accepts: its weights sum to zero.
pub(super) fn broken_route(name: &str) -> proto::Resource {
    route(name, "broken", 0)
}

pub(super) fn server(name: &str) -> proto::Resource {
    let server = proto::ModelServer {
        name: name.into(),
        cluster: format!("cluster/{name}"),
        profile: name.into(),
        ..Default::default()
    };
    resource(ResourceType::Server, name, server.encode_to_vec())
}

pub(super) fn endpoints(server: &str, ids: &[u64]) -> proto::Resource {
    let endpoints = ids.iter().map(|id| proto::Endpoint {
        id: *id,
        address: format!("10.0.0.{id}:8000"),
        pod: format!("a/pod-{id}"),
        ..Default::default()
    });
    let set = proto::Endpoints {
        endpoints: endpoints.collect(),
    };
    resource(ResourceType::Endpoints, server, set.encode_to_vec())
}

/// Loads of (endpoint, requests, tokens), merged over all deciders.
pub(super) fn load(server: &str, merged: &[(u64, u32, u64)]) -> proto::Resource {
    let endpoints = merged.iter().map(|(id, requests, tokens)| proto::EndpointLoad {
        endpoint: *id,
        sample_age_ms: Some(SAMPLE_AGE_MS),
        in_flight_requests: *requests,
        in_flight_tokens: *tokens,
        ..Default::default()
    });
    let load = proto::Load {
        endpoints: endpoints.collect(),
    };
    resource(ResourceType::Load, server, load.encode_to_vec())
}

pub(super) fn echo(origin: &str, sequence: u64) -> Vec<proto::Echo> {
    vec![proto::Echo {
        origin: origin.into(),
        epoch: 1,
        sequence,
    }]
}
