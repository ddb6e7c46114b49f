//! The compilation itself, and what it remembers from one to the next.
//!
//! What must always hold: what a change does not touch is not made anew, and the outcome is the same as if it were: a part is used again only where
//! everything that it was made from is the same. Objects are compared by identity; which pods and endpoints changed is told ([`Touched`]).
//! The time of a compilation grows with what a change touches, not with what there is: no loop here goes over all of anything, and all maps that
//! leave are shared with the next ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::facts::{Facts, Touched};
use super::kin::Kin;
use super::output::{Key, Output, Resource, Resources};
use super::pool::Pools;
use super::profile::DEFAULT;
use super::selectors::Selectors;
use super::server::{CompiledServer, ServerInput};
use super::settings::Settings;
use super::targets::Targets;
use super::versions::{Judgement, Versions};
use super::{Cluster, route, server};
use crate::index::Index;
use crate::source::{Kind, ObjectKey};
use crate::status::Status;
use kthena_gateway_api::{ExternalModelProvider, FieldIssue, ModelRoute, ModelServer};
use kthena_scheduler::state::proto::ResourceType;

/// Compiles, and keeps the last good version of every object for the day when a bad one comes.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
    routes: Versions<ModelRoute>,
    servers: Versions<ModelServer>,
    providers: Versions<ExternalModelProvider>,
    compiled: BTreeMap<ObjectKey, CompiledServer>,
    selectors: Selectors,
    kin: Kin,
    pools: Pools,
    targets: Targets,
    resources: Resources,
    clusters: OrdMap<Arc<str>, Arc<Cluster>>,
    statuses: OrdMap<ObjectKey, Arc<Status>>,
}

