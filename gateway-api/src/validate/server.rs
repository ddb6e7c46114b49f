//! Judging a ModelServer.

use super::{MAX_MODEL_CHARS, bounds, labels};
use crate::{FieldIssue, ModelServer, PdGroup};

impl ModelServer {
    /// Every rule that it breaks. The `scheduling` block is judged by the scheduler's own configuration types.
    pub fn validate(&self) -> Vec<FieldIssue> {
        let spec = &self.spec;
        let mut issues = super::metadata(&self.metadata);
        bounds::chars(
            "spec.model",
            spec.model.as_deref().unwrap_or_default(),
            MAX_MODEL_CHARS,
            &mut issues,
        );
        let selector = &spec.workload_selector;
        labels::required("spec.workloadSelector.matchLabels", &selector.match_labels, &mut issues);
        if let Some(group) = &selector.pd_group {
            validate_pd_group(group, &mut issues);
        }
        bounds::port("spec.workloadPort.port", spec.workload_port.port, &mut issues);
        let retry = spec.traffic_policy.as_ref().and_then(|policy| policy.retry.as_ref());
        if retry.is_some_and(|retry| retry.attempts < 0) {
            issues.push(FieldIssue::new(
                "spec.trafficPolicy.retry.attempts",
                "must not be negative",
            ));
        }
        issues
    }

    /// Every field that does nothing yet, or not what it seems.
    pub fn warnings(&self) -> Vec<FieldIssue> {
        let mut issues = Vec::new();
        if self.spec.workload_selector.pd_group.is_some() {
            issues.push(FieldIssue::new(
                "spec.workloadSelector.pdGroup",
                "prefill and decode are not split yet: the decode pods alone serve, each doing its own prefill",
            ));
        }
        if self.spec.kv_connector.is_some() {
            issues.push(FieldIssue::new(
                "spec.kvConnector",
                "not used yet: no KV blocks are moved between pods",
            ));
        }
        issues
    }
}

fn validate_pd_group(group: &PdGroup, issues: &mut Vec<FieldIssue>) {
    let path = "spec.workloadSelector.pdGroup";
    if !labels::is_key(&group.group_key) {
        issues.push(FieldIssue::new(
            format!("{path}.groupKey"),
            format!("`{}` is not a label key", group.group_key),
        ));
    }
    labels::required(&format!("{path}.prefillLabels"), &group.prefill_labels, issues);
    labels::required(&format!("{path}.decodeLabels"), &group.decode_labels, issues);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn server(change: impl FnOnce(&mut Value)) -> ModelServer {
        let mut spec = json!({
            "inferenceEngine": "vLLM", "workloadSelector": {"matchLabels": {"app": "m"}}, "workloadPort": {"port": 8000},
        });
        change(&mut spec);
        serde_json::from_value(json!({
            "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer",
            "metadata": {"name": "m"}, "spec": spec,
        }))
        .unwrap()
    }

    fn error_paths(change: impl FnOnce(&mut Value)) -> Vec<String> {
        server(change).validate().into_iter().map(|issue| issue.path).collect()
    }

    #[test]
    fn a_plain_server_has_nothing_to_say() {
        let plain = server(|_| {});
        assert_eq!(plain.validate(), []);
        assert_eq!(plain.warnings(), []);
    }

    #[test]
    fn defaults_are_kthenas() {
        let policy = server(|spec| spec["trafficPolicy"] = json!({"timeout": "1m30s", "retry": {"attempts": 3}}));
        let policy = policy.spec.traffic_policy.unwrap();
        assert_eq!(policy.timeout.unwrap().as_millis(), 90_000);
        assert_eq!(policy.retry.unwrap().retry_interval.as_millis(), 100);
        assert_eq!(server(|_| {}).spec.workload_port.protocol, crate::PortProtocol::Http);
        let connector = server(|spec| spec["kvConnector"] = json!({}))
            .spec
            .kv_connector
            .unwrap();
        assert_eq!(connector.kind, crate::KvConnectorType::Http);
    }

    #[test]
    fn every_broken_rule_is_named_with_its_field() {
        assert_eq!(error_paths(|s| s["model"] = json!("x".repeat(257))), ["spec.model"]);
        for port in [0, -1, 65536] {
            assert_eq!(
                error_paths(|s| s["workloadPort"]["port"] = json!(port)),
                ["spec.workloadPort.port"]
            );
        }
        assert_eq!(
            error_paths(|s| s["workloadSelector"] = json!({})),
            ["spec.workloadSelector.matchLabels"]
        );
        assert_eq!(
            error_paths(|s| s["workloadSelector"]["matchLabels"] = json!({"app": "not a value"})),
            ["spec.workloadSelector.matchLabels[app]"]
        );
        assert_eq!(
            error_paths(|s| s["trafficPolicy"] = json!({"retry": {"attempts": -1}})),
            ["spec.trafficPolicy.retry.attempts"]
        );
        assert_eq!(
            error_paths(|s| s["workloadSelector"]["pdGroup"] =
                json!({"groupKey": "", "prefillLabels": {}, "decodeLabels": {"role": "decode"}})),
            [
                "spec.workloadSelector.pdGroup.groupKey",
                "spec.workloadSelector.pdGroup.prefillLabels",
            ]
        );
    }

    #[test]
    fn fields_without_effect_are_named() {
        let split = server(|s| {
            s["kvConnector"] = json!({"type": "nixl"});
            s["workloadSelector"]["pdGroup"] =
                json!({"groupKey": "g", "prefillLabels": {"r": "p"}, "decodeLabels": {"r": "d"}});
        });
        assert_eq!(split.validate(), []);
        let paths: Vec<_> = split.warnings().into_iter().map(|issue| issue.path).collect();
        assert_eq!(paths, ["spec.workloadSelector.pdGroup", "spec.kvConnector"]);
    }
}
