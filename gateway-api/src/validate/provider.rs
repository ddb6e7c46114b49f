//! Judging an ExternalModelProvider.

use std::net::Ipv6Addr;

use super::{MAX_MODEL_CHARS, bounds};
use crate::schema::{MAX_ENTRIES, MAX_URL_CHARS};
use crate::{ExternalModelProvider, FieldIssue};

// Set by the proxy itself, or carriers of a credential.
const RESERVED_HEADERS: [&str; 13] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "host",
    "content-length",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "trailer",
    "te",
];

impl ExternalModelProvider {
    /// Every rule that it breaks.
    pub fn validate(&self) -> Vec<FieldIssue> {
        let spec = &self.spec;
        let mut issues = super::metadata(&self.metadata);
        bounds::chars(
            "spec.model",
            spec.model.as_deref().unwrap_or_default(),
            MAX_MODEL_CHARS,
            &mut issues,
        );
        bounds::chars("spec.baseURL", &spec.base_url, MAX_URL_CHARS, &mut issues);
        if let Err(reason) = check_base_url(&spec.base_url) {
            issues.push(FieldIssue::new("spec.baseURL", reason));
        }
        bounds::at_most("spec.headers", spec.headers.len(), MAX_ENTRIES, &mut issues);
        for (name, value) in &spec.headers {
            let path = format!("spec.headers[{name}]");
            if !is_header_name(name) {
                issues.push(FieldIssue::new(&path, "is not a header name"));
            } else if RESERVED_HEADERS
                .iter()
                .any(|reserved| name.eq_ignore_ascii_case(reserved))
            {
                issues.push(FieldIssue::new(&path, "is reserved and cannot be set"));
            }
            if value.contains(['\r', '\n']) {
                issues.push(FieldIssue::new(&path, "must not contain a line break"));
            }
        }
        if let Some(auth) = &spec.auth {
            let secret = &auth.secret_ref;
            for (field, value) in [("name", &secret.name), ("key", &secret.key)] {
                if value.is_empty() {
                    issues.push(FieldIssue::new(format!("spec.auth.secretRef.{field}"), "must be set"));
                }
            }
            if secret.optional == Some(true) {
                issues.push(FieldIssue::new("spec.auth.secretRef.optional", "must not be true"));
            }
        }
        issues
    }

    /// What does not work yet: all of it.
    pub fn warnings(&self) -> Vec<FieldIssue> {
        vec![FieldIssue::new(
            "spec",
            "external providers are not served yet: requests routed to one are answered 503",
        )]
    }
}

fn check_base_url(url: &str) -> Result<(), &'static str> {
    let rest = url.strip_prefix("https://").ok_or("must begin with https://")?;
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("must not contain spaces");
    }
    if rest.contains('?') || rest.contains('#') {
        return Err("must have neither query nor fragment");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must not contain a user or password");
    }
    let host = match authority.rsplit_once(':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some((host, port)) if !port.ends_with(']') => {
            if port.parse::<u16>().is_err() {
                return Err("has a port that is not a number from 0 to 65535");
            }
            host
        }
        _ => authority,
    };
    let is_host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '[', ']']),
    };
    if !is_host {
        return Err("must name a host");
    }
    Ok(())
}

// RFC 9110: a token.
fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn base_urls_are_https_with_a_host_and_nothing_secret() {
        for url in [
            "https://api.example.com",
            "https://h:8443/v1",
            "https://[::1]:443/",
            "https://[::1]",
        ] {
            assert_eq!(check_base_url(url), Ok(()), "{url}");
        }
        for url in [
            "http://h",
            "https://",
            "https:///v1",
            "https://u:p@h",
            "https://h?x=1",
            "https://h/#f",
            "https://h:x",
            "https://a:b:1",
            "https://[zz]",
            "https://a b",
        ] {
            assert!(check_base_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn every_broken_rule_is_named_with_its_field() {
        let provider: ExternalModelProvider = serde_json::from_value(json!({
            "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ExternalModelProvider",
            "metadata": {"name": "p"},
            "spec": {
                "baseURL": "http://h", "model": "x".repeat(257),
                "headers": {"Cookie": "a", "bad name": "b", "x-ok": "c", "x-split": "d\r\ne"},
                "auth": {"secretRef": {"name": "", "key": "k", "optional": true}},
            },
        }))
        .unwrap();
        let paths: Vec<_> = provider.validate().into_iter().map(|issue| issue.path).collect();
        assert_eq!(
            paths,
            [
                "spec.model",
                "spec.baseURL",
                "spec.headers[Cookie]",
                "spec.headers[bad name]",
                "spec.headers[x-split]",
                "spec.auth.secretRef.name",
                "spec.auth.secretRef.optional",
            ]
        );
        assert_eq!(provider.warnings().len(), 1);
    }
}
