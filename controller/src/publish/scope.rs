//! What of everything a subscriber sees: what it asks for, within what its certificate allows.
//!
//! What must always hold: a subscriber never gets a resource, a load or a placement outside of its scope, and what it reports of endpoints outside
//! of it counts nowhere. It fails closed: a client whose names no rule knows sees nothing, and one that asks by name for more than it may is refused.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use kthena_scheduler::state::is_namespace;
use kthena_scheduler::state::proto::{Hello, ResourceType};

use crate::compile::Key;

/// Everything, in a rule.
const ALL: &str = "*";

/// Namespaces: all, or these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// All of them.
    All,
    /// These alone.
    These(BTreeSet<String>),
}

/// What clients of one name may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A DNS or URI name of the client's certificate.
    pub name: String,
    /// What it may see.
    pub namespaces: Namespaces,
}

/// A rule that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write NAME=NAMESPACES: a DNS or URI name of the client's certificate, and namespaces with commas between them, or *"
)]
pub struct RuleError;

/// What a subscriber sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    namespaces: Namespaces,
    /// `namespace/name` of InferencePools; empty = all.
    pools: BTreeSet<String>,
}

// === impl Namespaces ===

impl Namespaces {
    fn admit(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(these) => these.contains(namespace),
        }
    }

    fn and(self, other: &Self) -> Self {
        match (self, other) {
            (Self::These(these), Self::These(others)) => Self::These(these.union(others).cloned().collect()),
            _ => Self::All,
        }
    }
}

impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(ALL),
            Self::These(these) => {
                let these: Vec<&str> = these.iter().map(String::as_str).collect();
                f.write_str(&these.join(","))
            }
        }
    }
}

// === impl Rule ===

impl Rule {
    /// What the rules allow a client of these names; `None` = no rule knows any of them.
    pub(super) fn allowed<'a>(rules: &[Self], names: impl Iterator<Item = &'a str>) -> Option<Namespaces> {
        let mut allowed: Option<Namespaces> = None;
        for name in names {
            for rule in rules.iter().filter(|rule| rule.name == name) {
                allowed = Some(match allowed {
                    Some(before) => before.and(&rule.namespaces),
                    None => rule.namespaces.clone(),
                });
            }
        }
        allowed
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        // A URI may hold the sign, a namespace may not.
        let (name, namespaces) = text.rsplit_once('=').ok_or(RuleError)?;
        let namespaces = match namespaces {
            ALL => Namespaces::All,
            these if these.split(',').all(is_namespace) => {
                Namespaces::These(these.split(',').map(str::to_owned).collect())
            }
            _ => return Err(RuleError),
        };
        match name.is_empty() {
            true => Err(RuleError),
            false => Ok(Self {
                name: name.to_owned(),
                namespaces,
            }),
        }
    }
}

// === impl Scope ===

impl Scope {
    /// What a filter asks for, within what it may see.
    ///
    /// # Errors
    /// It names a namespace that it may not see; the error says which.
    pub(super) fn new(hello: &Hello, allowed: &Namespaces) -> Result<Self, String> {
        let asked = hello.namespaces.iter();
        let pools = hello
            .pools
            .iter()
            .map(|pool| pool.split('/').next().unwrap_or_default());
        if let Some(excess) = asked
            .map(String::as_str)
            .chain(pools)
            .find(|namespace| !allowed.admit(namespace))
        {
            return Err(excess.to_owned());
        }
        Ok(Self {
            namespaces: match hello.namespaces.is_empty() {
                true => allowed.clone(),
                false => Namespaces::These(hello.namespaces.iter().cloned().collect()),
            },
            pools: hello.pools.iter().cloned().collect(),
        })
    }

    /// Whether nothing is outside of it.
    pub(super) fn is_everything(&self) -> bool {
        self.namespaces == Namespaces::All && self.pools.is_empty()
    }

