//! ModelRoute: which backend serves a request, by model name, headers, path and weight.
//!
//! What must always hold: routes of one name are tried in rank order and rules in the order written; the first rule whose
//! conditions all hold decides; a route none of whose rules matches leaves the request to the next route. Adapters count
//! only where no route has the name as its model. The draw between weighted targets is an argument, so that the same
//! request falls the same way in every replica. It fails by finding nothing; a malformed route is refused when it is
//! compiled, never met here.

mod string_match;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub use string_match::{InvalidRegex, StringMatch};

/// A compiled ModelRoute.
#[derive(Debug)]
pub struct ModelRoute {
    /// `namespace/name`.
    pub name: Box<str>,
    /// The model name clients ask for.
    pub model_name: Option<Box<str>>,
    /// LoRA adapters clients may ask for instead.
    pub lora_adapters: Vec<Box<str>>,
    /// In the order written.
    pub rules: Vec<Rule>,
    /// Rank among all routes: lower is tried first.
    pub rank: u64,
}

/// One rule: conditions that must all hold, and where the request then goes.
#[derive(Debug)]
pub struct Rule {
    /// Name given by the user, possibly empty.
    pub name: Box<str>,
    /// Header name in lower case and what its first value must be; a missing header has the value "".
    pub headers: Vec<(Box<str>, StringMatch)>,
    /// What the path (without query) must be.
    pub uri: Option<StringMatch>,
    /// What the body's `model` must be.
    pub body_model: Option<Box<str>>,
    /// Where to, by weight.
    pub targets: Targets,
}

/// Where a rule sends a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A ModelServer, `namespace/name`.
    ModelServer(Box<str>),
    /// An external provider, `namespace/name`.
    ExternalProvider(Box<str>),
}

/// Weighted backends whose weights sum to more than zero.
#[derive(Debug)]
pub struct Targets {
    entries: Vec<(Backend, u32)>,
    total: u64,
}

/// What a rule can ask about a request.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    /// The body's `model`.
    pub model: &'a str,
    /// The path without query.
    pub path: &'a str,
    /// First value of a header by its lower-case name.
    pub header: &'a dyn Fn(&str) -> Option<&'a str>,
}

/// The route that took a request.
#[derive(Clone, Debug)]
pub struct Match<'a> {
    /// The route.
    pub route: &'a Arc<ModelRoute>,
    /// The drawn target.
    pub backend: &'a Backend,
    /// The request named an adapter: its `model` is left as it is.
    pub by_adapter: bool,
}

/// All routes, indexed by the names that clients may choose.
#[derive(Debug, Default)]
pub struct RouteTable {
    // Keys come from clients at look-up, so these keep the standard, keyed hash.
    by_model: HashMap<Box<str>, Vec<Arc<ModelRoute>>>,
    by_adapter: HashMap<Box<str>, Vec<Arc<ModelRoute>>>,
    names: Vec<Box<str>>,
}

// === impl Targets ===

impl Targets {
    /// `None` when the weights sum to zero.
    pub fn new(entries: Vec<(Backend, u32)>) -> Option<Self> {
        let total = entries.iter().map(|(_, weight)| u64::from(*weight)).sum();
        (total > 0).then_some(Self { entries, total })
    }

    /// The target that a uniform random number falls on.
    pub fn draw(&self, random: u64) -> &Backend {
        // Multiply-shift maps the whole range of `random` onto the weights without the bias of a remainder.
        let mut point = ((u128::from(random) * u128::from(self.total)) >> 64) as u64;
        for (backend, weight) in &self.entries {
            match point.checked_sub(u64::from(*weight)) {
                Some(rest) => point = rest,
                None => return backend,
            }
        }
        &self.entries[0].0
    }

    /// All targets.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.entries.iter().map(|(backend, _)| backend)
    }
}

// === impl Rule ===

impl Rule {
    /// Whether every condition holds.
    pub fn matches(&self, request: &Attributes<'_>) -> bool {
        self.body_model.as_deref().is_none_or(|model| model == request.model)
            && self.uri.as_ref().is_none_or(|uri| uri.matches(request.path))
            && self
                .headers
                .iter()
                .all(|(name, expected)| expected.matches((request.header)(name).unwrap_or("")))
    }

    /// Whether it takes every request of its route, so that no later rule or route is reached.
    pub fn is_catch_all(&self) -> bool {
        self.headers.is_empty() && self.uri.is_none() && self.body_model.is_none()
    }
}

// === impl RouteTable ===

impl RouteTable {
    /// Indexes the routes; their order is their rank, then their name.
    pub fn new(mut routes: Vec<Arc<ModelRoute>>) -> Self {
        routes.sort_by(|a, b| (a.rank, &a.name).cmp(&(b.rank, &b.name)));
        let mut table = Self::default();
        let mut names = BTreeSet::new();
        for route in &routes {
            if let Some(model) = &route.model_name {
                table.by_model.entry(model.clone()).or_default().push(Arc::clone(route));
                names.insert(model.clone());
            }
            for adapter in &route.lora_adapters {
                table
                    .by_adapter
                    .entry(adapter.clone())
                    .or_default()
                    .push(Arc::clone(route));
                names.insert(adapter.clone());
            }
        }
        table.names = names.into_iter().collect();
        table
    }

