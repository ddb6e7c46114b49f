//! The rights of the controller: those that the chart gives its ServiceAccount, and no more. What is missing there fails in a story.

use anyhow::Result;
use serde_json::{Value, json};

use crate::chart;

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
    let objects = chart::objects(&["--namespace", NAMESPACE, "--show-only", "templates/rbac.yaml"])?;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": ACCOUNT, "namespace": NAMESPACE},
    });
    Ok(std::iter::once(account).chain(objects).collect())
}
