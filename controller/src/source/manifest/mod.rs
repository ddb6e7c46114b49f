//! The text of a manifest file: documents, and the objects in them.
//!
//! What must always hold: each document is read on its own, so a bad one takes nothing else down; what is wrong is said
//! with its line and field; no text makes it panic. Pure: files are read elsewhere.

mod documents;
mod lines;
mod parse;
mod unknown;

use kthena_gateway_api::FieldIssue;

use super::{Object, ObjectKey};

/// What one object, or one document that is none, came to.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// First line, from 1.
    pub(super) line: u32,
    /// What is in it.
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A good object, and what in it is odd but harmless.
    Object(Object, Vec<FieldIssue>),
    /// An object that is refused; `None` where not even its name could be read.
    Refused(Option<ObjectKey>, Vec<Fault>),
    /// Nothing that concerns this controller, and why.
    LeftAside(String),
}

impl Document {
    /// A file that cannot be read at all.
    pub(super) fn unreadable(message: String) -> Self {
        Self::refused(1, message)
    }

    fn refused(line: u32, message: String) -> Self {
        let fault = Fault {
            line,
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
pub(super) struct Fault {
    /// Line in the file, from 1.
    pub(super) line: u32,
    /// Path of the field; empty = the document.
    pub(super) field: String,
    pub(super) message: String,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    Yaml,
    Json,
}

/// Reads a file's text. At most `max` objects; what follows is one refused document that says so.
pub(super) fn read(text: &str, syntax: Syntax, max: usize) -> Vec<Document> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    match syntax {
        Syntax::Yaml => {
            for chunk in documents::split(text) {
                parse::yaml(&chunk, &mut documents);
                if documents.len() > max {
                    break;
                }
            }
        }
        Syntax::Json => parse::json(text, &mut documents),
    }
    if let Some(line) = documents.get(max).map(|document| document.line) {
        documents.truncate(max);
        let message = format!("the limit of {max} documents is reached: what follows is not read");
        documents.push(Document::refused(line, message));
    }
    documents
}

#[cfg(test)]
mod tests;
