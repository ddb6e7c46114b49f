//! ModelRoutes: their order, what it leaves unreachable, and the resource that filters receive.

use std::collections::BTreeMap;
use std::sync::Arc;

use kthena_gateway_api::{FieldIssue, ModelMatch, ModelRoute, RouteRule, StringMatch, TargetModel};
use kthena_scheduler::state::proto::{self, ResourceType};

use super::output::{Key, Resource};
use crate::index::Index;
use crate::source::{Kind, ObjectKey, OrderKey};

/// A route with what decides its place.
pub(super) struct Ordered<'a> {
    pub(super) order: &'a OrderKey,
    pub(super) key: &'a ObjectKey,
    pub(super) object: &'a Arc<ModelRoute>,
}

impl Ordered<'_> {
    fn model_name(&self) -> Option<&str> {
        model_name(self.object)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        names(self.object)
    }

    fn catch_all(&self) -> Option<usize> {
        self.object.spec.rules.iter().position(RouteRule::is_catch_all)
    }
}

fn model_name(route: &ModelRoute) -> Option<&str> {
    route.spec.model_name.as_deref().filter(|name| !name.is_empty())
}

/// The names that a route serves: its model's and its adapters'.
pub(super) fn names(route: &ModelRoute) -> impl Iterator<Item = &str> {
    let adapters = route.spec.lora_adapters.iter().map(String::as_str);
    model_name(route).into_iter().chain(adapters)
}

/// Where a route of this namespace sends requests, whether or not there is such an object.
pub(super) fn backends(namespace: &str, route: &ModelRoute) -> impl Iterator<Item = ObjectKey> {
    let targets = route.spec.rules.iter().flat_map(|rule| &rule.target_models);
    targets.filter_map(backend).map(move |(backend, _)| match backend {
        Backend::Server(name) => ObjectKey::new(Kind::ModelServer, namespace, name),
        Backend::Provider(name) => ObjectKey::new(Kind::ExternalModelProvider, namespace, name),
    })
}

