//! `GET /v1/models`: the base model, then its adapters.

use super::json::{Json, NULL, object};
use crate::settings::ModelServer;

/// The list; `created` is in seconds since 1970.
pub(crate) fn list(server: &ModelServer, created: u64) -> Json {
    let base = entry(server, server.model.as_str(), None, created);
    let adapters = server
        .adapters
        .iter()
        .map(|adapter| entry(server, adapter, Some(&server.model), created));
    object! {"object": "list", "data": std::iter::once(base).chain(adapters).collect::<Vec<_>>()}
}

fn entry(server: &ModelServer, name: &str, parent: Option<&str>, created: u64) -> Json {
    // Adapters inherit their base's length, and vLLM says so by null.
    let length = parent.is_none().then_some(server.max_model_len);
    object! {
        "id": name, "object": "model", "created": created, "owned_by": "vllm", "root": format!("/models/{name}"),
        "parent": parent, "max_model_len": length,
        "permission": vec![object! {
            "id": format!("modelperm-{name}"), "object": "model_permission", "created": created,
            "allow_create_engine": false, "allow_sampling": true, "allow_logprobs": true,
            "allow_search_indices": false, "allow_view": true, "allow_fine_tuning": false, "organization": "*",
            "group": NULL, "is_blocking": false,
        }],
    }
}
