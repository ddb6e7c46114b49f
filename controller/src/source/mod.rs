//! Where objects come from: a folder of manifests, or an API server. Both give the same events.
//!
//! What must always hold: after [`Event::Synced`] everything that existed at the start has been applied; each later event
//! is one change; an object that cannot be read is never deleted on that account, but named in [`Event::Problems`].

#[cfg(test)]
pub(crate) mod fixtures;
pub mod folder;
pub mod kubernetes;
mod manifest;
mod object;

pub use object::{Kind, Object, ObjectKey};

/// A source that runs; dropping it ends it.
#[derive(Debug)]
pub enum Source {
    /// A folder of manifests.
    Folder(folder::FolderSource),
    /// A Kubernetes API server.
    Kubernetes(kubernetes::KubernetesSource),
}

impl Source {
    /// What changed, batch by batch.
    pub fn events(&mut self) -> &mut tokio::sync::mpsc::Receiver<Vec<Event>> {
        match self {
            Self::Folder(source) => &mut source.events,
            Self::Kubernetes(source) => &mut source.events,
        }
    }
}

/// A change.
#[derive(Clone, Debug)]
pub enum Event {
    /// The object is new or different.
    Apply(Object, Origin),
    /// The object is gone.
    Delete(ObjectKey),
    /// Everything that cannot be read now; replaces what was said before. Empty = all is well.
    Problems(Vec<Problem>),
    /// All that existed at the start has been applied.
    Synced,
}

/// Where an object was found, and its rank among objects of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// For people: `routes.yaml:12`, or empty where an API server gave it.
    pub place: String,
    /// Decides which of two routes for one model is tried first.
    pub order: OrderKey,
    /// What was odd but harmless, such as a field that no version of the object has.
    pub warnings: Vec<kthena_gateway_api::FieldIssue>,
}

/// Objects with a creation time come first, oldest first, equal times by namespace and name; then those without, by the
/// path of their file and their place in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OrderKey {
    /// Created at this time, Unix microseconds; namespace and name follow.
    Created(i64, String, String),
    /// Path relative to the folder, and number of the document in the file.
    Place(String, u32),
}

/// Something that could not be read, or was refused by the source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object, where that much could be read.
    pub key: Option<ObjectKey>,
    /// `file:line`.
    pub place: String,
    /// Path of the field, empty where it is not about one field.
    pub field: String,
    /// What is wrong and, where it can be said, what to do.
    pub message: String,
    /// True where the rest of the document counts: something was left aside, not refused.
    pub harmless: bool,
}
