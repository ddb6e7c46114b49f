//! Judging objects: what a schema says and what it cannot.
//!
//! Two judgements. `validate` names every rule that an object breaks: ranges and lengths of the schema (an object from a
//! folder has met no API server), Kthena's CEL rules and those of its admission webhook. `warnings` names every field that
//! is accepted but does nothing here yet, or not what its author may think. What must always hold: pure; every remark
//! carries a path; an object without remarks can be compiled without an error. The rule that `modelName` never changes is
//! left to the API server: a file has no earlier version that outlives a restart.

mod bounds;
mod labels;
mod metadata;
mod parent;
mod pool;
mod provider;
mod route;
mod server;

pub use metadata::metadata;

/// Characters of the model name that a backend is asked for, ModelServer and external provider alike.
const MAX_MODEL_CHARS: usize = 256;
