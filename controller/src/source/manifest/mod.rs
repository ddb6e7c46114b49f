//! The text of a manifest file: documents, and the objects in them.
//!
//! What must always hold: each document is read on its own, so a bad one takes nothing else down; what is wrong is said
//! with its line and field; no text makes it panic. Pure: files are read elsewhere.

mod document;
mod lines;
mod parse;
mod split;
mod unknown;

pub(super) use document::{Content, Document};

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
            for chunk in split::documents(text) {
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
        documents.push(Document::refused(line, line, message));
    }
    documents
}

#[cfg(test)]
mod tests;
