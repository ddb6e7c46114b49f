//! What is known of a request in each mode of Envoy's ext_proc filter, measured on a real Envoy and compared with `docs/modes.md`.
//!
//! Each row of the table there is a mode, each cell a measurement here: made once with an Envoy whose access log reaches the ext_proc
//! server, and once without.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

mod bodies;
mod known;
mod rig;

use known::{Known, measure};
use rig::{MODES, Mode, Rig, listeners, listeners_without_access_log};

const DOCUMENT: &str = include_str!("../../../docs/modes.md");

/// The table of the document: its rows after the head.
fn rows() -> Vec<Vec<&'static str>> {
    let table = DOCUMENT.lines().filter(|line| line.starts_with("| "));
    table
        .skip(1)
        .map(|row| {
            row.trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().trim_matches('`'))
                .collect()
        })
        .collect()
}

/// A row of the table as measured.
fn row(access_log: bool, mode: Mode, without: Known, with: Known) -> Vec<&'static str> {
    let word = |fact: fn(Known) -> bool, otherwise: &'static str| match (access_log, fact(without), fact(with)) {
        (false, true, _) | (true, true, true) => "exact",
        (true, false, true) => "by access log",
        _ => otherwise,
    };
    vec![
        if access_log { "yes" } else { "no" },
        mode.request_body,
        mode.response_headers,
        mode.response_body,
        word(|known| known.in_flight, "estimated"),
        word(|known| known.status, "unknown"),
        word(|known| known.served, "unknown"),
        word(|known| known.usage, "unknown"),
        word(|known| known.explanation, "unknown"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_knows_what_the_document_says() {
    let (mut without, mut with) = tokio::join!(Rig::start(listeners_without_access_log, ""), Rig::start(listeners, ""));
    let mut measured = [Vec::new(), Vec::new()];
    for mode in MODES {
        let (without, with) = tokio::join!(measure(&mut without, mode, false), measure(&mut with, mode, true));
        measured[0].push(row(true, mode, without, with));
        measured[1].push(row(false, mode, without, with));
    }
    let measured = measured.concat();
    let shown: Vec<String> = measured.iter().map(|row| format!("| {} |", row.join(" | "))).collect();
    assert_eq!(rows(), measured, "docs/modes.md should say:\n{}", shown.join("\n"));
}
