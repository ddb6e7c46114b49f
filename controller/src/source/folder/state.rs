//! What a folder held at the last look, and what changed since.
//!
//! What must always hold: pure; the events lead the index to exactly the good objects of the files; an object whose
//! document cannot be read any more stays as it was, however it became unreadable: by its own fault, or because its whole
//! file is. Of two documents for one object the first by path and place counts, whatever the order in which they came.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::manifest::{self, Content, Document, Syntax};
use crate::source::object::{Object, ObjectKey};
use crate::source::{Event, OrderKey, Origin, Problem};

/// A file as it was found.
#[derive(Clone, Debug)]
pub(super) struct FoundFile {
    /// Relative to the folder, with `/`.
    pub(super) path: String,
    pub(super) content: FoundContent,
}

#[derive(Clone, Debug)]
pub(super) enum FoundContent {
    /// XXH3-64 of the bytes, and the text.
    Text(u64, String),
    /// It cannot be read, and why.
    Unreadable(String),
}

/// What the folder held.
#[derive(Debug)]
pub(super) struct State {
    max_documents: usize,
    files: BTreeMap<String, File>,
    applied: BTreeMap<ObjectKey, Applied>,
    problems: Vec<Problem>,
}

#[derive(Debug)]
struct File {
    hash: Option<u64>,
    documents: Vec<Document>,
}

#[derive(Debug)]
struct Applied {
    path: String,
    origin: Origin,
    object: Object,
}

// === impl State ===

impl State {
    /// A folder not looked at yet, of which at most so many documents are read.
    pub(super) fn new(max_documents: usize) -> Self {
        Self {
            max_documents,
            files: BTreeMap::new(),
            applied: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// What changed, now that these are all the files there are.
    pub(super) fn update(&mut self, found: Vec<FoundFile>) -> Vec<Event> {
        self.take_in(found);
        let claims = self.claims();
        let mut events = Vec::new();
        self.applied.retain(|key, applied| {
            let keep = claims.keep(key, &applied.path);
            if !keep {
                events.push(Event::Delete(key.clone()));
            }
            keep
        });
        for (key, new) in claims.good {
            let same = self
                .applied
                .get(&key)
                .is_some_and(|old| old.object == new.object && old.origin == new.origin);
            if !same {
                events.push(Event::Apply(new.object.clone(), new.origin.clone()));
            }
            self.applied.insert(key, new);
        }
        events.extend(self.report(claims.problems));
        events
    }

    /// The folder itself cannot be read: everything stays.
    pub(super) fn unreadable(&mut self, reason: &str) -> Vec<Event> {
        let problem = Problem {
            key: None,
            place: ".".to_owned(),
            field: String::new(),
            message: format!("{reason}; everything stays as it was"),
            harmless: false,
        };
        self.report(vec![problem]).into_iter().collect()
    }

    fn report(&mut self, mut problems: Vec<Problem>) -> Option<Event> {
        problems.sort();
        if problems == self.problems {
            return None;
        }
        self.problems.clone_from(&problems);
        Some(Event::Problems(problems))
    }

    fn take_in(&mut self, found: Vec<FoundFile>) {
        let mut old = std::mem::take(&mut self.files);
        for FoundFile { path, content } in found {
            let file = match content {
                FoundContent::Text(hash, text) => match old.remove(&path) {
                    Some(same) if same.hash == Some(hash) => same,
                    _ => File {
                        hash: Some(hash),
                        documents: manifest::read(&text, syntax(&path), self.max_documents),
                    },
                },
                FoundContent::Unreadable(reason) => File {
                    hash: None,
                    documents: vec![Document::unreadable(reason)],
                },
            };
            self.files.insert(path, file);
        }
    }

    fn claims(&self) -> Claims {
        let mut claims = Claims::default();
        let mut left = self.max_documents;
        for (path, file) in &self.files {
            for (number, document) in file.documents.iter().enumerate() {
                if left == 0 {
                    claims.limit(path, document.line, self.max_documents);
                    break;
                }
                left -= 1;
                claims.add(path, number, document);
            }
        }
        claims
    }
}

fn syntax(path: &str) -> Syntax {
    if path.ends_with(".json") {
        Syntax::Json
    } else {
        Syntax::Yaml
    }
}

/// All documents of a folder, sorted out.
#[derive(Default)]
struct Claims {
    // In a map, so that the events come in one order.
    good: BTreeMap<ObjectKey, Applied>,
    // Named by a document that is refused.
    refused: BTreeSet<ObjectKey>,
    // Files with a document that could be any object.
    opaque: BTreeSet<String>,
    // The first document for each object.
    places: BTreeMap<ObjectKey, String>,
    problems: Vec<Problem>,
}

// === impl Claims ===

impl Claims {
    /// Whether an object that came from `path` is still there, or may be.
    fn keep(&self, key: &ObjectKey, path: &str) -> bool {
        self.good.contains_key(key) || self.refused.contains(key) || self.opaque.contains(path)
    }

    fn add(&mut self, path: &str, number: usize, document: &Document) {
        let place = format!("{path}:{}", document.line);
        match &document.content {
            Content::LeftAside(why) => self.problems.push(Problem {
                key: None,
                place,
                field: String::new(),
                message: why.clone(),
                harmless: true,
            }),
            Content::Refused(key, faults) => {
                match key {
                    Some(key) if !self.claim(key, &place) => return,
                    Some(key) => self.refused.insert(key.clone()),
                    None => self.opaque.insert(path.to_owned()),
                };
                self.problems.extend(faults.iter().map(|fault| Problem {
                    key: key.clone(),
                    place: format!("{path}:{}", fault.line),
                    field: fault.field.clone(),
                    message: fault.message.clone(),
                    harmless: false,
                }));
            }
            Content::Object(object, warnings) => {
                let key = object.key();
                if self.claim(&key, &place) {
                    let by_place = OrderKey::Place(path.to_owned(), u32::try_from(number).unwrap_or(u32::MAX));
                    let applied = Applied {
                        path: path.to_owned(),
                        origin: Origin {
                            place,
                            order: order(&key, object).unwrap_or(by_place),
                            warnings: warnings.clone(),
                        },
                        object: object.clone(),
                    };
                    self.good.insert(key, applied);
                }
            }
        }
    }

    /// Whether this is the first document for the object.
    fn claim(&mut self, key: &ObjectKey, place: &str) -> bool {
        if let Some(first) = self.places.get(key) {
            let message = format!("{key} is already defined at {first}, which counts: remove one of the two");
            self.refuse(place.to_owned(), message);
            return false;
        }
        self.places.insert(key.clone(), place.to_owned());
        true
    }

    fn limit(&mut self, path: &str, line: u32, max: usize) {
        self.opaque.insert(path.to_owned());
        let message = format!("the folder holds more than {max} documents: the rest of this file is not read");
        self.refuse(format!("{path}:{line}"), message);
    }

    fn refuse(&mut self, place: String, message: String) {
        self.problems.push(Problem {
            key: None,
            place,
            field: String::new(),
            message,
            harmless: false,
        });
    }
}

/// By age, where the object says when it was created.
fn order(key: &ObjectKey, object: &Object) -> Option<OrderKey> {
    let created = object.metadata().creation_timestamp.as_ref()?;
    Some(OrderKey::Created(
        created.0.as_microsecond(),
        key.namespace.clone(),
        key.name.clone(),
    ))
}

#[cfg(test)]
mod tests;
