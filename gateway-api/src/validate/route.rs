//! Judging a ModelRoute.

use super::{bounds, parent};
use crate::schema::{MAX_ENTRIES, MAX_REGEX_CHARS};
use crate::{FieldIssue, ModelMatch, ModelRoute, RateLimit, RouteRule, StringMatch, TargetModel};

const MAX_ADAPTERS: usize = 10;
const MAX_RULES: usize = 16;
const MAX_TARGETS: usize = 16;
const MAX_WEIGHT: u32 = 100;

impl ModelRoute {
    /// Every rule that it breaks.
    pub fn validate(&self) -> Vec<FieldIssue> {
        let spec = &self.spec;
        let mut issues = super::metadata(&self.metadata);
        if spec.model_name.as_deref().unwrap_or_default().is_empty() && spec.lora_adapters.is_empty() {
            issues.push(FieldIssue::new(
                "spec",
                "at least one of modelName and loraAdapters must be set",
            ));
        }
        bounds::at_most("spec.loraAdapters", spec.lora_adapters.len(), MAX_ADAPTERS, &mut issues);
        for (i, adapter) in spec.lora_adapters.iter().enumerate() {
            if adapter.is_empty() {
                issues.push(FieldIssue::new(
                    format!("spec.loraAdapters[{i}]"),
                    "lora adapter name cannot be an empty string",
                ));
            }
        }
        for (i, reference) in spec.parent_refs.iter().enumerate() {
            parent::reference(&format!("spec.parentRefs[{i}]"), reference, &mut issues);
        }
        bounds::at_most("spec.rules", spec.rules.len(), MAX_RULES, &mut issues);
        for (i, rule) in spec.rules.iter().enumerate() {
            self.validate_rule(&format!("spec.rules[{i}]"), rule, &mut issues);
        }
        if let Some(limit) = &spec.rate_limit {
            validate_limit(limit, &mut issues);
        }
        issues
    }

    fn validate_rule(&self, path: &str, rule: &RouteRule, issues: &mut Vec<FieldIssue>) {
        let targets = format!("{path}.targetModels");
        if rule.target_models.is_empty() {
            issues.push(FieldIssue::new(&targets, "must hold at least one target"));
        } else if rule.target_models.iter().all(|target| target.weight == 0) {
            issues.push(FieldIssue::new(&targets, "the weights must sum to more than zero"));
        }
        bounds::at_most(&targets, rule.target_models.len(), MAX_TARGETS, issues);
        for (i, target) in rule.target_models.iter().enumerate() {
            let path = format!("{targets}[{i}]");
            validate_target(&path, target, issues);
            if target.external() && !self.spec.lora_adapters.is_empty() {
                issues.push(FieldIssue::new(
                    format!("{path}.externalModelProviderName"),
                    "a route with loraAdapters cannot have an external target",
                ));
            }
        }
        if let Some(conditions) = &rule.model_match {
            let headers = format!("{path}.modelMatch.headers");
            bounds::at_most(&headers, conditions.headers.len(), MAX_ENTRIES, issues);
            each_string_match(path, conditions, |path, expected| {
                validate_regex(&path, expected, issues)
            });
        }
    }

    /// Every field that does nothing yet, or not what it seems.
    pub fn warnings(&self) -> Vec<FieldIssue> {
        let spec = &self.spec;
        let mut issues = Vec::new();
        if !spec.parent_refs.is_empty() {
            issues.push(FieldIssue::new(
                "spec.parentRefs",
                "not evaluated yet: the route serves requests of every gateway",
            ));
        }
        if spec.rate_limit.is_some() {
            issues.push(FieldIssue::new(
                "spec.rateLimit",
                "not enforced yet: nothing is limited",
            ));
        }
        if spec.rules.is_empty() {
            issues.push(FieldIssue::new("spec.rules", "holds no rule: the route serves nothing"));
        }
        for (i, rule) in spec.rules.iter().enumerate() {
            let path = format!("spec.rules[{i}]");
            for (j, target) in rule.target_models.iter().enumerate() {
                if target.external() {
                    issues.push(FieldIssue::new(
                        format!("{path}.targetModels[{j}].externalModelProviderName"),
                        "external targets are not served yet: requests that fall on one are answered 503",
                    ));
                }
            }
            if let Some(conditions) = &rule.model_match {
                each_string_match(&path, conditions, |path, expected| {
                    if expected.count() > 1 {
                        issues.push(FieldIssue::new(
                            path,
                            "several comparisons are set: only the first of exact, prefix, regex counts",
                        ));
                    }
                });
            }
        }
        issues
    }
}

