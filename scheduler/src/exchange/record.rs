//! What is known of a request: for the access log, metrics, spans and dynamic metadata.

use std::sync::Arc;

use crate::request::ApiForm;
use crate::response::Usage;
use crate::routing::ModelRoute;
use crate::snapshot::{Endpoint, ModelServer};

/// Facts of one request, filled as they become known.
#[derive(Debug, Default)]
pub struct Record {
    /// The API form, once the path was read; `None` for requests that are not ours.
    pub form: Option<ApiForm>,
    /// The model the client asked for.
    pub model: Option<Box<str>>,
    /// Whether some ModelRoute has that name.
    pub model_known: bool,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The route that took it.
    pub route: Option<Arc<ModelRoute>>,
    /// The ModelServer it went to.
    pub server: Option<Arc<ModelServer>>,
    /// The model name sent to the engine, where it differs from the client's.
    pub upstream_model: Option<Box<str>>,
    /// The endpoint picked first.
    pub selected: Option<Arc<Endpoint>>,
    /// The address that served, where the host said so.
    pub served: Option<Box<str>>,
    /// Prompt tokens: exact where the prompt came as ids, else estimated from its bytes.
    pub prompt_tokens: u64,
    /// Prompt blocks that the picked endpoint was believed to hold.
    pub matched_blocks: u32,
    /// Prompt blocks in all.
    pub total_blocks: u32,
    /// The filters had left no endpoint.
    pub saturated: bool,
    /// Kthena's `error_type`, where we answered with an error.
    pub error_type: Option<&'static str>,
    /// The status that the client saw, once known.
    pub status: Option<u16>,
    /// What the engine counted, as far as it was seen.
    pub usage: Usage,
    /// The answer came to its end.
    pub complete: bool,
}

impl Record {
    /// The model the client asked for, where some ModelRoute has that name: any other may be of any length.
    pub fn known_model(&self) -> Option<&str> {
        self.model.as_deref().filter(|_| self.model_known)
    }
}
