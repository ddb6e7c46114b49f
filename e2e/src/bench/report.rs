//! What is printed: a table for people, JSON lines for machines, and for each target whether it was reached.
//!
//! A target that was missed is said and fails nothing: what can be reached depends on the machine, and a benchmark that must pass is
//! soon made to pass. Wrong answers do fail.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::path::{Case, Row};
use super::stand::Config;

/// A figure beside the most that it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What is compared, with its figures.
    pub what: String,
    /// The figure.
    pub is: f64,
    /// The most that it should be.
    pub at_most: f64,
}

impl Verdict {
    /// One line that begins with PASS or MISS.
    #[must_use]
    pub fn line(&self) -> String {
        let word = if self.is <= self.at_most { "PASS" } else { "MISS" };
        format!(
            "{word}  {}: {:.3} (target: at most {})",
            self.what, self.is, self.at_most
        )
    }
}

/// The rows as a table.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "case       config     CPU us/request: Envoy  processor       sum   x bare  proc. x noop    p50 us    p99 us       rps  errors\n",
    );
    for row in rows {
        let figures = row.figures;
        let sum = figures.cpu_us_envoy + figures.cpu_us_processor;
        let bare = find(rows, row.case, Config::Bare).map(|bare| sum / bare.figures.cpu_us_envoy);
        let noop = find(rows, row.case, Config::Noop)
            .filter(|_| figures.cpu_us_processor > 0.0)
            .map(|noop| figures.cpu_us_processor / noop.figures.cpu_us_processor);
        let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:10} {:10} {:21.1} {:10.1} {:9.1} {:>8} {:>13} {:9.0} {:9.0} {:9.0} {:7}",
            row.case.name(),
            row.config.name(),
            figures.cpu_us_envoy,
            figures.cpu_us_processor,
            sum,
            ratio(bare),
            ratio(noop),
            figures.p50_us,
            figures.p99_us,
            figures.rps,
            figures.errors,
        );
    }
    out
}

/// The rows of the configurations that are compared, one JSON object a line.
#[must_use]
pub fn lines(rows: &[Row]) -> String {
    let rows = rows.iter().filter(|row| row.config != Config::NoopEcho);
    rows.map(|row| format!("{}\n", line(row))).collect()
}

fn line(row: &Row) -> Value {
    let tenth = |figure: f64| (figure * 10.0).round() / 10.0;
    json!({
        "case": row.case.name(),
        "config": row.config.name(),
        "cpu_us_envoy": tenth(row.figures.cpu_us_envoy),
        "cpu_us_processor": tenth(row.figures.cpu_us_processor),
        "p50_us": row.figures.p50_us.round(),
        "p99_us": row.figures.p99_us.round(),
        "rps": tenth(row.figures.rps),
        "errors": row.figures.errors,
    })
}

/// The targets that the rows tell about.
#[must_use]
pub fn verdicts(rows: &[Row]) -> Vec<Verdict> {
    let plain = [(Case::Small, 1.3), (Case::Medium, 1.5), (Case::Large, 1.5)];
    let mut verdicts: Vec<Verdict> = plain
        .into_iter()
        .filter_map(|(case, at_most)| {
            let own = find(rows, case, Config::ExtProc)?.figures.cpu_us_processor;
            let noop = find(rows, case, Config::Noop)?.figures.cpu_us_processor;
            Some(Verdict {
                what: format!(
                    "{}: CPU of kthena-ext-proc, {own:.0} us, by that of the no-op, {noop:.0} us",
                    case.name()
                ),
                is: own / noop,
                at_most,
            })
        })
        .collect();
    let own = find(rows, Case::Stream, Config::ExtProc);
    if let Some((own, bare)) = own.zip(find(rows, Case::Stream, Config::Bare)) {
        let sum = own.figures.cpu_us_envoy + own.figures.cpu_us_processor;
        let bare = bare.figures.cpu_us_envoy;
        verdicts.push(Verdict {
            what: format!(
                "stream200: CPU of Envoy and kthena-ext-proc, {sum:.0} us, by that of a bare Envoy, {bare:.0} us"
            ),
            is: sum / bare,
            at_most: 1.75,
        });
    }
    verdicts.extend(wasm_verdicts(rows));
    verdicts
}

