//! What the command line says, checked once: from here on every setting is known to be possible.

mod addresses;
mod fleet;

pub use addresses::AddressRange;
pub use fleet::{FleetGroup, InvalidFleet};

use std::net::SocketAddr;

use crate::engine::EngineConfig;

/// Which engine an endpoint answers like. The difference is in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// vLLM 0.32.
    Vllm,
    /// SGLang.
    Sglang,
}

/// What the endpoints of one group have in common.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelServer {
    /// The model's name.
    pub(crate) model: String,
    /// The names of the adapters that are loaded.
    pub(crate) adapters: Vec<String>,
    /// Whose metrics it shows.
    pub(crate) kind: EngineKind,
    /// The name of its profile.
    pub(crate) profile: &'static str,
    /// The engine.
    pub(crate) engine: EngineConfig,
    /// Tokens of prompt and answer together.
    pub(crate) max_model_len: u32,
    /// Tokens of an answer whose request names no limit.
    pub(crate) answer_tokens: u32,
    /// Whether usage says how many prompt tokens were cached (vLLM's `--enable-prompt-tokens-details`).
    pub(crate) prompt_tokens_details: bool,
}

/// Everything the fleet needs to start.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// The port of all endpoints.
    pub port: u16,
    /// The endpoints.
    pub groups: Vec<FleetGroup>,
    /// Factor on all times of all profiles; 0.1 is ten times as fast.
    pub time_scale: f64,
    /// Where the control API listens; port 0 takes a free one.
    pub control: SocketAddr,
    /// What is kept of the requests received.
    pub journal: JournalConfig,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Most connections to one endpoint at a time.
    pub max_connections: usize,
}

/// How much the journal keeps.
#[derive(Debug, Clone, Copy)]
pub struct JournalConfig {
    /// Requests.
    pub requests: usize,
    /// Bytes of the bodies of the newest of them.
    pub body_bytes: usize,
}
