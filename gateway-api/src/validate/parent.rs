//! Judging a reference to a parent, by the rules of the Gateway API.

use super::bounds;
use super::metadata::{is_dns_label, is_dns_subdomain};
use crate::{FieldIssue, ParentReference};

/// Judges the reference at `path`.
pub(super) fn reference(path: &str, parent: &ParentReference, issues: &mut Vec<FieldIssue>) {
    let mut check = |field: &str, value: &str, good: bool, what: &str| {
        if !good {
            issues.push(FieldIssue::new(
                format!("{path}.{field}"),
                format!("`{value}` is not {what}"),
            ));
        }
    };
    let ParentReference { group, kind, name, .. } = parent;
    check(
        "group",
        group,
        group.is_empty() || is_dns_subdomain(group),
        "an API group",
    );
    check("kind", kind, is_kind(kind), "a kind");
    check(
        "name",
        name,
        (1..=253).contains(&name.chars().count()),
        "a name: 1 to 253 characters",
    );
    if let Some(namespace) = &parent.namespace {
        check("namespace", namespace, is_dns_label(namespace), "a namespace");
    }
    if let Some(section) = &parent.section_name {
        check(
            "sectionName",
            section,
            is_dns_subdomain(section),
            "the name of a listener",
        );
    }
    if let Some(port) = parent.port {
        bounds::port(&format!("{path}.port"), port, issues);
    }
}

fn is_kind(kind: &str) -> bool {
    let bytes = kind.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
}
