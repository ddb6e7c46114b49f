//! The rights of the controller: those that the chart gives its ServiceAccount, and no more. What is missing there fails in a story.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::parts::Part;

/// The chart.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/kthena");

/// The release: its name begins the names of all that it makes.
const RELEASE: &str = "kthena";

/// The controller's ServiceAccount in [`NAMESPACE`].
pub const ACCOUNT: &str = "kthena-controller";

/// The namespace of the release.
pub const NAMESPACE: &str = "default";

/// The controller, as the API server knows it.
pub const USER: &str = "system:serviceaccount:default:kthena-controller";

/// The controller's ServiceAccount, and the roles and bindings that the chart makes for it.
///
/// # Errors
/// When helm is missing, or cannot render the chart.
pub fn of_the_controller() -> Result<Vec<Value>> {
    let output = Command::new(Part::Helm.path()?)
        .args(["template", RELEASE, CHART, "--namespace", NAMESPACE])
        .args(["--show-only", "templates/rbac.yaml"])
        .output()
        .context("cannot start helm")?;
    if !output.status.success() {
        bail!("helm template: {}", String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).context("helm prints no YAML")?;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": ACCOUNT, "namespace": NAMESPACE},
    });
    Ok(std::iter::once(account)
        .chain(objects.into_iter().filter(|object| !object.is_null()))
        .collect())
}