impl Compiler {
    /// A compiler that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        let profile = settings.profiles.default_profile();
        let default = Resource::encode(Key::new(ResourceType::Profile, DEFAULT), &profile);
        Self {
            settings,
            routes: Versions::default(),
            servers: Versions::default(),
            providers: Versions::default(),
            compiled: BTreeMap::new(),
            selectors: Selectors::default(),
            kin: Kin::default(),
            pools: Pools::default(),
            targets: Targets::default(),
            resources: Resources::unit(default.key.clone(), default),
            clusters: OrdMap::new(),
            statuses: OrdMap::new(),
        }
    }

    /// What follows from the objects and the facts. What `touched` does not name must be as it was at the last call.
    pub fn compile(&mut self, index: &Index, facts: &Facts, touched: &Touched) -> Output {
        let routes = self.routes.take_in(index.routes(), |_, route| Judgement {
            errors: route.validate(),
            warnings: route.warnings(),
        });
        let settings = &self.settings;
        let servers = self
            .servers
            .take_in(index.servers(), |key, server| judge_server(settings, key, server));
        let providers = self.providers.take_in(index.providers(), |_, provider| Judgement {
            errors: provider.validate(),
            warnings: provider.warnings(),
        });
        self.compile_servers(index, facts, servers.keys, touched);
        let backends = servers.came_or_went.iter().chain(&providers.came_or_went);
        self.compile_routes(index, &routes.keys, backends);
        for key in &providers.keys {
            self.say(key, self.providers.status(key).cloned());
        }
        self.pools.compile(index, facts, touched, &mut self.resources);
        self.output(index)
    }

    fn compile_servers(&mut self, index: &Index, facts: &Facts, changed: BTreeSet<ObjectKey>, touched: &Touched) {
        let mut stale = changed;
        for key in &stale {
            let labels = self
                .servers
                .get(key)
                .map(|server| &server.spec.workload_selector.match_labels);
            self.selectors.set(key, labels);
        }
        stale.extend(touched.pods.iter().flat_map(|pod| self.selectors.of(pod)));
        for endpoint in &touched.endpoints {
            stale.extend(self.targets.servers(endpoint).cloned());
        }
        let mut endpoints = BTreeSet::new();
        for key in stale {
            let before = self.compiled.remove(&key);
            if let Some(before) = &before {
                self.forget(before);
                endpoints.extend(self.targets.remove(&key, before));
            }
            if let Some(object) = self.servers.get(&key) {
                let after = server::compile(&ServerInput {
                    key: &key,
                    object,
                    index,
                    facts,
                    settings: &self.settings,
                });
                for resource in &after.resources {
                    self.resources.insert(resource.key.clone(), resource.clone());
                }
                self.clusters
                    .insert(Arc::from(after.cluster.name.as_str()), Arc::clone(&after.cluster));
                endpoints.extend(self.targets.insert(&key, &after));
                self.compiled.insert(key.clone(), after);
            }
            let status = self.servers.status(&key).cloned();
            let status = status.map(|status| match self.compiled.get(&key) {
                Some(compiled) => with_pods(status, compiled),
                None => status,
            });
            self.say(&key, status);
        }
        self.targets.settle(&endpoints, &self.compiled);
    }

    fn forget(&mut self, server: &CompiledServer) {
        for resource in &server.resources {
            self.resources.remove(&resource.key);
        }
        self.clusters.remove(server.cluster.name.as_str());
    }

    /// Those that changed, and those that are tied to what changed.
    fn compile_routes<'a>(
        &mut self,
        index: &Index,
        changed: &BTreeSet<ObjectKey>,
        backends: impl Iterator<Item = &'a ObjectKey>,
    ) {
        let mut stale: BTreeSet<ObjectKey> = backends.flat_map(|backend| self.kin.to(backend)).cloned().collect();
        for key in changed {
            stale.extend(self.kin.sharing(key).cloned());
            let route = self.routes.get(key);
            self.kin.set(key, route.map(|route| &**route));
            if route.is_some() {
                stale.insert(key.clone());
            } else {
                let resource = Key::new(ResourceType::Route, key.full_name());
                self.resources.remove(&resource);
                let status = self.routes.status(key).cloned();
                self.say(key, status);
            }
        }
        let stale = self.kin.of(stale);
        let mut ordered: Vec<route::Ordered<'_>> = stale
            .iter()
            .filter_map(|key| {
                let object = self.routes.get(key)?;
                let order = &index.route(key)?.origin.order;
                Some(route::Ordered { order, key, object })
            })
            .collect();
        ordered.sort_by(|a, b| (a.order, a.key).cmp(&(b.order, b.key)));
        let ranks = route::ranks(&ordered);
        let unreachable = route::unreachable(&ordered);
        let mut statuses = Vec::with_capacity(ordered.len());
        for ((route, rank), issues) in ordered.iter().zip(ranks).zip(unreachable) {
            let resource = route::compile(route, rank);
            if self.resources.get(&resource.key) != Some(&resource) {
                self.resources.insert(resource.key.clone(), resource);
            }
            if let Some(status) = self.routes.status(route.key) {
                let mut status = status.clone();
                status.warnings.extend(issues);
                status.unresolved.extend(route::unresolved(route, index));
                statuses.push((route.key.clone(), status));
            }
        }
        for (key, status) in statuses {
            self.say(&key, Some(status));
        }
    }

    /// What is to be said of an object; `None` = it is gone.
    fn say(&mut self, key: &ObjectKey, status: Option<Status>) {
        match (status, self.statuses.get(key)) {
            (None, _) => {
                self.statuses.remove(key);
            }
            (Some(status), Some(said)) if **said == status => {}
            (Some(status), _) => {
                self.statuses.insert(key.clone(), Arc::new(status));
            }
        }
    }

    fn output(&self, index: &Index) -> Output {
        let statuses = match index.problems() {
            [] => self.statuses.clone(),
            _ => unreadable(index, self.statuses.clone()),
        };
        Output {
            resources: self.resources.clone(),
            clusters: self.clusters.clone(),
            targets: self.targets.all(),
            statuses,
        }
    }

    /// Drops all that is remembered but the last good versions: the next compilation makes everything anew.
    #[cfg(test)]
    pub(super) fn forget_all(&mut self) {
        let settings = self.settings.clone();
        let fresh = Self::new(settings);
        let old = std::mem::replace(self, fresh);
        self.routes = old.routes.unjudged();
        self.servers = old.servers.unjudged();
        self.providers = old.providers.unjudged();
    }
}

fn judge_server(settings: &Settings, key: &ObjectKey, server: &ModelServer) -> Judgement {
    let mut judgement = Judgement {
        errors: server.validate(),
        warnings: server.warnings(),
    };
    if let Some(block) = &server.spec.scheduling {
        match settings.profiles.of_server(&key.full_name(), block) {
            Ok((_, remarks)) => judgement.warnings.extend(remarks),
            Err(issue) => judgement.errors.push(issue),
        }
    }
    judgement
}

fn with_pods(mut status: Status, compiled: &CompiledServer) -> Status {
    status.endpoints = Some(compiled.counts);
    status.unresolved.extend(compiled.unresolved.iter().cloned());
    status.warnings.extend(compiled.warnings.iter().cloned());
    status
}

/// A document that cannot be read speaks of its object, which goes on as it was.
fn unreadable(index: &Index, mut statuses: OrdMap<ObjectKey, Arc<Status>>) -> OrdMap<ObjectKey, Arc<Status>> {
    for problem in index.problems() {
        let Some(key) = problem.key.as_ref().filter(|key| key.kind != Kind::Pod) else {
            continue;
        };
        let known = statuses.get(key).map(|status| Status::clone(status));
        let mut status = known.unwrap_or_else(|| Status {
            place: problem.place.clone(),
            ..Status::default()
        });
        status.accepted = false;
        status.errors.push(FieldIssue::new(
            problem.field.clone(),
            format!("{} ({})", problem.message, problem.place),
        ));
        statuses.insert(key.clone(), Arc::new(status));
    }
    statuses
}