    /// Whether a resource is in it.
    pub(super) fn admits(&self, key: &Key) -> bool {
        self.admits_name(&key.name) || (key.kind == ResourceType::Profile && !key.name.contains('/'))
    }

    /// Whether what has this name is in it: `namespace/name`, or `inference-pool/namespace/name`.
    pub(super) fn admits_name(&self, name: &str) -> bool {
        let mut parts = name.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(_), Some(namespace), Some(pool)) => {
                let named = || self.pools.contains(&format!("{namespace}/{pool}"));
                self.namespaces.admit(namespace) && (self.pools.is_empty() || named())
            }
            (Some(namespace), Some(_), None) => self.namespaces.admit(namespace),
            _ => self.is_everything(),
        }
    }

    /// The namespaces, for people.
    pub(super) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    fn these(names: &[&str]) -> Namespaces {
        Namespaces::These(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn hello(namespaces: &[&str], pools: &[&str]) -> Hello {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Hello {
            namespaces: owned(namespaces),
            pools: owned(pools),
            ..Hello::default()
        }
    }

    #[test]
    fn a_rule_names_a_client_and_its_namespaces() {
        assert_eq!(rule("filter=a,b").namespaces, these(&["a", "b"]));
        assert_eq!(
            rule("spiffe://c.local/ns/a/sa/x?y=z=a").name,
            "spiffe://c.local/ns/a/sa/x?y=z"
        );
        assert_eq!(rule("filter=*").namespaces, Namespaces::All);
        for text in ["filter", "filter=", "=a", "filter=a,,b", "filter=A", "filter=a,*"] {
            assert_eq!(Rule::from_str(text), Err(RuleError), "{text}");
        }
    }

    #[test]
    fn a_client_may_see_what_the_rules_of_all_its_names_allow_together() {
        let rules = [rule("one=a"), rule("two=b"), rule("all=*")];
        let allowed = |names: &[&str]| Rule::allowed(&rules, names.iter().copied());
        assert_eq!(allowed(&["one"]), Some(these(&["a"])));
        assert_eq!(allowed(&["one", "two"]), Some(these(&["a", "b"])));
        assert_eq!(allowed(&["one", "all"]), Some(Namespaces::All));
        assert_eq!(allowed(&["three"]), None);
        assert_eq!(allowed(&[]), None);
    }

    #[test]
    fn asking_for_everything_gets_what_is_allowed_and_asking_for_more_is_refused() {
        let allowed = these(&["a", "b"]);
        let scope = Scope::new(&hello(&[], &[]), &allowed).unwrap();
        assert_eq!(scope.namespaces(), &allowed);
        let scope = Scope::new(&hello(&["b"], &[]), &allowed).unwrap();
        assert_eq!(scope.namespaces(), &these(&["b"]));
        assert_eq!(Scope::new(&hello(&["b", "c"], &[]), &allowed), Err("c".to_owned()));
        assert_eq!(Scope::new(&hello(&[], &["c/p"]), &allowed), Err("c".to_owned()));
    }

    #[test]
    fn a_scope_admits_what_is_in_its_namespaces_and_the_profile_of_all() {
        let of = |kind, name: &str| Key::new(kind, name);
        let scope = Scope::new(&hello(&["a"], &["a/p"]), &Namespaces::All).unwrap();
        for (kind, name, admitted) in [
            (ResourceType::Route, "a/r", true),
            (ResourceType::Route, "b/r", false),
            (ResourceType::Profile, "default", true),
            (ResourceType::Profile, "b/s", false),
            (ResourceType::Endpoints, "inference-pool/a/p", true),
            (ResourceType::Endpoints, "inference-pool/a/q", false),
            (ResourceType::Load, "inference-pool/b/p", false),
            (ResourceType::Server, "inference-pool/x", false),
        ] {
            assert_eq!(scope.admits(&of(kind, name)), admitted, "{name}");
        }
        assert!(Scope::new(&hello(&[], &[]), &Namespaces::All).unwrap().is_everything());
    }
}
