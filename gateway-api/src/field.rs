//! A remark on one field of an object: what is wrong with it, or what it does not do.

use std::fmt;

/// A field and what is to be said of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldIssue {
    /// Path from the object's root, `spec.rules[0].targetModels`.
    pub path: String,
    /// A sentence without the path.
    pub message: String,
}

impl FieldIssue {
    /// A remark on the field at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}
