//! Which file speaks for which engine: the one line to add for a new one.

use kthena_scheduler::snapshot::Engine;

use super::series::Series;
use super::{sglang, vllm};

/// The series that an engine exports.
pub fn series_of(engine: Engine) -> &'static Series {
    match engine {
        Engine::Vllm => &vllm::SERIES,
        Engine::Sglang => &sglang::SERIES,
    }
}
