//! The files of the corpus: a request on one line, what becomes of it on the next.

use std::path::PathBuf;

use serde_json::Value;

use crate::picture::folder;
use crate::request::Request;

/// The pictures, by the names of their files.
pub(crate) const PICTURES: [&str; 6] = ["everyday", "busy", "rules", "strict", "crowded", "nothing"];

/// A request and what becomes of it.
pub(crate) struct Entry {
    pub(crate) request: Request,
    /// As it stands in the file.
    pub(crate) outcome: String,
}

impl Entry {
    /// The outcome, to look into.
    pub(crate) fn got(&self) -> Value {
        serde_json::from_str(&self.outcome).unwrap()
    }
}

fn file(picture: &str) -> PathBuf {
    folder().join(format!("{picture}.jsonl"))
}

/// The requests of a picture, in order.
pub(crate) fn read(picture: &str) -> Vec<Entry> {
    let file = file(picture);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let lines: Vec<&str> = text.lines().collect();
    let entry = |pair: &[&str]| {
        let [request, outcome] = pair else {
            panic!("{}: a request without an outcome", file.display());
        };
        let request = serde_json::from_str(request).unwrap_or_else(|error| panic!("{error}: {request}"));
        Entry {
            request,
            outcome: (*outcome).to_owned(),
        }
    };
    lines.chunks(2).map(entry).collect()
}

/// Writes a picture's requests and outcomes.
pub(crate) fn write(picture: &str, requests: &[Request], outcomes: &[String]) {
    assert_eq!(requests.len(), outcomes.len());
    let pairs = requests.iter().zip(outcomes);
    let text: String = pairs
        .map(|(request, outcome)| format!("{}\n{outcome}\n", serde_json::to_string(request).unwrap()))
        .collect();
    std::fs::write(file(picture), text).unwrap();
}
