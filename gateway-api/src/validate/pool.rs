//! Judging an InferencePool, by the rules of its definition: an object from a folder has met no API server.

use std::collections::BTreeSet;

use super::{bounds, labels};
use crate::{FieldIssue, InferencePool};

const MAX_PORTS: usize = 8;

impl InferencePool {
    /// Every rule that it breaks.
    pub fn validate(&self) -> Vec<FieldIssue> {
        let spec = &self.spec;
        let mut issues = super::metadata(&self.metadata);
        labels::required("spec.selector.matchLabels", &spec.selector.match_labels, &mut issues);
        let ports = "spec.targetPorts";
        if spec.target_ports.is_empty() {
            issues.push(FieldIssue::new(ports, "must hold at least one port"));
        }
        bounds::at_most(ports, spec.target_ports.len(), MAX_PORTS, &mut issues);
        let mut seen = BTreeSet::new();
        for (i, port) in spec.target_ports.iter().enumerate() {
            let path = format!("{ports}[{i}].number");
            bounds::port(&path, port.number, &mut issues);
            if !seen.insert(port.number) {
                issues.push(FieldIssue::new(path, format!("{} is listed twice", port.number)));
            }
        }
        if let Some(picker) = &spec.endpoint_picker_ref {
            let path = "spec.endpointPickerRef";
            if picker.name.is_empty() {
                issues.push(FieldIssue::new(format!("{path}.name"), "must be set"));
            }
            match picker.port {
                Some(port) => bounds::port(&format!("{path}.port.number"), port.number, &mut issues),
                None if picker.kind == "Service" => {
                    issues.push(FieldIssue::new(
                        format!("{path}.port"),
                        "must be set where kind is Service",
                    ));
                }
                None => {}
            }
        }
        issues
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn paths(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut spec = json!({
            "selector": {"matchLabels": {"app": "m"}}, "targetPorts": [{"number": 8000}, {"number": 8001}],
            "endpointPickerRef": {"name": "picker", "port": {"number": 9002}},
        });
        change(&mut spec);
        let pool: InferencePool = serde_json::from_value(json!({
            "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {"name": "p"}, "spec": spec,
        }))
        .unwrap();
        pool.validate().into_iter().map(|issue| issue.path).collect()
    }

    #[test]
    fn the_rules_are_those_of_its_definition() {
        assert!(paths(|_| {}).is_empty());
        assert_eq!(
            paths(|s| s["selector"]["matchLabels"] = json!({})),
            ["spec.selector.matchLabels"]
        );
        assert_eq!(paths(|s| s["targetPorts"] = json!([])), ["spec.targetPorts"]);
        let nine: Vec<_> = (1..10).map(|number| json!({"number": number})).collect();
        assert_eq!(paths(|s| s["targetPorts"] = json!(nine)), ["spec.targetPorts"]);
        assert_eq!(
            paths(|s| s["targetPorts"][1]["number"] = json!(8000)),
            ["spec.targetPorts[1].number"]
        );
        assert_eq!(
            paths(|s| s["targetPorts"][0]["number"] = json!(0)),
            ["spec.targetPorts[0].number"]
        );
        assert_eq!(
            paths(|s| s["endpointPickerRef"] = json!({"name": "p"})),
            ["spec.endpointPickerRef.port"]
        );
        assert!(paths(|s| s["endpointPickerRef"] = json!({"name": "p", "kind": "Other"})).is_empty());
    }
}
