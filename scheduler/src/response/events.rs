//! Server-sent events: the lines of a stream, cut anywhere.
//!
//! A line that lies within one chunk is looked at where it lies, and only parsed if it can hold what we want. A line that
//! a cut splits is parsed as its pieces come, so that none is ever held, however long it is.

use memchr::memmem;

use super::document::{Document, Said};
use crate::request::ApiForm;

const DATA: &[u8] = b"data:";
const DONE: &[u8] = b"[DONE]";
/// Of an event without it, there is nothing to be learnt of usage.
const USAGE: &[u8] = b"usage";

/// Bytes of a cut line that are kept to recognise `[DONE]`: white space around it and the marker.
const HEAD_LIMIT: usize = 16;

/// Reads the data lines of a stream of events.
#[derive(Debug)]
pub(super) struct Events {
    form: ApiForm,
    line: Line,
}

/// The line being read, as far as it came in earlier chunks.
#[derive(Debug)]
enum Line {
    /// So many bytes, all of them those of `data:`.
    Field(usize),
    Data {
        head: Vec<u8>,
        document: Box<Document>,
    },
    /// Another field, or a comment.
    Other,
}

impl Events {
    pub(super) fn new(form: ApiForm) -> Self {
        Self {
            form,
            line: Line::Field(0),
        }
    }

    /// Reads a chunk; `hear` is told of every data line that says something.
    pub(super) fn feed(&mut self, chunk: &[u8], hear: &mut impl FnMut(Said)) {
        let mut rest = chunk;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let line = &rest[..end];
            if let Line::Field(0) = self.line {
                if let Some(said) = data_of(line).and_then(|data| read(self.form, data)) {
                    hear(said);
                }
            } else {
                self.cut_line(line);
                if let Some(said) = self.line_ended() {
                    hear(said);
                }
            }
            rest = &rest[end + 1..];
        }
        self.cut_line(rest);
    }

    /// Takes a piece of a line whose end has not come.
    fn cut_line(&mut self, piece: &[u8]) {
        let mut piece = piece;
        while let (Line::Field(seen), Some((first, rest))) = (&mut self.line, piece.split_first()) {
            if DATA.get(*seen) != Some(first) {
                self.line = Line::Other;
                return;
            }
            piece = rest;
            *seen += 1;
            if *seen == DATA.len() {
                self.line = Line::Data {
                    head: Vec::new(),
                    document: Box::new(Document::new(self.form)),
                };
            }
        }
        if let Line::Data { head, document } = &mut self.line {
            let room = HEAD_LIMIT.saturating_sub(head.len());
            head.extend_from_slice(&piece[..piece.len().min(room)]);
            document.feed(piece);
        }
    }

    fn line_ended(&mut self) -> Option<Said> {
        match std::mem::replace(&mut self.line, Line::Field(0)) {
            Line::Data { head, document } => done_marker(&head).or_else(|| document.said()),
            Line::Field(_) | Line::Other => None,
        }
    }
}

/// The value of a data line; `None` for another line.
pub(super) fn data_of(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(DATA)
}

/// Reads the value of a whole data line, if it can say something.
pub(super) fn read(form: ApiForm, data: &[u8]) -> Option<Said> {
    if let Some(said) = done_marker(data) {
        return Some(said);
    }
    let terminal = form == ApiForm::Messages && memmem::find(data, b"message_stop").is_some();
    if !terminal && !memmem::find_iter(data, USAGE).any(|at| !is_null(&data[at + USAGE.len()..])) {
        return None;
    }
    let mut document = Document::new(form);
    document.feed(data);
    document.said()
}

/// Whether the value of the key whose name stands before this is `null`: engines that count at the end of a stream say so
/// in each event before it.
fn is_null(after_name: &[u8]) -> bool {
    let value = after_name.strip_prefix(b"\":");
    value.is_some_and(|value| value.trim_ascii_start().starts_with(b"null"))
}

fn done_marker(data: &[u8]) -> Option<Said> {
    (data.trim_ascii() == DONE).then(|| Said {
        terminal: true,
        ..Said::default()
    })
}
