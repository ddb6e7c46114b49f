//! The Helm chart, by Helm itself: rendered, and installed on an API server.
//!
//! What must always hold: nothing of the user's own Helm is read or written, and no rendering asks a network or a cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cache;
use crate::cluster::parts::Part;

/// Name of the release that tests render and install.
pub const RELEASE: &str = "kthena";
/// The namespace that it is in.
pub const NAMESPACE: &str = "kthena-system";

/// Where the chart is.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/kthena")
}

/// Runs Helm and returns what it prints.
///
/// # Errors
/// When it fails; the error is what it says.
pub fn helm(args: &[&str]) -> Result<String> {
    let home = cache::folder().join("helm-home");
    let output = Command::new(Part::Helm.path()?)
        .args(args)
        .env_remove("KUBECONFIG")
        .env("HELM_CACHE_HOME", home.join("cache"))
        .env("HELM_CONFIG_HOME", home.join("config"))
        .env("HELM_DATA_HOME", home.join("data"))
        .output()
        .context("cannot start helm")?;
    if !output.status.success() {
        bail!("helm {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The text of the chart's objects, with further arguments such as `--set` and a value.
///
/// # Errors
/// When the chart or its values are refused.
pub fn text(args: &[&str]) -> Result<String> {
    let folder = folder();
    let chart = folder.to_str().context("the chart's path is no text")?;
    let always = [
        "template",
        RELEASE,
        chart,
        "--namespace",
        NAMESPACE,
        "--kube-version",
        "1.36.0",
    ];
    helm(&[&always, args].concat())
}

/// The chart's objects.
///
/// # Errors
/// As [`text`].
pub fn objects(args: &[&str]) -> Result<Vec<Value>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text(args)?).context("helm prints no YAML")?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}
