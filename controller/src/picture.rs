//! What the debug pages and the status show: the outcome of the last compilation, never changed once made.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use kthena_gateway_api::{ExternalModelProvider, ModelRoute, ModelServer};
use kthena_scheduler::state::proto::ResourceType;

use crate::compile::{EndpointKey, Output, Resources, ScrapeTarget};
use crate::envoy::Clusters;
use crate::index::{Entry, Index};
use crate::source::{ObjectKey, Problem};
use crate::status::{Status, View};

/// The controller's view of the world at one moment. It shares what is the same with the one before it.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Every ModelRoute.
    pub routes: OrdMap<ObjectKey, Entry<ModelRoute>>,
    /// Every ModelServer.
    pub servers: OrdMap<ObjectKey, Entry<ModelServer>>,
    /// Every ExternalModelProvider.
    pub providers: OrdMap<ObjectKey, Entry<ExternalModelProvider>>,
    /// What the filters are to have; they may have an older version yet.
    pub resources: Resources,
    /// Envoy's clusters.
    pub clusters: Clusters,
    /// The endpoints.
    pub targets: OrdMap<EndpointKey, Arc<ScrapeTarget>>,
    /// What is to be said of each object.
    pub statuses: OrdMap<ObjectKey, Arc<Status>>,
    /// What cannot be read.
    pub problems: Vec<Problem>,
}

/// How many there are of what a picture shows, brought from one picture to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Resources by type.
    pub resources: BTreeMap<ResourceType, i64>,
    /// Objects that are not accepted.
    pub refused: i64,
}

// === impl Picture ===

impl Picture {
    /// The objects of an index, and what was compiled of them.
    pub fn new(index: &Index, output: Output) -> Self {
        Self {
            routes: index.routes().clone(),
            servers: index.servers().clone(),
            providers: index.providers().clone(),
            resources: output.resources,
            clusters: output.clusters,
            targets: output.targets,
            statuses: output.statuses,
            problems: index.problems().to_vec(),
        }
    }

    /// What it says of objects and documents.
    pub fn view(&self) -> View<'_> {
        View {
            statuses: &self.statuses,
            problems: &self.problems,
        }
    }

    /// How many documents without a name cannot be read. A problem that names its object is in that object's status.
    pub fn nameless(&self) -> usize {
        let nameless = |problem: &&Problem| problem.key.is_none() && !problem.harmless;
        self.problems.iter().filter(nameless).count()
    }
}

// === impl Tally ===

impl Tally {
    /// Counts what has changed between two pictures.
    pub fn follow(&mut self, before: &Picture, after: &Picture) {
        for difference in before.resources.diff(&after.resources) {
            match difference {
                DiffItem::Add(key, _) => *self.resources.entry(key.kind).or_default() += 1,
                DiffItem::Remove(key, _) => *self.resources.entry(key.kind).or_default() -= 1,
                DiffItem::Update { .. } => {}
            }
        }
        let refused = |status: &Status| i64::from(!status.accepted);
        for difference in before.statuses.diff(&after.statuses) {
            self.refused += match difference {
                DiffItem::Add(_, status) => refused(status),
                DiffItem::Remove(_, status) => -refused(status),
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => refused(new) - refused(old),
            };
        }
    }
}
