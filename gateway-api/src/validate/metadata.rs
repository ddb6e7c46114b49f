//! Names of objects, which an API server would have judged.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::FieldIssue;

/// What is wrong with an object's name or namespace.
pub fn metadata(meta: &ObjectMeta) -> Vec<FieldIssue> {
    let mut issues = Vec::new();
    match meta.name.as_deref().unwrap_or_default() {
        "" => issues.push(FieldIssue::new("metadata.name", "must be set")),
        name if !is_dns_subdomain(name) => issues.push(FieldIssue::new(
            "metadata.name",
            format!("`{name}` is not a name: at most 253 lower-case letters, digits, `-`, `.`"),
        )),
        _ => {}
    }
    match meta.namespace.as_deref().unwrap_or_default() {
        "" => {}
        namespace if !is_dns_label(namespace) => issues.push(FieldIssue::new(
            "metadata.namespace",
            format!("`{namespace}` is not a namespace: at most 63 lower-case letters, digits, `-`"),
        )),
        _ => {}
    }
    issues
}

/// Labels joined by dots.
pub(super) fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_part)
}

pub(super) fn is_dns_label(label: &str) -> bool {
    label.len() <= 63 && is_part(label)
}

// A part of a subdomain has no length of its own in Kubernetes.
fn is_part(label: &str) -> bool {
    let outer = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = label.as_bytes();
    outer(bytes.first())
        && outer(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(name: &str, namespace: Option<&str>) -> Vec<String> {
        let meta = ObjectMeta {
            name: Some(name.into()),
            namespace: namespace.map(Into::into),
            ..Default::default()
        };
        metadata(&meta).into_iter().map(|issue| issue.path).collect()
    }

    #[test]
    fn names_that_could_not_be_stored_are_refused() {
        assert!(paths("qwen2.5-7b", Some("team-a")).is_empty());
        assert!(paths("a", None).is_empty());
        for name in ["", "Upper", "a/b", "-a", "a..b", "a_b"] {
            assert_eq!(paths(name, None), ["metadata.name"], "{name}");
        }
        for namespace in ["a.b", "A", "x/"] {
            assert_eq!(paths("a", Some(namespace)), ["metadata.namespace"], "{namespace}");
        }
    }
}
