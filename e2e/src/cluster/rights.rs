//! The rights of the controller, and no more: what is missing here fails in a story.

use serde_json::{Value, json};

use super::CONTROLLER;

/// ClusterRole and ClusterRoleBinding of [`CONTROLLER`].
#[must_use]
pub fn of_the_controller() -> Vec<Value> {
    let rbac = "rbac.authorization.k8s.io";
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    let watch = &["list", "watch"];
    let networking = "networking.serving.volcano.sh";
    vec![
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": {"name": CONTROLLER},
            "rules": [
                rule(networking, &["modelroutes", "modelservers", "externalmodelproviders"], watch),
                rule(networking, &["modelroutes/status", "modelservers/status", "externalmodelproviders/status"], &["patch"]),
                rule("inference.networking.k8s.io", &["inferencepools"], watch),
                rule("", &["pods"], watch),
                rule("apiextensions.k8s.io", &["customresourcedefinitions"], watch),
                rule("coordination.k8s.io", &["leases"], &["get", "create", "update"]),
                rule("events.k8s.io", &["events"], &["create", "patch"]),
            ],
        }),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": CONTROLLER},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": CONTROLLER},
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": CONTROLLER}],
        }),
    ]
}
