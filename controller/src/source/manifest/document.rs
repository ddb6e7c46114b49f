//! What a document came to.

use kthena_gateway_api::FieldIssue;

use crate::source::object::{Object, ObjectKey};

/// What one object, or one document that is none, came to.
#[derive(Clone, Debug)]
pub(in crate::source) struct Document {
    /// First line, from 1.
    pub(in crate::source) line: u32,
    /// What is in it.
    pub(in crate::source) content: Content,
}

#[derive(Clone, Debug)]
pub(in crate::source) enum Content {
    /// A good object, and what in it is odd but harmless.
    Object(Object, Vec<FieldIssue>),
    /// An object that is refused; `None` where not even its name could be read.
    Refused(Option<ObjectKey>, Vec<Fault>),
    /// Nothing that concerns this controller, and why.
    LeftAside(String),
}

impl Document {
    /// A file that cannot be read at all.
    pub(in crate::source) fn unreadable(message: String) -> Self {
        Self::refused(1, 1, message)
    }

    /// One in which not even an object's name can be read.
    pub(super) fn refused(line: u32, fault_at: u32, message: String) -> Self {
        let fault = Fault {
            line: fault_at,
            field: String::new(),
            message,
        };
        Self {
            line,
            content: Content::Refused(None, vec![fault]),
        }
    }
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::source) struct Fault {
    /// Line in the file, from 1.
    pub(in crate::source) line: u32,
    /// Path of the field; empty = the document.
    pub(in crate::source) field: String,
    pub(in crate::source) message: String,
}