impl RouteRule {
    /// Whether it takes every request of its route.
    pub fn is_catch_all(&self) -> bool {
        self.model_match.as_ref().is_none_or(|conditions| {
            conditions.headers.values().all(|expected| expected.count() == 0)
                && conditions.uri.as_ref().is_none_or(|uri| uri.count() == 0)
                && conditions.body.as_ref().is_none_or(|body| body.model.is_none())
        })
    }
}

impl TargetModel {
    fn external(&self) -> bool {
        is_set(self.external_model_provider_name.as_deref())
    }
}

impl StringMatch {
    fn count(&self) -> usize {
        [&self.exact, &self.prefix, &self.regex]
            .into_iter()
            .filter(|value| value.is_some())
            .count()
    }

    fn effective_regex(&self) -> Option<&str> {
        match (&self.exact, &self.prefix) {
            (None, None) => self.regex.as_deref(),
            _ => None,
        }
    }
}

fn validate_target(path: &str, target: &TargetModel, issues: &mut Vec<FieldIssue>) {
    if is_set(target.model_server_name.as_deref()) == target.external() {
        issues.push(FieldIssue::new(
            path,
            "exactly one of modelServerName and externalModelProviderName must be set",
        ));
    }
    if target.weight > MAX_WEIGHT {
        issues.push(FieldIssue::new(
            format!("{path}.weight"),
            format!("{} is out of range: 0 to {MAX_WEIGHT}", target.weight),
        ));
    }
}

fn validate_regex(path: &str, expected: &StringMatch, issues: &mut Vec<FieldIssue>) {
    let path = format!("{path}.regex");
    bounds::chars(
        &path,
        expected.regex.as_deref().unwrap_or_default(),
        MAX_REGEX_CHARS,
        issues,
    );
    if let Some(pattern) = expected.effective_regex()
        && let Err(error) = regex::Regex::new(pattern)
    {
        let reason = last_line(&error.to_string()).to_owned();
        issues.push(FieldIssue::new(path, format!("`{pattern}` does not compile: {reason}")));
    }
}

fn validate_limit(limit: &RateLimit, issues: &mut Vec<FieldIssue>) {
    for (field, tokens) in [
        ("inputTokensPerUnit", limit.input_tokens_per_unit),
        ("outputTokensPerUnit", limit.output_tokens_per_unit),
    ] {
        if tokens == Some(0) {
            issues.push(FieldIssue::new(format!("spec.rateLimit.{field}"), "must be at least 1"));
        }
    }
}

fn each_string_match(path: &str, conditions: &ModelMatch, mut judge: impl FnMut(String, &StringMatch)) {
    for (header, expected) in &conditions.headers {
        judge(format!("{path}.modelMatch.headers[{header}]"), expected);
    }
    if let Some(uri) = &conditions.uri {
        judge(format!("{path}.modelMatch.uri"), uri);
    }
}

fn is_set(name: Option<&str>) -> bool {
    name.is_some_and(|name| !name.is_empty())
}