/// What the wasm filter costs Envoy: by a filter that does nothing, by an ext_proc that does nothing, and on a stream by nothing at all.
fn wasm_verdicts(rows: &[Row]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let envoy = |case, config| Some(find(rows, case, config)?.figures.cpu_us_envoy);
    for (case, at_most) in [(Case::Small, 1.3), (Case::Medium, 2.0), (Case::Large, 2.5)] {
        let Some(own) = envoy(case, Config::Wasm) else { continue };
        let noop = find(rows, case, Config::Noop).map(|row| row.figures.cpu_us_envoy + row.figures.cpu_us_processor);
        let others = [
            (envoy(case, Config::WasmNoop), "a no-op wasm filter", at_most),
            (noop, "Envoy and a no-op ext_proc", 0.5),
        ];
        for (other, by, at_most) in others {
            verdicts.extend(other.map(|other| Verdict {
                what: format!(
                    "{}: CPU of Envoy with the wasm filter, {own:.0} us, by that of {by}, {other:.0} us",
                    case.name()
                ),
                is: own / other,
                at_most,
            }));
        }
    }
    if let Some((own, bare)) = envoy(Case::Stream, Config::Wasm).zip(envoy(Case::Stream, Config::Bare)) {
        verdicts.push(Verdict {
            what: format!(
                "stream200: CPU of Envoy with the wasm filter, {own:.0} us, by that of a bare Envoy, {bare:.0} us"
            ),
            is: own / bare,
            at_most: 1.35,
        });
    }
    verdicts
}

fn find(rows: &[Row], case: Case, config: Config) -> Option<&Row> {
    rows.iter().find(|row| row.case == case && row.config == config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::path::Figures;

    fn row(case: Case, config: Config, cpu_us_envoy: f64, cpu_us_processor: f64) -> Row {
        let figures = Figures {
            cpu_us_envoy,
            cpu_us_processor,
            rps: 1234.56,
            ..Figures::default()
        };
        Row { case, config, figures }
    }

    fn rows() -> Vec<Row> {
        vec![
            row(Case::Small, Config::Bare, 80.0, 0.0),
            row(Case::Small, Config::Noop, 190.0, 70.0),
            row(Case::Small, Config::NoopEcho, 200.0, 75.0),
            row(Case::Small, Config::ExtProc, 195.0, 105.0),
            row(Case::Small, Config::WasmNoop, 100.0, 0.0),
            row(Case::Small, Config::Wasm, 125.0, 0.0),
            row(Case::Stream, Config::Bare, 3300.0, 0.0),
            row(Case::Stream, Config::ExtProc, 4300.0, 300.0),
            row(Case::Stream, Config::Wasm, 4620.0, 0.0),
        ]
    }

    #[test]
    fn a_machine_reads_the_configurations_with_exactly_these_keys() {
        let text = lines(&rows());
        let read: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(read.len(), 8);
        assert_eq!(
            read[2],
            json!({"case": "1kB", "config": "ext-proc", "cpu_us_envoy": 195.0, "cpu_us_processor": 105.0,
                   "p50_us": 0.0, "p99_us": 0.0, "rps": 1234.6, "errors": 0})
        );
    }

    #[test]
    fn a_target_is_reached_or_missed_by_the_ratio_and_told_for_what_was_measured() {
        let verdicts = verdicts(&rows());
        assert_eq!(verdicts.len(), 5);
        let ratios: Vec<f64> = verdicts[2..].iter().map(|verdict| verdict.is).collect();
        assert_eq!(ratios, [1.25, 125.0 / 260.0, 1.4]);
        assert!(verdicts[0].line().starts_with("MISS  1kB") && verdicts[0].is == 1.5);
        assert!(
            verdicts[1].line().starts_with("PASS  stream200"),
            "{}",
            verdicts[1].line()
        );
    }

    #[test]
    fn the_table_has_a_line_for_every_row_and_a_dash_where_nothing_is_compared() {
        let table = table(&rows());
        assert_eq!(table.lines().count(), 10);
        let bare = table.lines().nth(1).unwrap();
        assert!(bare.contains(" - ") && bare.contains("1.00"), "{bare}");
    }
}
