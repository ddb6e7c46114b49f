//! The tables of `docs/errors.md` as golden answers: what a client gets is the row, byte for byte, in OpenAI's form and in Anthropic's.

use std::collections::HashMap;

use kthena_e2e::client::Ask;
use kthena_e2e::system::System;
use serde_json::{Value, json};

use crate::{CHAT, send};

const DOCUMENT: &str = include_str!("../../../docs/errors.md");
const MESSAGES: &str = "/v1/messages";

/// The mark before the table of our own answers.
pub(crate) const OURS: &str = "<!-- table -->";
/// The mark before the table of what Envoy answers by itself.
pub(crate) const ENVOYS: &str = "<!-- envoy -->";

/// A row of the table in `docs/errors.md`.
#[derive(Debug)]
pub(crate) struct Row {
    status: u16,
    /// `type`, `code`, `param`, Anthropic's `type`, message; "-" for null.
    cells: Vec<String>,
}

/// The rows of a table, by their conditions.
pub(crate) fn documented(mark: &str) -> HashMap<String, Row> {
    let (_, table) = DOCUMENT.split_once(mark).unwrap();
    let (table, _) = table.split_once("<!-- end -->").unwrap();
    let cells = |line: &str| -> Vec<String> {
        let cells = line.trim_matches(['|', ' ']).split(" | ");
        cells.map(|cell| cell.trim().to_owned()).collect()
    };
    // The message is shown as it is, other cells as code.
    let plain = |(at, cell): (usize, &String)| if at == 4 { cell.clone() } else { cell.replace('`', "") };
    let rows = table.lines().map(cells).filter(|cells| cells.len() == 7);
    rows.filter_map(|cells| {
        let status = cells[1].parse().ok()?;
        let rest = cells[2..].iter().enumerate().map(plain).collect();
        Some((cells[0].clone(), Row { status, cells: rest }))
    })
    .collect()
}

impl Row {
    /// What the client reads.
    pub(crate) fn message(&self) -> &str {
        &self.cells[4]
    }

    /// Status and body in OpenAI's form or in Anthropic's, with this message.
    pub(crate) fn answer(&self, is_anthropic: bool, message: &str) -> (u16, Value) {
        let nullable = |cell: &str| if cell == "-" { Value::Null } else { json!(cell) };
        let cells = &self.cells;
        let body = match is_anthropic {
            true => json!({"type": "error", "error": {"type": cells[3], "message": message}}),
            false => json!({"error": {
                "message": message, "type": cells[0], "param": nullable(&cells[2]), "code": nullable(&cells[1]),
            }}),
        };
        (self.status, body)
    }
}

/// Asserts that the answers to a request in OpenAI's and in Anthropic's form are those of the table.
pub(crate) async fn assert_documented(system: &System, rows: &HashMap<String, Row>, condition: &str, ask: &Ask) {
    let row = rows.get(condition).unwrap_or_else(|| panic!("no row: {condition}"));
    // Names in the document are those of another house.
    let message = row.message().replace(" a/", " default/");
    let answer = send(system, with_path(ask, CHAT)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json().unwrap()),
        row.answer(false, &message),
        "{condition}"
    );
    assert_eq!(answer.header("content-type"), "application/json", "{condition}");
    let is_later = [429, 503].contains(&row.status) && condition != "the route leads to an external provider";
    assert_eq!(!answer.header("retry-after").is_empty(), is_later, "{condition}");
    let answer = send(system, with_path(ask, MESSAGES)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json().unwrap()),
        row.answer(true, &message),
        "{condition}"
    );
}

fn with_path(ask: &Ask, path: &str) -> Ask {
    Ask {
        path: path.to_owned(),
        ..ask.clone()
    }
}
