//! The compilation itself, and what it remembers from one to the next.

use super::{Facts, Output};
use crate::index::Index;

/// What a compilation needs beside objects.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Retries of a ModelServer whose trafficPolicy does not say.
    pub default_retry_attempts: u32,
}

/// Compiles, and keeps the last good version of every object for the day when a bad one comes.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
}

impl Compiler {
    /// A compiler that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// What follows from the objects and the facts.
    pub fn compile(&mut self, index: &Index, facts: &Facts) -> Output {
        let _ = (index, facts, &self.settings);
        Output::default()
    }
}
