//! `GET /v1/models` and `/v1/models/{id}`: what a client may ask for, as OpenAI's API lists it.

use serde_json::{Value, json};

use crate::exchange::effect::LocalReply;
use crate::exchange::failure::Failure;
use crate::routing::RouteTable;

fn model(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": 0, "owned_by": "kthena"})
}

fn ok(body: &Value, details: &'static str) -> LocalReply {
    LocalReply {
        status: 200,
        headers: Vec::new(),
        body: body.to_string().into_bytes(),
        details,
    }
}

/// All model and adapter names that some ModelRoute serves, sorted.
pub(super) fn list(routes: &RouteTable) -> LocalReply {
    let data: Vec<Value> = routes.names().iter().map(|name| model(name)).collect();
    ok(&json!({"object": "list", "data": data}), "models_listed")
}

/// One of them, or 404.
pub(super) fn get(routes: &RouteTable, name: &str) -> Result<LocalReply, Failure> {
    if routes.knows(name) {
        Ok(ok(&model(name), "model_found"))
    } else {
        Err(Failure::RouteNotFound { model: name.to_owned() })
    }
}
