//! The syntax of Kubernetes labels, and sets of them.

use std::collections::BTreeMap;

use super::bounds::at_most;
use super::metadata::is_dns_subdomain;
use crate::FieldIssue;
use crate::schema::MAX_ENTRIES;

/// Judges a non-empty set of labels at `path`.
pub(super) fn required(path: &str, labels: &BTreeMap<String, String>, issues: &mut Vec<FieldIssue>) {
    if labels.is_empty() {
        issues.push(FieldIssue::new(path, "must hold at least one label"));
    }
    at_most(path, labels.len(), MAX_ENTRIES, issues);
    for (key, value) in labels {
        if !is_key(key) {
            issues.push(FieldIssue::new(path, format!("`{key}` is not a label key")));
        }
        if !is_value(value) {
            issues.push(FieldIssue::new(
                format!("{path}[{key}]"),
                format!("`{value}` is not a label value: at most 63 letters, digits, `-`, `_`, `.`"),
            ));
        }
    }
}

/// `name`, or `domain/name`.
pub(super) fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_name(name),
        None => is_name(key),
    }
}

fn is_value(value: &str) -> bool {
    value.is_empty() || is_name(value)
}

fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let outer = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && outer(bytes.first())
        && outer(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_follow_kubernetes() {
        for key in ["app", "app.kubernetes.io/name", "a_b-C.1"] {
            assert!(is_key(key), "{key}");
        }
        for key in ["", "-a", "a/b/c", "Upper.case/x", "/x", "x/", &"a".repeat(64)] {
            assert!(!is_key(key), "{key}");
        }
        assert!(is_value("") && is_value("v1.0") && !is_value("a b") && !is_value("x-"));
    }
}
