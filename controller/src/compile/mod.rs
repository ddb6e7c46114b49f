//! Objects and observations in, resources for filters and clusters for Envoy out.
//!
//! What must always hold: a function of its arguments: the same objects and facts give the same bytes in the same order.
//! The unit is one resource: a bad object keeps its last good version, or is absent if it never had one, and its status
//! says why; the rest goes on.

mod cluster;
mod compiler;
mod facts;
mod kin;
mod output;
mod pool;
mod profile;
mod route;
mod selectors;
mod server;
mod settings;
mod targets;
#[cfg(test)]
mod tests;
mod versions;

pub use cluster::{Cluster, cluster_name};
pub use compiler::Compiler;
pub use facts::{EndpointKey, Fact, Facts, Touched};
pub use output::{Key, Output, Resource, Resources, ScrapeTarget, by_key};
pub use profile::{InvalidConfiguration, Profiles};
pub use settings::Settings;
