//! What Envoy is told, as files: one cluster per ModelServer and port, and the endpoints of each.
//!
//! What must always hold: an endpoint enters Envoy before decisions name it, and leaves decisions before it leaves Envoy
//! (`rollout`); a file is replaced whole or not at all, and a cluster's endpoints are there before the cluster is
//! (`files`). It fails by keeping the files as they are: what Envoy has stays in force, and the write is tried again with
//! the next change.

mod files;
mod json;
mod rollout;

pub use files::Files;
pub use rollout::{Clusters, Rollout, Settings};