/// The rank of each of the routes, which come in order. Only routes that share a name are compared, so a rank counts those
/// before it with which it shares one (directly or through others): a new route leaves the ranks of unrelated ones, and
/// with them their bytes, as they were.
pub(super) fn ranks(ordered: &[Ordered<'_>]) -> Vec<u64> {
    let mut next: BTreeMap<&str, u64> = BTreeMap::new();
    ordered
        .iter()
        .map(|route| {
            let rank = route
                .names()
                .filter_map(|name| next.get(name))
                .max()
                .copied()
                .unwrap_or(0);
            for name in route.names() {
                next.insert(name, rank + 1);
            }
            rank
        })
        .collect()
}

/// What no request reaches, of each of the routes, which come in order.
pub(super) fn unreachable(ordered: &[Ordered<'_>]) -> Vec<Vec<FieldIssue>> {
    let mut models: BTreeMap<&str, &ObjectKey> = BTreeMap::new();
    for route in ordered {
        if let Some(name) = route.model_name() {
            models.entry(name).or_insert(route.key);
        }
    }
    // Name -> the first route that takes every request for it.
    let mut taken_models: BTreeMap<&str, &ObjectKey> = BTreeMap::new();
    let mut taken_adapters: BTreeMap<&str, &ObjectKey> = BTreeMap::new();
    ordered
        .iter()
        .map(|route| {
            let mut issues = Vec::new();
            let takes_all = route.catch_all().is_some();
            if let Some(name) = route.model_name() {
                if let Some(first) = taken_models.get(name) {
                    issues.push(shadowed("spec.modelName", name, first));
                } else if takes_all {
                    taken_models.insert(name, route.key);
                }
            }
            for (i, name) in route.object.spec.lora_adapters.iter().enumerate() {
                let path = format!("spec.loraAdapters[{i}]");
                if let Some(owner) = models.get(name.as_str()) {
                    issues.push(FieldIssue::new(
                        path,
                        format!("unreachable: `{name}` is the modelName of {owner}, and adapters count only where no route has the name"),
                    ));
                } else if let Some(first) = taken_adapters.get(name.as_str()) {
                    if *first != route.key {
                        issues.push(shadowed(&path, name, first));
                    }
                } else if takes_all {
                    taken_adapters.insert(name, route.key);
                }
            }
            if let Some(last) = route.catch_all() {
                for i in last + 1..route.object.spec.rules.len() {
                    issues.push(FieldIssue::new(
                        format!("spec.rules[{i}]"),
                        format!("unreachable: rules[{last}] before it takes every request"),
                    ));
                }
            }
            issues
        })
        .collect()
}

fn shadowed(path: &str, name: &str, first: &ObjectKey) -> FieldIssue {
    FieldIssue::new(
        path,
        format!("unreachable: {first}, which is tried first, takes every request for `{name}`"),
    )
}

/// Targets that do not exist.
pub(super) fn unresolved(route: &Ordered<'_>, index: &Index) -> Vec<FieldIssue> {
    let namespace = &route.key.namespace;
    let mut issues = Vec::new();
    for (i, rule) in route.object.spec.rules.iter().enumerate() {
        for (j, target) in rule.target_models.iter().enumerate() {
            let path = format!("spec.rules[{i}].targetModels[{j}]");
            match backend(target) {
                Some((Backend::Server(name), _)) if !index.has_server(namespace, name) => issues.push(FieldIssue::new(
                    format!("{path}.modelServerName"),
                    format!("there is no ModelServer {namespace}/{name}"),
                )),
                Some((Backend::Provider(name), _)) if !index.has_provider(namespace, name) => {
                    issues.push(FieldIssue::new(
                        format!("{path}.externalModelProviderName"),
                        format!("there is no ExternalModelProvider {namespace}/{name}"),
                    ));
                }
                _ => {}
            }
        }
    }
    issues
}

/// The resource of a route that has been judged good.
pub(super) fn compile(route: &Ordered<'_>, rank: u64) -> Resource {
    let name = route.key.full_name();
    let spec = &route.object.spec;
    let message = proto::ModelRoute {
        name: name.clone(),
        model_name: route.model_name().unwrap_or_default().to_owned(),
        lora_adapters: spec.lora_adapters.clone(),
        rules: spec
            .rules
            .iter()
            .map(|rule| compile_rule(&route.key.namespace, rule))
            .collect(),
        rank,
    };
    Resource::encode(Key::new(ResourceType::Route, name), &message)
}

fn compile_rule(namespace: &str, rule: &RouteRule) -> proto::Rule {
    let empty = ModelMatch::default();
    let conditions = rule.model_match.as_ref().unwrap_or(&empty);
    // Sorted by name as written, so two spellings of one header keep a fixed order; both must hold.
    let headers = conditions
        .headers
        .iter()
        .filter_map(|(name, expected)| {
            Some(proto::HeaderMatch {
                name: name.to_ascii_lowercase(),
                r#match: Some(compile_match(expected)?),
            })
        })
        .collect();
    proto::Rule {
        name: rule.name.clone(),
        headers,
        uri: conditions.uri.as_ref().and_then(compile_match),
        body_model: conditions.body.as_ref().and_then(|body| body.model.clone()),
        targets: rule
            .target_models
            .iter()
            .filter_map(|target| compile_target(namespace, target))
            .collect(),
    }
}

/// `None` where nothing is compared: such a condition always holds.
fn compile_match(expected: &StringMatch) -> Option<proto::StringMatch> {
    use proto::string_match::Match;
    let kind = match expected {
        StringMatch { exact: Some(exact), .. } => Match::Exact(exact.clone()),
        StringMatch {
            prefix: Some(prefix), ..
        } => Match::Prefix(prefix.clone()),
        StringMatch { regex: Some(regex), .. } => Match::Regex(regex.clone()),
        _ => return None,
    };
    Some(proto::StringMatch { r#match: Some(kind) })
}

fn compile_target(namespace: &str, target: &TargetModel) -> Option<proto::Target> {
    let (backend, weight) = backend(target)?;
    let backend = match backend {
        Backend::Server(name) => proto::target::Backend::ModelServer(format!("{namespace}/{name}")),
        Backend::Provider(name) => proto::target::Backend::ExternalProvider(format!("{namespace}/{name}")),
    };
    Some(proto::Target {
        backend: Some(backend),
        weight,
    })
}

fn set(name: &Option<String>) -> Option<&str> {
    name.as_deref().filter(|name| !name.is_empty())
}

enum Backend<'a> {
    Server(&'a str),
    Provider(&'a str),
}

fn backend(target: &TargetModel) -> Option<(Backend<'_>, u32)> {
    let backend = match (
        set(&target.model_server_name),
        set(&target.external_model_provider_name),
    ) {
        (Some(name), _) => Backend::Server(name),
        (None, Some(name)) => Backend::Provider(name),
        (None, None) => return None,
    };
    Some((backend, target.weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Object;
    use crate::source::fixtures;
    use serde_json::{Value, json};

    fn routes(specs: Vec<(&str, Value)>) -> Vec<(OrderKey, ObjectKey, Arc<ModelRoute>)> {
        specs
            .into_iter()
            .enumerate()
            .map(|(at, (name, spec))| {
                let object = fixtures::route(name, spec);
                let key = object.key();
                let Object::ModelRoute(route) = object else {
                    unreachable!()
                };
                (OrderKey::Place("f.yaml".into(), u32::try_from(at).unwrap()), key, route)
            })
            .collect()
    }

    fn ordered(routes: &[(OrderKey, ObjectKey, Arc<ModelRoute>)]) -> Vec<Ordered<'_>> {
        routes
            .iter()
            .map(|(order, key, object)| Ordered { order, key, object })
            .collect()
    }

    fn said(specs: Vec<(&str, Value)>) -> Vec<Vec<String>> {
        unreachable(&ordered(&routes(specs)))
            .into_iter()
            .map(|issues| issues.into_iter().map(|issue| issue.to_string()).collect())
            .collect()
    }

    fn all() -> Value {
        json!([{"targetModels": [{"modelServerName": "m"}]}])
    }

    fn some() -> Value {
        json!([{"modelMatch": {"uri": {"prefix": "/v1/chat"}}, "targetModels": [{"modelServerName": "m"}]}])
    }

    #[test]
    fn a_rank_counts_the_routes_before_it_that_share_a_name() {
        let routes = routes(vec![
            ("a", json!({"modelName": "x", "rules": all()})),
            ("b", json!({"modelName": "y", "rules": all()})),
            ("c", json!({"modelName": "x", "loraAdapters": ["z"], "rules": all()})),
            ("d", json!({"loraAdapters": ["z", "y"], "rules": all()})),
        ]);
        assert_eq!(ranks(&ordered(&routes)), [0, 0, 1, 2]);
    }

    #[test]
    fn a_route_behind_a_catch_all_is_told_so() {
        let said = said(vec![
            ("partial", json!({"modelName": "x", "rules": some()})),
            ("all", json!({"modelName": "x", "rules": all()})),
            ("late", json!({"modelName": "x", "rules": some()})),
            ("free", json!({"modelName": "y", "rules": some()})),
        ]);
        assert!(
            said[0].is_empty() && said[1].is_empty() && said[3].is_empty(),
            "{said:?}"
        );
        assert_eq!(
            said[2],
            ["spec.modelName: unreachable: ModelRoute default/all, which is tried first, takes every request for `x`"]
        );
    }

    #[test]
    fn adapters_behind_a_model_or_a_catch_all_are_told_so() {
        let said = said(vec![
            ("adapters", json!({"loraAdapters": ["x", "z"], "rules": all()})),
            ("more", json!({"loraAdapters": ["z"], "rules": all()})),
            ("model", json!({"modelName": "x", "rules": some()})),
        ]);
        assert!(
            said[0].len() == 1
                && said[0][0]
                    .starts_with("spec.loraAdapters[0]: unreachable: `x` is the modelName of ModelRoute default/model")
        );
        assert!(said[1][0].contains("ModelRoute default/adapters"));
        assert!(said[2].is_empty());
    }

    #[test]
    fn rules_behind_a_catch_all_are_told_so() {
        let rules = json!([
            {"modelMatch": {"headers": {}}, "targetModels": [{"modelServerName": "m"}]},
            {"targetModels": [{"modelServerName": "n"}]},
        ]);
        let said = said(vec![("r", json!({"modelName": "x", "rules": rules}))]);
        assert_eq!(
            said[0],
            ["spec.rules[1]: unreachable: rules[0] before it takes every request"]
        );
    }
}
