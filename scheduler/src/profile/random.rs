//! `random`: a uniform draw for each candidate, from the request's seed. It must be the only score.

use serde_json::{Map, Value};

use super::plugin::{Candidates, Refusal, Score, none};
use crate::draws::Draws;

pub(super) const NAME: &str = "random";

#[derive(Debug)]
struct Random;

pub(super) fn score(args: &Map<String, Value>) -> Result<Box<dyn Score>, Refusal> {
    none(args)?;
    Ok(Box::new(Random))
}

impl Score for Random {
    fn score(&self, candidates: &Candidates<'_>, points: &mut [f32]) {
        let mut draws = Draws::new(candidates.seed);
        for point in points {
            *point = draws.unit() * 100.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::View;

    #[test]
    fn every_candidate_wins_about_as_often_and_a_seed_repeats_its_draw() {
        let views = [View::default(); 4];
        let winner = |seed| {
            let mut points = [0.0; 4];
            let candidates = Candidates {
                views: &views,
                matched: &[0; 4],
                total_blocks: 0,
                seed,
            };
            Random.score(&candidates, &mut points);
            (0..4).max_by(|a, b| points[*a].total_cmp(&points[*b])).unwrap()
        };
        let mut wins = [0; 4];
        for seed in 0..4_000 {
            wins[winner(seed)] += 1;
            assert_eq!(winner(seed), winner(seed));
        }
        assert!(wins.iter().all(|n| (900..1_100).contains(n)), "{wins:?}");
    }
}
