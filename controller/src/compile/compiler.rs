//! The compilation itself, and what it remembers from one to the next.
//!
//! What must always hold: what a change does not touch is not made anew, and the outcome is the same as if it were: a part is used again only where
//! everything that it was made from is the same. Objects are compared by identity; which pods and endpoints changed is told ([`Touched`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::facts::{EndpointKey, Facts};
use super::output::{CompiledResource, Output};
use super::profile::DEFAULT;
use super::server::{CompiledServer, ServerInput};
use super::settings::Settings;
use super::targets::Targets;
use super::versions::{Judgement, Versions};
use super::{Cluster, pool, route, server};
use crate::index::{Index, PodView};
use crate::source::{Kind, ObjectKey};
use crate::status::Status;
use kthena_gateway_api::{ExternalModelProvider, FieldIssue, ModelRoute, ModelServer};
use kthena_scheduler::state::proto::ResourceType;

/// What has changed since the last compilation, of what is not compared.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// Pods as they were before a change, and as they are after it.
    pub pods: Vec<Arc<PodView>>,
    /// Endpoints of which something else is known now.
    pub endpoints: Vec<EndpointKey>,
}

/// Compiles, and keeps the last good version of every object for the day when a bad one comes.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
    routes: Versions<ModelRoute>,
    servers: Versions<ModelServer>,
    providers: Versions<ExternalModelProvider>,
    compiled: BTreeMap<ObjectKey, CompiledServer>,
    resources: BTreeMap<ResourceKey, CompiledResource>,
    clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
    targets: Targets,
    statuses: BTreeMap<ObjectKey, Arc<Status>>,
    pools: Vec<ResourceKey>,
}

/// Type and name, in the order of the output.
type ResourceKey = (i32, Arc<str>);

impl Compiler {
    /// A compiler that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        let default = CompiledResource::new(ResourceType::Profile, DEFAULT, &settings.profiles.default_profile());
        Self {
            settings,
            routes: Versions::default(),
            servers: Versions::default(),
            providers: Versions::default(),
            compiled: BTreeMap::new(),
            resources: BTreeMap::from([(key_of(&default), default)]),
            clusters: BTreeMap::new(),
            targets: Targets::default(),
            statuses: BTreeMap::new(),
            pools: Vec::new(),
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
        let targets_changed = servers.came_or_went || providers.came_or_went;
        self.compile_servers(index, facts, servers.keys, touched);
        if !routes.keys.is_empty() || targets_changed {
            self.compile_routes(index, &routes.keys);
        }
        for key in &providers.keys {
            self.say(key, self.providers.status(key).cloned());
        }
        self.compile_pools(index, facts);
        self.output(index)
    }

    fn compile_servers(&mut self, index: &Index, facts: &Facts, changed: BTreeSet<ObjectKey>, touched: &Touched) {
        let mut stale = changed;
        for (key, server) in self.servers.in_force() {
            let labels = &server.spec.workload_selector.match_labels;
            let selects = |pod: &Arc<PodView>| pod.namespace == key.namespace && pod.has_labels(labels);
            if !stale.contains(key) && touched.pods.iter().any(selects) {
                stale.insert(key.clone());
            }
        }
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
                    self.resources.insert(key_of(resource), resource.clone());
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
            self.resources.remove(&key_of(resource));
        }
        self.clusters.remove(server.cluster.name.as_str());
    }

    /// All of them: what one route gets depends on those that share a name with it.
    fn compile_routes(&mut self, index: &Index, changed: &BTreeSet<ObjectKey>) {
        for key in changed {
            let resource: ResourceKey = (ResourceType::Route as i32, Arc::from(key.full_name()));
            self.resources.remove(&resource);
            if self.routes.get(key).is_none() {
                let status = self.routes.status(key).cloned();
                self.say(key, status);
            }
        }
        let mut ordered: Vec<route::Ordered<'_>> = self
            .routes
            .in_force()
            .filter_map(|(key, object)| {
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
            self.resources.insert(key_of(&resource), resource);
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

    fn compile_pools(&mut self, index: &Index, facts: &Facts) {
        for key in std::mem::take(&mut self.pools) {
            self.resources.remove(&key);
        }
        for (key, entry) in index.pools() {
            let resource = pool::compile(key, &entry.object, index, facts);
            self.pools.push(key_of(&resource));
            self.resources.insert(key_of(&resource), resource);
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
            resources: self.resources.values().cloned().collect(),
            clusters: self.clusters.values().cloned().collect(),
            targets: self.targets.all(),
            statuses: statuses.into_iter().collect(),
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

fn key_of(resource: &CompiledResource) -> ResourceKey {
    (resource.kind as i32, Arc::clone(&resource.name))
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
fn unreadable(index: &Index, mut statuses: BTreeMap<ObjectKey, Arc<Status>>) -> BTreeMap<ObjectKey, Arc<Status>> {
    for problem in index.problems() {
        let Some(key) = problem.key.as_ref().filter(|key| key.kind != Kind::Pod) else {
            continue;
        };
        let status = statuses.entry(key.clone()).or_insert_with(|| {
            Arc::new(Status {
                place: problem.place.clone(),
                ..Status::default()
            })
        });
        let status = Arc::make_mut(status);
        status.accepted = false;
        status.errors.push(FieldIssue::new(
            problem.field.clone(),
            format!("{} ({})", problem.message, problem.place),
        ));
    }
    statuses
}
