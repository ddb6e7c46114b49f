//! What matters of a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::source::ObjectKey;

/// A pod, trimmed to what a decision can depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Its UID; `namespace/name` where it has none.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it can be an endpoint, and at which address.
    pub eligibility: Eligibility,
}

/// Whether a pod can be an endpoint. It must be running, ready, not terminating, and have an address; what a file leaves
/// out counts as well: no phase is running, no conditions are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Eligibility {
    /// It is one.
    Ready(IpAddr),
    /// Its phase is not Running.
    NotRunning,
    /// Its condition Ready is not true.
    NotReady,
    /// It is being deleted.
    Terminating,
    /// Neither podIP nor podIPs holds an address.
    NoAddress,
}

// === impl Eligibility ===

impl Eligibility {
    /// In words, for a status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready(_) => "ready",
            Self::NotRunning => "not running",
            Self::NotReady => "not ready",
            Self::Terminating => "terminating",
            Self::NoAddress => "without an address",
        }
    }

    fn of(pod: &Pod) -> Self {
        if pod.metadata.deletion_timestamp.is_some() {
            return Self::Terminating;
        }
        let Some(status) = &pod.status else {
            return Self::NoAddress;
        };
        if status.phase.as_deref().is_some_and(|phase| phase != "Running") {
            return Self::NotRunning;
        }
        let ready = status.conditions.as_deref().is_none_or(|conditions| {
            conditions.is_empty() || conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
        });
        if !ready {
            return Self::NotReady;
        }
        let listed = status.pod_ips.iter().flatten().map(|pod_ip| pod_ip.ip.as_str());
        match status
            .pod_ip
            .as_deref()
            .into_iter()
            .chain(listed)
            .find_map(|ip| ip.parse().ok())
        {
            Some(ip) => Self::Ready(ip),
            None => Self::NoAddress,
        }
    }
}

// === impl PodView ===

impl PodView {
    /// Trims a pod.
    pub fn new(key: &ObjectKey, pod: &Pod) -> Self {
        Self {
            uid: pod
                .metadata
                .uid
                .clone()
                .filter(|uid| !uid.is_empty())
                .unwrap_or_else(|| key.full_name()),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            eligibility: Eligibility::of(pod),
        }
    }

    /// Whether it has all these labels.
    pub fn has_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Kind;
    use serde_json::{Value, json};

    fn view(metadata: Value, status: Value) -> PodView {
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status,
        }))
        .unwrap();
        PodView::new(&ObjectKey::new(Kind::Pod, "default", "p"), &pod)
    }

    fn eligibility(status: Value) -> Eligibility {
        view(json!({"name": "p"}), status).eligibility
    }

    #[test]
    fn what_a_file_leaves_out_counts_as_well() {
        let ready = Eligibility::Ready("10.0.0.1".parse().unwrap());
        assert_eq!(eligibility(json!({"podIP": "10.0.0.1"})), ready);
        assert_eq!(
            eligibility(
                json!({"podIP": "10.0.0.1", "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
            ),
            ready
        );
        assert_eq!(eligibility(json!({"podIPs": [{"ip": "10.0.0.1"}]})), ready);
        assert_eq!(
            eligibility(json!({"podIP": "fd00::1"})),
            Eligibility::Ready("fd00::1".parse().unwrap())
        );
    }

    #[test]
    fn a_pod_that_cannot_serve_says_why() {
        assert_eq!(
            eligibility(json!({"podIP": "10.0.0.1", "phase": "Pending"})),
            Eligibility::NotRunning
        );
        for conditions in [
            json!([{"type": "Ready", "status": "False"}]),
            json!([{"type": "Initialized", "status": "True"}]),
        ] {
            assert_eq!(
                eligibility(json!({"podIP": "10.0.0.1", "conditions": conditions})),
                Eligibility::NotReady
            );
        }
        assert_eq!(eligibility(json!({})), Eligibility::NoAddress);
        assert_eq!(eligibility(json!({"podIP": "not an address"})), Eligibility::NoAddress);
        let going = view(
            json!({"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}),
            json!({"podIP": "10.0.0.1"}),
        );
        assert_eq!(going.eligibility, Eligibility::Terminating);
    }

    #[test]
    fn a_pod_without_uid_goes_by_its_name() {
        assert_eq!(view(json!({"name": "p"}), json!({})).uid, "default/p");
        assert_eq!(view(json!({"name": "p", "uid": "u-1"}), json!({})).uid, "u-1");
    }
}
