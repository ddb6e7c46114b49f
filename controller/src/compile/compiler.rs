//! The compilation itself, and what it remembers from one to the next.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::last_good::LastGood;
use super::output::{CompiledResource, Output};
use super::profile::DEFAULT;
use super::server::{CompiledServer, ServerInput};
use super::settings::Settings;
use super::{pool, route, server, targets};
use crate::index::Index;
use crate::source::{Kind, ObjectKey};
use crate::status::Status;
use kthena_gateway_api::{FieldIssue, ModelRoute, ModelServer};
use kthena_scheduler::state::proto::ResourceType;

/// Compiles, and keeps the last good version of every object for the day when a bad one comes.
#[derive(Debug)]
pub struct Compiler {
    settings: Settings,
    routes: LastGood<ModelRoute>,
    servers: LastGood<ModelServer>,
}

impl Compiler {
    /// A compiler that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            routes: LastGood::default(),
            servers: LastGood::default(),
        }
    }

    /// What follows from the objects and the facts.
    pub fn compile(&mut self, index: &Index, facts: &Facts) -> Output {
        let mut statuses = BTreeMap::new();
        let mut resources = vec![CompiledResource::new(
            ResourceType::Profile,
            DEFAULT,
            &self.settings.profiles.default_profile(),
        )];
        self.take_in(index, &mut statuses);

        let compiled = self.compile_servers(index, facts, &mut statuses);
        let route_resources = self.compile_routes(index, &mut statuses);
        resources.extend(route_resources);
        resources.extend(
            index
                .pools()
                .map(|(key, entry)| pool::compile(key, &entry.object, index, facts)),
        );
        providers(index, &mut statuses);
        unreadable(index, &mut statuses);

        let targets = targets::merge(&compiled);
        let mut clusters = Vec::with_capacity(compiled.len());
        for server in compiled {
            resources.extend(server.resources);
            clusters.push(server.cluster);
        }
        resources.sort_by(|a, b| (a.kind as i32, &a.name).cmp(&(b.kind as i32, &b.name)));
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        Output {
            resources,
            clusters,
            targets,
            statuses: statuses.into_iter().collect(),
        }
    }

    /// Judges every object: a good one becomes the version in force.
    fn take_in(&mut self, index: &Index, statuses: &mut BTreeMap<ObjectKey, Status>) {
        self.routes.begin(index.routes().map(|(key, _)| key));
        for (key, entry) in index.routes() {
            let errors = entry.object.validate();
            let status = Status::judged(&entry.origin, errors, entry.object.warnings());
            statuses.insert(key.clone(), self.routes.offer(key, &entry.object, status));
        }
        self.servers.begin(index.servers().map(|(key, _)| key));
        for (key, entry) in index.servers() {
            let mut errors = entry.object.validate();
            let mut warnings = entry.object.warnings();
            if let Some(block) = &entry.object.spec.scheduling {
                match self.settings.profiles.of_server(&key.full_name(), block) {
                    Ok((_, remarks)) => warnings.extend(remarks),
                    Err(issue) => errors.push(issue),
                }
            }
            let status = Status::judged(&entry.origin, errors, warnings);
            statuses.insert(key.clone(), self.servers.offer(key, &entry.object, status));
        }
    }

    fn compile_servers(
        &self,
        index: &Index,
        facts: &Facts,
        statuses: &mut BTreeMap<ObjectKey, Status>,
    ) -> Vec<CompiledServer> {
        let mut compiled = Vec::new();
        for (key, object) in self.servers.iter() {
            let input = ServerInput {
                key,
                object,
                index,
                facts,
                settings: &self.settings,
            };
            let server = server::compile(&input);
            if let Some(status) = statuses.get_mut(key) {
                status.endpoints = Some(server.counts);
                status.unresolved.extend(server.unresolved.iter().cloned());
                status.warnings.extend(server.warnings.iter().cloned());
            }
            compiled.push(server);
        }
        compiled
    }

    fn compile_routes(&self, index: &Index, statuses: &mut BTreeMap<ObjectKey, Status>) -> Vec<CompiledResource> {
        let mut ordered: Vec<route::Ordered<'_>> = self
            .routes
            .iter()
            .filter_map(|(key, object)| {
                let order = &index.route(key)?.origin.order;
                Some(route::Ordered { order, key, object })
            })
            .collect();
        ordered.sort_by(|a, b| (a.order, a.key).cmp(&(b.order, b.key)));
        let ranks = route::ranks(&ordered);
        let unreachable = route::unreachable(&ordered);
        let mut resources = Vec::with_capacity(ordered.len());
        for ((route, rank), issues) in ordered.iter().zip(ranks).zip(unreachable) {
            resources.push(route::compile(route, rank));
            if let Some(status) = statuses.get_mut(route.key) {
                status.warnings.extend(issues);
                status.unresolved.extend(route::unresolved(route, index));
            }
        }
        resources
    }
}

fn providers(index: &Index, statuses: &mut BTreeMap<ObjectKey, Status>) {
    for (key, entry) in index.providers() {
        let status = Status::judged(&entry.origin, entry.object.validate(), entry.object.warnings());
        statuses.insert(key.clone(), status);
    }
}

/// A document that cannot be read speaks of its object, which goes on as it was.
fn unreadable(index: &Index, statuses: &mut BTreeMap<ObjectKey, Status>) {
    for problem in index.problems() {
        let Some(key) = problem.key.as_ref().filter(|key| key.kind != Kind::Pod) else {
            continue;
        };
        let status = statuses.entry(key.clone()).or_insert_with(|| Status {
            place: problem.place.clone(),
            ..Status::default()
        });
        status.accepted = false;
        status.errors.push(FieldIssue::new(
            problem.field.clone(),
            format!("{} ({})", problem.message, problem.place),
        ));
    }
}
