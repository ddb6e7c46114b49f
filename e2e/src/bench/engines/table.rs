//! The results for people.

use std::fmt::Write as _;

use super::Row;
use super::counters::Counters;

/// What the engines' count of prompt tokens may differ from the clients' before somebody else must have asked.
const TOLERANCE: f64 = 0.01;

/// The rows as a table, and a warning for each in which the engines counted other prompts than ours.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "profile   requests  lost  ttft p50 ms  ttft p90 ms  prompt tokens  cached tokens   hit %  requests by endpoint\n",
    );
    for row in rows {
        let figures = &row.figures;
        let milliseconds = |share| figures.percentile(share).as_secs_f64() * 1000.0;
        let sum = |read: fn(&Counters) -> f64| row.counted.iter().map(read).sum::<f64>();
        let each: Vec<String> = row.counted.iter().map(|one| format!("{:.0}", one.finished)).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:8} {:9} {:5} {:12.0} {:12.0} {:14.0} {:14.0} {:7.1}  {}",
            row.profile.name(),
            figures.first_tokens.len() + figures.lost,
            figures.lost,
            milliseconds(0.5),
            milliseconds(0.9),
            sum(|counted| counted.queries),
            sum(|counted| counted.hits),
            figures.hit_share * 100.0,
            each.join(" + "),
        );
    }
    for row in rows {
        let counted: f64 = row.counted.iter().map(|one| one.queries).sum();
        let asked = row.prompt_tokens as f64;
        if (counted - asked).abs() > TOLERANCE * asked {
            let _ = writeln!(
                out,
                "Take {} with care: the engines looked up {counted:.0} prompt tokens, the answers tell of {asked:.0}. Somebody else asked too, \
                 or requests were preempted.",
                row.profile.name()
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::engines::Profile;
    use crate::demo::verdict::Figures;

    #[test]
    fn a_row_tells_when_somebody_else_has_asked() {
        let mut row = Row {
            profile: Profile::Default,
            figures: Figures::default(),
            counted: vec![Counters {
                queries: 1000.0,
                hits: 500.0,
                finished: 2.0,
            }],
            prompt_tokens: 1000,
        };
        assert!(!table(std::slice::from_ref(&row)).contains("with care"));
        row.prompt_tokens = 800;
        assert!(table(&[row]).contains("Take default with care"));
    }
}
