//! Envoy's cluster and endpoint files, for tests and benchmarks that run without a controller.
//!
//! The form is that of the fixtures under `tests/fixtures/envoy`, which is what the controller writes: endpoint files first, then the
//! list of clusters, each by an atomic rename, so that Envoy never reads half a file nor a cluster without its endpoints.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

const CLUSTERS: &str = include_str!("../tests/fixtures/envoy/cds.json");

/// One Envoy cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name, such as `model-server/default/llama/8000`.
    pub name: String,
    /// Its endpoints.
    pub endpoints: Vec<SocketAddr>,
}

impl Cluster {
    /// A cluster of these endpoints.
    #[must_use]
    pub fn new(name: &str, endpoints: impl Into<Vec<SocketAddr>>) -> Self {
        Self {
            name: name.to_owned(),
            endpoints: endpoints.into(),
        }
    }

    fn file(&self) -> String {
        format!(
            "{}.json",
            self.name.trim_start_matches("model-server/").replace('/', ".")
        )
    }

    fn load_assignment(&self) -> Value {
        let endpoints: Vec<Value> = self
            .endpoints
            .iter()
            .map(|at| {
                json!({"endpoint": {"address": {"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}}}})
            })
            .collect();
        json!({"resources": [{
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": self.name,
            "endpoints": [{"lb_endpoints": endpoints}],
        }]})
    }
}

/// Writes the files of exactly these clusters into the folder; Envoy takes them up within milliseconds.
///
/// # Errors
/// When a file can't be written.
pub fn write(folder: &Path, clusters: &[Cluster]) -> Result<()> {
    let template: Value = serde_json::from_str(CLUSTERS).context("the fixture is not JSON")?;
    let eds = folder.join("eds");
    fs::create_dir_all(&eds).with_context(|| format!("cannot make {}", eds.display()))?;
    let mut resources = Vec::new();
    for cluster in clusters {
        replace(&eds.join(cluster.file()), &cluster.load_assignment())?;
        let mut resource = template["resources"][0].clone();
        resource["name"] = json!(cluster.name);
        resource["eds_cluster_config"]["eds_config"]["path_config_source"] =
            json!({"path": eds.join(cluster.file()), "watched_directory": {"path": eds}});
        resources.push(resource);
    }
    replace(&folder.join("cds.json"), &json!({"resources": resources}))
}

fn replace(file: &Path, content: &Value) -> Result<()> {
    let unfinished = file.with_extension("unfinished");
    fs::write(&unfinished, content.to_string()).with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, file).with_context(|| format!("cannot replace {}", file.display()))
}
