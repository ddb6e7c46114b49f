//! A pod, trimmed to the fields that anything here reads: the rest is not kept for a moment longer than reading it takes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerPort, ContainerStatus, Pod, PodSpec, PodStatus};
use kube::core::ObjectMeta;

/// Only what an endpoint depends on.
pub(super) fn trimmed(pod: &Pod) -> Arc<Pod> {
    let metadata = &pod.metadata;
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).map(container);
    Arc::new(Pod {
        metadata: ObjectMeta {
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            labels: metadata.labels.clone(),
            deletion_timestamp: metadata.deletion_timestamp.clone(),
            creation_timestamp: metadata.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: containers.collect(),
            ..PodSpec::default()
        }),
        status: pod.status.as_ref().map(status),
    })
}

fn container(container: &Container) -> Container {
    let ports = container.ports.iter().flatten().map(|port| ContainerPort {
        container_port: port.container_port,
        ..ContainerPort::default()
    });
    Container {
        name: container.name.clone(),
        ports: container.ports.as_ref().map(|_| ports.collect()),
        ..Container::default()
    }
}

fn status(status: &PodStatus) -> PodStatus {
    let conditions = status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| condition.type_ == "Ready");
    let containers = status
        .container_statuses
        .iter()
        .flatten()
        .map(|container| ContainerStatus {
            name: container.name.clone(),
            container_id: container.container_id.clone(),
            restart_count: container.restart_count,
            ..ContainerStatus::default()
        });
    PodStatus {
        phase: status.phase.clone(),
        pod_ip: status.pod_ip.clone(),
        pod_ips: status.pod_ips.clone(),
        // In a cluster, a pod without conditions is not ready yet; only a file may leave them out.
        conditions: Some(match conditions.clone().next() {
            Some(_) => conditions.cloned().collect(),
            None => vec![not_ready()],
        }),
        container_statuses: status.container_statuses.as_ref().map(|_| containers.collect()),
        ..PodStatus::default()
    }
}

fn not_ready() -> k8s_openapi::api::core::v1::PodCondition {
    k8s_openapi::api::core::v1::PodCondition {
        type_: "Ready".to_owned(),
        status: "False".to_owned(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{Eligibility, PodView};
    use crate::source::{Kind, ObjectKey};
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}, "annotations": {"much": "text"}},
            "spec": {
                "nodeName": "node",
                "containers": [{"name": "engine", "image": "i", "ports": [{"containerPort": 8000, "name": "http"}], "env": [{"name": "X"}]}],
                "volumes": [{"name": "v"}],
            },
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn what_an_endpoint_depends_on_is_kept() {
        let whole = pod(json!({
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "hostIP": "192.168.0.1",
            "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "engine", "containerID": "c://1", "restartCount": 2, "ready": true, "image": "i", "imageID": "x"}],
        }));
        let trimmed = trimmed(&whole);
        let key = ObjectKey::new(Kind::Pod, "n", "p");
        assert_eq!(PodView::new(&key, &trimmed), PodView::new(&key, &whole));
        let text = serde_json::to_string(&*trimmed).unwrap();
        for left_out in ["annotations", "env", "volumes", "node", "hostIP", "Initialized"] {
            assert!(!text.contains(left_out), "{left_out}: {text}");
        }
    }

    #[test]
    fn in_a_cluster_a_pod_without_conditions_is_not_ready() {
        let young = trimmed(&pod(json!({"phase": "Running", "podIP": "10.0.0.1"})));
        let view = PodView::new(&ObjectKey::new(Kind::Pod, "n", "p"), &young);
        assert_eq!(view.eligibility, Eligibility::NotReady);
    }
}
