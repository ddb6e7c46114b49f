//! Runs the plugins of the last decision once more, one at a time, so that a shell with a clock can time each.
//!
//! A clock around every plugin of every decision would cost more than most of them, and filters run endpoint by endpoint, woven into each
//! other. Plugins are pure, so asking again does no harm and answers the same; the shell does it for a sample of its decisions. What must
//! always hold: nothing of the decision changes.

use super::Scratch;
use crate::load::{Fleet, View};
use crate::profile::{Candidates, Subject};
use crate::snapshot::ModelServer;
use crate::time::Time;

/// What the last decision was about.
#[derive(Clone, Copy, Debug)]
pub struct Again<'a> {
    /// The ModelServer that it was made for.
    pub server: &'a ModelServer,
    /// The load that it read.
    pub fleet: &'a Fleet,
    /// The name under which the engine knows what was asked for.
    pub model: &'a str,
    /// Blocks of the prompt that were looked at.
    pub total_blocks: u32,
    /// When it was made.
    pub now: Time,
}

/// What a plugin was asked as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Whether an endpoint may serve.
    Filter,
    /// How good each candidate is.
    Score,
}

/// Hands each plugin of the profile to `each`, by name, with a closure that asks it about all endpoints, or scores all candidates.
pub fn rehearse<E>(again: &Again<'_>, scratch: &Scratch, mut each: E)
where
    E: FnMut(&'static str, Role, &mut dyn FnMut()),
{
    let profile = &again.server.profile;
    let slots = &again.server.slots;
    let views: Vec<View> = slots.iter().map(|slot| again.fleet.view(*slot, again.now)).collect();
    for filter in profile.filters() {
        each(filter.name, Role::Filter, &mut || {
            for (view, endpoint) in views.iter().zip(&again.server.endpoints) {
                filter.plugin.keep(&Subject {
                    view,
                    models: &|| &endpoint.models,
                    model: again.model,
                });
            }
        });
    }
    let candidates = Candidates {
        views: &scratch.views,
        matched: &scratch.matched,
        total_blocks: again.total_blocks,
        seed: 0,
    };
    let mut points = vec![0.0; scratch.views.len()];
    for score in profile.scores() {
        each(score.name, Role::Score, &mut || {
            score.plugin.score(&candidates, &mut points)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pick::fixture::{NOW, Site, ask, profile};

    #[test]
    fn every_plugin_is_run_in_its_role_and_the_decision_stays() {
        let mut site = Site::new(
            3,
            profile(&["lora-affinity", "least-request"], &["least-request", "gpu-usage"]),
        );
        site.decide(&ask(None, 1));
        let totals = site.scratch.totals.clone();
        let again = Again {
            server: &site.server,
            fleet: &site.fleet,
            model: "m",
            total_blocks: 0,
            now: NOW,
        };
        let mut run = Vec::new();
        rehearse(&again, &site.scratch, |name, role, plugin| {
            plugin();
            run.push((name, role));
        });
        let expected = [
            ("lora-affinity", Role::Filter),
            ("least-request", Role::Filter),
            ("least-request", Role::Score),
            ("gpu-usage", Role::Score),
        ];
        assert_eq!(run, expected);
        assert_eq!(site.scratch.totals, totals);
    }
}
