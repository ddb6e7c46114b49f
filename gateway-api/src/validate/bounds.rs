//! Bounds of numbers, lists and texts: what a schema would have refused.

use crate::FieldIssue;

/// A list or map with too many entries.
pub(super) fn at_most(path: &str, len: usize, max: usize, issues: &mut Vec<FieldIssue>) {
    if len > max {
        issues.push(FieldIssue::new(path, format!("holds {len} entries: at most {max}")));
    }
}

/// A text that is too long.
pub(super) fn chars(path: &str, text: &str, max: usize, issues: &mut Vec<FieldIssue>) {
    if text.chars().count() > max {
        issues.push(FieldIssue::new(path, format!("is longer than {max} characters")));
    }
}

/// A port number that is none.
pub(super) fn port(path: &str, port: i32, issues: &mut Vec<FieldIssue>) {
    if !(1..=65535).contains(&port) {
        issues.push(FieldIssue::new(path, format!("{port} is out of range: 1 to 65535")));
    }
}
