//! Plays the kubelet: pods become ready, lose their readiness, restart, are told to end, and go.
//!
//! A pod is bound to a node that no one runs, so it goes as in a cluster: when it is deleted it is marked first, and is gone when the kubelet says
//! so. Its address is one of the simulated fleet.

use std::net::Ipv4Addr;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::Cluster;

/// A pod to be.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// Its address.
    pub ip: Ipv4Addr,
    /// When its container started, by the node's clock; `None` = the node does not say.
    pub started: Option<SystemTime>,
}

impl PodSpec {
    /// A pod of the namespace `default`, labelled `app: <app>`.
    #[must_use]
    pub fn new(name: &str, app: &str, ip: Ipv4Addr) -> Self {
        Self {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            labels: vec![("app".to_owned(), app.to_owned())],
            ip,
            started: None,
        }
    }

    fn object(&self) -> Value {
        let labels: serde_json::Map<_, _> = self
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        json!({
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": labels},
            "spec": {"nodeName": "story", "containers": [{"name": "engine", "image": "vllm/vllm-openai"}]},
        })
    }

    fn running(&self) -> Value {
        json!({"status": {
            "phase": "Running", "podIP": self.ip, "podIPs": [{"ip": self.ip}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": self.started.map(shown)}],
            "containerStatuses": [container(0, self.started)],
        }})
    }
}

fn container(restarts: u32, started: Option<SystemTime>) -> Value {
    json!({
        "name": "engine", "image": "vllm/vllm-openai", "imageID": "", "ready": true, "restartCount": restarts,
        "containerID": format!("story://{restarts}"), "state": {"running": {"startedAt": started.map(shown)}},
    })
}

/// A time as a node writes it.
fn shown(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let shown = Timestamp::from_second(i64::try_from(since.as_secs()).unwrap_or_default());
    shown.unwrap_or_default().to_string()
}

impl Cluster {
    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client(), namespace)
    }

    /// A pod is created, scheduled, started, and ready.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn run_pod(&self, pod: &PodSpec) -> Result<()> {
        self.create_pod(pod).await?;
        self.start_pod(pod).await
    }

    /// A pod is created and scheduled: nothing of it runs yet.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create_pod(&self, pod: &PodSpec) -> Result<()> {
        let object: Pod = serde_json::from_value(pod.object()).context("a pod")?;
        self.pods(&pod.namespace)
            .create(&PostParams::default(), &object)
            .await
            .with_context(|| format!("cannot create the pod {}", pod.name))?;
        Ok(())
    }

    /// A pod that was created is started, and ready.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn start_pod(&self, pod: &PodSpec) -> Result<()> {
        self.set_pod_status(&pod.namespace, &pod.name, &pod.running()).await
    }

    /// The readiness probe of a pod fails, or succeeds again.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn set_pod_ready(&self, namespace: &str, name: &str, ready: bool) -> Result<()> {
        let status = if ready { "True" } else { "False" };
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        self.set_pod_status(namespace, name, &patch).await
    }

    /// The engine's container has been restarted this often, and runs.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn restart_container(&self, namespace: &str, name: &str, restarts: u32) -> Result<()> {
        self.restart_container_at(namespace, name, restarts, SystemTime::now())
            .await
    }

    /// The same, at this time by the node's clock.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn restart_container_at(
        &self,
        namespace: &str,
        name: &str,
        restarts: u32,
        started: SystemTime,
    ) -> Result<()> {
        let patch = json!({"status": {"containerStatuses": [container(restarts, Some(started))]}});
        self.set_pod_status(namespace, name, &patch).await
    }

    /// The pod has failed for good: it was evicted, say.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn fail_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let patch = json!({"status": {"phase": "Failed", "conditions": [{"type": "Ready", "status": "False"}]}});
        self.set_pod_status(namespace, name, &patch).await
    }

    /// The pod is told to end, and has time to.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn end_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let params = DeleteParams::default().grace_period(300);
        self.pods(namespace)
            .delete(name, &params)
            .await
            .context("cannot end a pod")?;
        Ok(())
    }

    /// The pod has ended: it is gone.
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn remove_pod(&self, namespace: &str, name: &str) -> Result<()> {
        let params = DeleteParams::default().grace_period(0);
        self.pods(namespace)
            .delete(name, &params)
            .await
            .context("cannot remove a pod")?;
        Ok(())
    }

    async fn set_pod_status(&self, namespace: &str, name: &str, patch: &Value) -> Result<()> {
        self.pods(namespace)
            .patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .with_context(|| format!("cannot set the status of the pod {name}"))?;
        Ok(())
    }
}
