//! What a plugin sees and what it answers.
//!
//! A filter says of one endpoint whether it may serve; a score gives each candidate 0 to 100 points. What must always
//! hold: a plugin is a pure function of its arguments, so that a decision can be replayed; it leaves a candidate that it
//! knows nothing about unscored ([`UNSCORED`]), and that candidate then counts as average for this plugin. Arguments are
//! checked when a profile is compiled; nothing fails on the request path.

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::residency::Residency;
use crate::load::View;

/// The points of a candidate that a plugin has no opinion about.
pub const UNSCORED: f32 = f32::NAN;

/// What a filter may ask about one endpoint.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Its load.
    pub view: &'a View,
    /// The names its engine lists, base and adapters; empty = not known. Asked for only by whom it concerns: it lies
    /// elsewhere in memory, and looking there for every endpoint would cost more than all else.
    pub models: &'a dyn Fn() -> &'a [Box<str>],
    /// The name under which the engine knows what the request asks for.
    pub model: &'a str,
}

/// What a score may ask about the candidates, which are in the same order in every slice.
#[derive(Clone, Copy, Debug)]
pub struct Candidates<'a> {
    /// Load.
    pub views: &'a [View],
    /// Prompt blocks that each one holds already.
    pub matched: &'a [u32],
    /// Blocks in the part of the prompt that is matched; 0 = there is no prompt.
    pub total_blocks: u32,
    /// The request's source of randomness.
    pub seed: u64,
}

/// Decides whether an endpoint may serve a request.
pub trait Filter: Debug + Send + Sync {
    /// Whether it may.
    fn keep(&self, subject: &Subject<'_>) -> bool;
}

/// Scores candidates.
pub trait Score: Debug + Send + Sync {
    /// Writes 0 to 100 points, or [`UNSCORED`], for each candidate; `points` is as long as the candidates.
    fn score(&self, candidates: &Candidates<'_>, points: &mut [f32]);

    /// How it uses the prefix index, if it does.
    fn residency(&self) -> Option<&Residency> {
        None
    }
}

/// Arguments that a plugin refuses: what is wrong and what would be right.
pub(super) type Refusal = String;

/// Reads a plugin's arguments; unknown ones are refused.
pub(super) fn parse<T: DeserializeOwned>(args: &Map<String, Value>) -> Result<T, Refusal> {
    T::deserialize(Value::Object(args.clone())).map_err(|error| error.to_string())
}

/// Refuses arguments to a plugin that takes none.
pub(super) fn none(args: &Map<String, Value>) -> Result<(), Refusal> {
    match args.keys().next() {
        Some(name) => Err(format!("unknown argument `{name}`: this plugin takes none")),
        None => Ok(()),
    }
}