// The parser draws the pattern with a marker first and gives the reason last.
fn last_line(text: &str) -> &str {
    let line = text.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn route(spec: serde_json::Value) -> ModelRoute {
        serde_json::from_value(json!({
            "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelRoute",
            "metadata": {"name": "r", "namespace": "default"}, "spec": spec,
        }))
        .unwrap()
    }

    fn errors(spec: serde_json::Value) -> Vec<String> {
        route(spec)
            .validate()
            .into_iter()
            .map(|issue| issue.to_string())
            .collect()
    }

    fn one_error(spec: serde_json::Value, path: &str, message: &str) {
        let errors = errors(spec);
        assert!(
            errors.len() == 1 && errors[0].starts_with(&format!("{path}: ")) && errors[0].contains(message),
            "{errors:?}"
        );
    }

    fn rules() -> serde_json::Value {
        json!([{"targetModels": [{"modelServerName": "m"}]}])
    }

    #[test]
    fn a_plain_route_has_nothing_to_say() {
        let plain = route(json!({"modelName": "m", "rules": rules()}));
        assert_eq!(plain.validate(), []);
        assert_eq!(plain.warnings(), []);
        assert_eq!(plain.spec.rules[0].target_models[0].weight, 100);
        assert!(plain.spec.rules[0].is_catch_all());
    }

    #[test]
    fn every_broken_rule_is_named_with_its_field() {
        one_error(json!({"rules": rules()}), "spec", "modelName and loraAdapters");
        one_error(
            json!({"modelName": "", "rules": rules()}),
            "spec",
            "modelName and loraAdapters",
        );
        one_error(
            json!({"loraAdapters": ["a", ""], "rules": rules()}),
            "spec.loraAdapters[1]",
            "empty string",
        );
        let many: Vec<_> = (0..11).map(|i| format!("a{i}")).collect();
        one_error(
            json!({"loraAdapters": many, "rules": rules()}),
            "spec.loraAdapters",
            "at most 10",
        );
        one_error(
            json!({"modelName": "m", "rules": [{"targetModels": []}]}),
            "spec.rules[0].targetModels",
            "one target",
        );
        for target in [
            json!({}),
            json!({"modelServerName": "a", "externalModelProviderName": "b"}),
        ] {
            one_error(
                json!({"modelName": "m", "rules": [{"targetModels": [target]}]}),
                "spec.rules[0].targetModels[0]",
                "exactly one of",
            );
        }
        one_error(
            json!({"modelName": "m", "rules": [{"targetModels": [{"modelServerName": "a", "weight": 101}]}]}),
            "spec.rules[0].targetModels[0].weight",
            "0 to 100",
        );
        one_error(
            json!({"modelName": "m", "rules": [{"targetModels": [{"modelServerName": "a", "weight": 0}]}]}),
            "spec.rules[0].targetModels",
            "more than zero",
        );
        one_error(
            json!({"loraAdapters": ["a"], "rules": [{"targetModels": [{"externalModelProviderName": "p"}]}]}),
            "spec.rules[0].targetModels[0].externalModelProviderName",
            "loraAdapters",
        );
        one_error(
            json!({"modelName": "m", "rateLimit": {"inputTokensPerUnit": 0}, "rules": rules()}),
            "spec.rateLimit.inputTokensPerUnit",
            "at least 1",
        );
    }

    #[test]
    fn a_regex_that_does_not_compile_is_refused_where_it_would_be_used() {
        let with = |expected: serde_json::Value| {
            json!({"modelName": "m", "rules": [{
                "modelMatch": {"headers": {"user": expected}}, "targetModels": [{"modelServerName": "a"}]}]})
        };
        one_error(
            with(json!({"regex": "a("})),
            "spec.rules[0].modelMatch.headers[user].regex",
            "unclosed group",
        );
        assert!(errors(with(json!({"exact": "x", "regex": "a("}))).is_empty());
    }

    #[test]
    fn fields_without_effect_are_named() {
        let empty = route(json!({"modelName": "m", "rules": []}));
        assert_eq!(
            (empty.validate().len(), empty.warnings()[0].path.as_str()),
            (0, "spec.rules")
        );
        let limited = route(json!({
            "modelName": "m", "parentRefs": [{"name": "gw"}], "rateLimit": {"unit": "minute", "inputTokensPerUnit": 5},
            "rules": [{"modelMatch": {"uri": {"exact": "/a", "prefix": "/"}},
                       "targetModels": [{"externalModelProviderName": "p"}]}],
        }));
        assert_eq!(limited.validate(), []);
        let paths: Vec<_> = limited.warnings().into_iter().map(|issue| issue.path).collect();
        assert_eq!(
            paths,
            [
                "spec.parentRefs",
                "spec.rateLimit",
                "spec.rules[0].targetModels[0].externalModelProviderName",
                "spec.rules[0].modelMatch.uri",
            ]
        );
    }
}
