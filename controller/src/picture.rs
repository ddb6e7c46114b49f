//! What the debug pages and the status show: the outcome of the last compilation, never changed once made.

use std::sync::Arc;

use kthena_gateway_api::{ExternalModelProvider, ModelRoute, ModelServer};
use kthena_scheduler::state::proto::ResourceType;

use crate::compile::{Cluster, CompiledResource, ScrapeTarget};
use crate::index::Index;
use crate::source::{ObjectKey, Problem};
use crate::status::Status;

/// The controller's view of the world at one moment.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Every ModelRoute, by key.
    pub routes: Vec<(ObjectKey, Arc<ModelRoute>)>,
    /// Every ModelServer, by key.
    pub servers: Vec<(ObjectKey, Arc<ModelServer>)>,
    /// Every ExternalModelProvider, by key.
    pub providers: Vec<(ObjectKey, Arc<ExternalModelProvider>)>,
    /// What the filters are to have, sorted by type and name; they may have an older version yet.
    pub resources: Vec<CompiledResource>,
    /// Envoy's clusters.
    pub clusters: Vec<Arc<Cluster>>,
    /// The endpoints.
    pub targets: Vec<Arc<ScrapeTarget>>,
    /// What is to be said of each object.
    pub statuses: Vec<(ObjectKey, Arc<Status>)>,
    /// What cannot be read.
    pub problems: Vec<Problem>,
}

// === impl Picture ===

impl Picture {
    /// The objects of an index; the rest is empty.
    pub fn of(index: &Index) -> Self {
        Self {
            routes: index
                .routes()
                .iter()
                .map(|(key, entry)| (key.clone(), Arc::clone(&entry.object)))
                .collect(),
            servers: index
                .servers()
                .iter()
                .map(|(key, entry)| (key.clone(), Arc::clone(&entry.object)))
                .collect(),
            providers: index
                .providers()
                .iter()
                .map(|(key, entry)| (key.clone(), Arc::clone(&entry.object)))
                .collect(),
            problems: index.problems().to_vec(),
            ..Self::default()
        }
    }

    /// The version that the filters are to have of a resource.
    pub fn version(&self, kind: ResourceType, name: &str) -> Option<u64> {
        let place = |resource: &CompiledResource| (resource.kind as i32, &*resource.name).cmp(&(kind as i32, name));
        let at = self.resources.binary_search_by(place).ok()?;
        Some(self.resources[at].version)
    }

    /// How many documents cannot be read or are not accepted.
    pub fn bad_documents(&self) -> usize {
        let refused = self.statuses.iter().filter(|(_, status)| !status.accepted).count();
        // A problem that names its object is in that object's status.
        let nameless = self
            .problems
            .iter()
            .filter(|problem| problem.key.is_none() && !problem.harmless);
        refused + nameless.count()
    }
}
