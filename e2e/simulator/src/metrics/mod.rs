//! `GET /metrics`, in the words of the engine that the endpoint plays.

mod sglang;
mod vllm;

use bytes::Bytes;

use crate::endpoint::Endpoint;
use crate::settings::EngineKind;

/// The metrics of an endpoint as of now.
pub(crate) fn render(endpoint: &Endpoint) -> Bytes {
    let snapshot = endpoint.snapshot();
    let text = match endpoint.server.kind {
        EngineKind::Vllm => vllm::render(&endpoint.server, &snapshot),
        EngineKind::Sglang => sglang::render(&endpoint.server, &snapshot),
    };
    text.into()
}
