//! What a decision writes down on its way: the working memory of one worker, reused from request to request.
//!
//! It keeps the facts of the last decision, so that an explanation can be made afterwards for the few requests that want
//! one. What must always hold: the vectors of one decision are of one length, see each field.

use crate::load::View;
use crate::prefix::{Key, Overlap};

/// What became of an endpoint before scoring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is a candidate.
    Candidate,
    /// It was observed to be unable to serve.
    Down,
    /// The filter at this position dropped it.
    Filtered(u8),
}

/// Working memory of one worker.
#[derive(Debug, Default)]
pub struct Scratch {
    /// One an endpoint of the ModelServer.
    pub(crate) fates: Vec<Fate>,
    /// Positions of the candidates among the endpoints, ascending.
    pub(crate) at: Vec<u32>,
    /// One a candidate.
    pub(crate) views: Vec<View>,
    /// Blocks held; one a candidate.
    pub(crate) matched: Vec<u32>,
    /// Points by plugin, then by candidate.
    pub(crate) points: Vec<f32>,
    /// Weighted sum of the points; one a candidate.
    pub(crate) totals: Vec<f32>,
    /// The candidates that a draw is made among, and by how much each is above the bar.
    pub(crate) near: Vec<(u32, f32)>,
    /// Keys of the prompt.
    pub(crate) keys: Vec<Key>,
    pub(crate) overlap: Overlap,
}

impl Scratch {
    /// The prefix keys of the last prompt decided on: what is placed at the endpoint that gets it.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    pub(super) fn clear(&mut self) {
        self.fates.clear();
        self.at.clear();
        self.views.clear();
        self.matched.clear();
        self.points.clear();
        self.totals.clear();
        self.near.clear();
        self.keys.clear();
    }
}