    /// The backend for a request; `random` is uniform and decides between weighted targets.
    pub fn find(&self, request: &Attributes<'_>, random: u64) -> Option<Match<'_>> {
        let (routes, by_adapter) = match self.by_model.get(request.model) {
            Some(routes) => (routes, false),
            None => (self.by_adapter.get(request.model)?, true),
        };
        routes.iter().find_map(|route| {
            let rule = route.rules.iter().find(|rule| rule.matches(request))?;
            Some(Match {
                route,
                backend: rule.targets.draw(random),
                by_adapter,
            })
        })
    }

    /// Whether any route has this model or adapter name.
    pub fn knows(&self, model: &str) -> bool {
        self.by_model.contains_key(model) || self.by_adapter.contains_key(model)
    }

    /// Every model and adapter name, sorted.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Every route, in no particular order of names but by rank within a name.
    pub fn routes(&self) -> Vec<&Arc<ModelRoute>> {
        let mut all: Vec<_> = self
            .by_model
            .values()
            .chain(self.by_adapter.values())
            .flatten()
            .collect();
        all.sort_by(|a, b| (a.rank, &a.name).cmp(&(b.rank, &b.name)));
        all.dedup_by(|a, b| a.name == b.name);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> Backend {
        Backend::ModelServer(name.into())
    }

    fn rule(target: &str) -> Rule {
        Rule {
            name: "".into(),
            headers: vec![],
            uri: None,
            body_model: None,
            targets: Targets::new(vec![(server(target), 100)]).unwrap(),
        }
    }

    fn route(name: &str, model: Option<&str>, adapters: &[&str], rank: u64, rules: Vec<Rule>) -> Arc<ModelRoute> {
        Arc::new(ModelRoute {
            name: name.into(),
            model_name: model.map(Into::into),
            lora_adapters: adapters.iter().map(|a| (*a).into()).collect(),
            rules,
            rank,
        })
    }

    fn find<'t>(table: &'t RouteTable, model: &str, header: Option<(&str, &str)>, path: &str) -> Option<&'t Backend> {
        let lookup = |name: &str| header.filter(|(n, _)| *n == name).map(|(_, value)| value);
        table
            .find(
                &Attributes {
                    model,
                    path,
                    header: &lookup,
                },
                0,
            )
            .map(|m| m.backend)
    }

    #[test]
    fn the_first_rule_that_holds_decides() {
        let mut premium = rule("a/7b");
        premium.headers = vec![("user-type".into(), StringMatch::exact("premium"))];
        let table = RouteTable::new(vec![route("a/r", Some("m"), &[], 0, vec![premium, rule("a/1b")])]);
        assert_eq!(
            find(&table, "m", Some(("user-type", "premium")), "/"),
            Some(&server("a/7b"))
        );
        for other in [None, Some(("user-type", "")), Some(("user-type", "free"))] {
            assert_eq!(find(&table, "m", other, "/"), Some(&server("a/1b")));
        }
        assert_eq!(find(&table, "unknown", None, "/"), None);
    }

    #[test]
    fn a_route_without_a_match_leaves_the_request_to_the_next_of_its_name() {
        let mut chat_only = rule("a/chat");
        chat_only.uri = Some(StringMatch::prefix("/v1/chat"));
        let table = RouteTable::new(vec![
            route("a/newer", Some("m"), &[], 2, vec![rule("a/any")]),
            route("a/older", Some("m"), &[], 1, vec![chat_only]),
        ]);
        assert_eq!(find(&table, "m", None, "/v1/chat/completions"), Some(&server("a/chat")));
        assert_eq!(find(&table, "m", None, "/v1/embeddings"), Some(&server("a/any")));
    }

    #[test]
    fn adapters_count_only_where_no_route_has_the_name() {
        let table = RouteTable::new(vec![
            route("a/adapters", None, &["x", "y"], 0, vec![rule("a/base")]),
            route("a/model", Some("x"), &[], 1, vec![rule("a/own")]),
        ]);
        assert_eq!(find(&table, "x", None, "/"), Some(&server("a/own")));
        assert_eq!(find(&table, "y", None, "/"), Some(&server("a/base")));
        let none = |_: &str| None;
        assert!(
            table
                .find(
                    &Attributes {
                        model: "y",
                        path: "/",
                        header: &none
                    },
                    0
                )
                .unwrap()
                .by_adapter
        );
        assert_eq!(table.names(), [Box::from("x"), Box::from("y")]);
    }

    #[test]
    fn weights_are_relative_and_zero_gets_nothing() {
        let targets = Targets::new(vec![(server("a"), 50), (server("b"), 0), (server("c"), 30)]).unwrap();
        let mut seen = HashMap::new();
        let steps = 8_000u64;
        for i in 0..steps {
            *seen
                .entry(format!("{:?}", targets.draw(u64::MAX / steps * i)))
                .or_insert(0u32) += 1;
        }
        let share = |name: &str| f64::from(seen.get(&format!("{:?}", server(name))).copied().unwrap_or(0)) / 8_000.0;
        assert!(
            (share("a") - 0.625).abs() < 0.001 && (share("c") - 0.375).abs() < 0.001,
            "{seen:?}"
        );
        assert_eq!(share("b"), 0.0);
        assert!(Targets::new(vec![(server("a"), 0)]).is_none());
    }
}
