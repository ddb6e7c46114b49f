//! Stories of the Helm chart: Helm renders it, and a real API server takes it, judges by it, and is left as it was.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper fails by panicking"
)]

mod installed;
mod judged;
#[path = "../../../gateway-api/tests/objects/mod.rs"]
mod objects;
mod rendered;
mod together;

use std::time::Duration;

use kthena_e2e::chart::{self, NAMESPACE, RELEASE};
use kthena_e2e::cluster::{Cluster, Options};
use kthena_e2e::scratch::Scratch;
use serde_json::Value;

/// Where the examples of objects are, from this crate.
const PLACE: &str = "../gateway-api/tests/objects";

/// What an API server takes seconds for.
const PATIENCE: Duration = Duration::from_secs(60);

/// An API server that knows none of our kinds, with these of Kubernetes' own controllers.
async fn bare(folder: &Scratch, controllers: &[&str]) -> Cluster {
    let options = Options {
        controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
        bare: true,
        without_rights: true,
        ..Options::default()
    };
    Cluster::start(&options, folder.path()).await.unwrap()
}

/// Runs Helm against the API server: `helm(&cluster, "upgrade", &["--set", "rbac.aggregate=false"])`.
fn helm(cluster: &Cluster, command: &str, args: &[&str]) -> String {
    let kubeconfig = cluster.kubeconfig();
    let folder = chart::folder();
    let mut all = vec![command, RELEASE];
    if command != "uninstall" {
        all.push(folder.to_str().unwrap());
    }
    all.extend(["--namespace", NAMESPACE, "--kubeconfig", kubeconfig.to_str().unwrap()]);
    all.extend(args);
    chart::helm(&all).unwrap()
}

/// The arguments of the only container of a Deployment.
fn args(deployment: &Value) -> Vec<String> {
    let args = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array();
    args.unwrap()
        .iter()
        .map(|arg| arg.as_str().unwrap().to_owned())
        .collect()
}
