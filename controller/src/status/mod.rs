//! What is said of an object to those who wrote it.
//!
//! What must always hold: a [`Status`] follows from the objects and facts alone; everything in it names a field. A debug
//! page shows all of them, `tell` puts what changes into the log, `conditions` is how an API server
//! keeps it (`writeback` writes it there).

mod conditions;
mod tell;

use kthena_gateway_api::{EndpointCounts, FieldIssue};
use serde::Serialize;

pub use conditions::{Judged, Programmed, conditions};
pub use tell::{Remark, View, changes};

use crate::source::Origin;

/// What is to be said of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Where the object was found.
    pub place: String,
    /// Its newest version is in force; false = its last good version is, or none.
    pub accepted: bool,
    /// A version of it is in force.
    pub serving: bool,
    /// Why it is not accepted: field and reason.
    #[serde(serialize_with = "as_text")]
    pub errors: Vec<FieldIssue>,
    /// What has no effect, or not the one that was meant: field and reason.
    #[serde(serialize_with = "as_text")]
    pub warnings: Vec<FieldIssue>,
    /// What it refers to and is not there: field and reason.
    #[serde(serialize_with = "as_text")]
    pub unresolved: Vec<FieldIssue>,
    /// ModelServer only: its pods, counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointCounts>,
}

impl Status {
    /// What follows from judging the newest version of an object; whether one is in force remains to be said.
    pub fn judged(origin: &Origin, errors: Vec<FieldIssue>, warnings: Vec<FieldIssue>) -> Self {
        Self {
            place: origin.place.clone(),
            accepted: errors.is_empty(),
            serving: false,
            errors,
            warnings: origin.warnings.iter().cloned().chain(warnings).collect(),
            unresolved: Vec::new(),
            endpoints: None,
        }
    }
}

fn as_text<S: serde::Serializer>(issues: &[FieldIssue], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(issues.iter().map(ToString::to_string))
}
