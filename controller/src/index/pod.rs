//! What matters of a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};

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
    /// Its containers, as far as the pod's status tells of their starts.
    pub containers: Vec<ContainerStart>,
}

/// One start of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStart {
    /// Ports that it declares.
    pub ports: Vec<u16>,
    /// Names this start of it: changes when it is started anew.
    pub start: u64,
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
            containers: starts(pod),
        }
    }

    /// Names the start of whatever listens on a port: changes when its container is started anew; 0 = not known. It is the container
    /// that declares the port, or all of them where none does.
    pub fn start_of(&self, port: u16) -> u64 {
        let declares = |container: &&ContainerStart| container.ports.contains(&port);
        if let Some(container) = self.containers.iter().find(declares) {
            return container.start;
        }
        let starts = self.containers.iter().map(|container| container.start);
        starts.fold(0, |all, start| all ^ start)
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

fn starts(pod: &Pod) -> Vec<ContainerStart> {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let declared = |name: &str| {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let of_name = containers.filter(move |container| container.name == name);
        of_name.flat_map(ports).collect()
    };
    statuses
        .map(|status| ContainerStart {
            ports: declared(&status.name),
            start: start(status),
        })
        .collect()
}

fn ports(container: &Container) -> impl Iterator<Item = u16> {
    let ports = container.ports.iter().flatten();
    ports.filter_map(|port| u16::try_from(port.container_port).ok())
}

// The id says it exactly; the count is all there is before the id is known.
fn start(status: &ContainerStatus) -> u64 {
    let id = status.container_id.as_deref().unwrap_or_default();
    let text = match id {
        "" => format!("{}/{}", status.name, status.restart_count),
        id => format!("{}/{id}", status.name),
    };
    twox_hash::XxHash3_64::oneshot(text.as_bytes())
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

    #[test]
    fn a_restart_of_the_container_that_listens_is_another_start() {
        let status = |engine: &str, proxy: &str| {
            json!({"podIP": "10.0.0.1", "containerStatuses": [
                {"name": "engine", "containerID": engine, "restartCount": 0, "ready": true, "image": "", "imageID": ""},
                {"name": "proxy", "containerID": proxy, "restartCount": 0, "ready": true, "image": "", "imageID": ""},
            ]})
        };
        let view = |status: Value| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "p"}, "status": status,
                "spec": {"containers": [{"name": "engine", "ports": [{"containerPort": 8000}]}, {"name": "proxy"}]},
            }))
            .unwrap();
            PodView::new(&ObjectKey::new(Kind::Pod, "default", "p"), &pod)
        };
        let first = view(status("a", "b"));
        assert_eq!(
            first.start_of(8000),
            view(status("a", "c")).start_of(8000),
            "a side car"
        );
        assert_ne!(first.start_of(8000), view(status("d", "b")).start_of(8000));
        // Nobody says that it listens on 9000: any of them may.
        assert_ne!(first.start_of(9000), view(status("a", "c")).start_of(9000));
        assert_eq!(
            view(json!({"podIP": "10.0.0.1"})).start_of(8000),
            0,
            "a file need not tell"
        );
    }
}
