//! One JSON value of an answer, read for its usage in bounded memory.

use super::counts::Counts;
use crate::json::{At, JsonError, JsonScan, Kind, Visit, Want};
use crate::request::ApiForm;

/// Names, types and numbers longer than this are none that we look for.
const CAPTURE_LIMIT: usize = 64;

/// What a complete value said.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Said {
    pub(super) counts: Counts,
    /// It marks the end of a stream.
    pub(super) terminal: bool,
    /// It holds usage, and `choices` without any: the event that `include_usage` adds to a stream.
    pub(super) usage_only: bool,
}

/// Reads one JSON value in chunks of any size.
#[derive(Debug)]
pub(super) struct Document {
    json: JsonScan,
    reader: Reader,
    failed: bool,
}

impl Document {
    pub(super) fn new(form: ApiForm) -> Self {
        let wrapper: &[u8] = match form {
            ApiForm::Responses => b"response",
            ApiForm::Messages => b"message",
            _ => b"",
        };
        Self {
            json: JsonScan::new(),
            reader: Reader {
                wrapper,
                ..Reader::default()
            },
            failed: false,
        }
    }

    pub(super) fn feed(&mut self, chunk: &[u8]) {
        self.failed = self.failed || self.json.feed(chunk, &mut self.reader).is_err();
    }

    /// What the value says, once it has ended and nothing but white space followed.
    pub(super) fn said(&self) -> Option<Said> {
        (!self.failed && self.json.complete()).then(|| Said {
            counts: self.reader.counts,
            terminal: self.reader.terminal,
            usage_only: self.reader.usage_seen && self.reader.choices == Choices::Empty,
        })
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Choices {
    #[default]
    Absent,
    Empty,
    Some,
}

/// What the value that follows a key is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Ignored,
    Usage,
    Wrapper,
    Type,
    Choices,
    Details,
    Count(Count),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Input,
    Output,
    Cached,
    CacheRead,
    CacheCreation,
}

#[derive(Debug, Default)]
struct Reader {
    /// The name of the field that wraps the answer in an event; empty where there is none.
    wrapper: &'static [u8],
    capture: Vec<u8>,
    next: Next,
    /// The value at depth 1 being read is the wrapper.
    in_wrapper: bool,
    in_choices: bool,
    /// The depth at which the usage object that is being read stands.
    usage_at: Option<u32>,
    in_details: bool,
    usage_seen: bool,
    choices: Choices,
    terminal: bool,
    counts: Counts,
}

impl Reader {
    fn capture(&mut self) -> Want {
        self.capture.clear();
        Want::Text
    }

    /// Whether a key at `depth` can be one that we look for.
    fn relevant(&self, depth: u32) -> bool {
        match self.usage_at {
            Some(usage) => depth == usage + 1 || (self.in_details && depth == usage + 2),
            None => depth == 1 || (self.in_wrapper && depth == 2),
        }
    }

    fn named(&self, depth: u32) -> Next {
        let key = self.capture.as_slice();
        if let Some(usage) = self.usage_at {
            return match key {
                b"cached_tokens" if depth == usage + 2 => Next::Count(Count::Cached),
                _ if depth == usage + 2 => Next::Ignored,
                b"prompt_tokens" | b"input_tokens" => Next::Count(Count::Input),
                b"completion_tokens" | b"output_tokens" => Next::Count(Count::Output),
                b"cache_read_input_tokens" => Next::Count(Count::CacheRead),
                b"cache_creation_input_tokens" => Next::Count(Count::CacheCreation),
                b"prompt_tokens_details" | b"input_tokens_details" => Next::Details,
                _ => Next::Ignored,
            };
        }
        match key {
            b"usage" => Next::Usage,
            b"type" if depth == 1 => Next::Type,
            b"choices" if depth == 1 => Next::Choices,
            _ if depth == 1 && !key.is_empty() && key == self.wrapper => Next::Wrapper,
            _ => Next::Ignored,
        }
    }

    fn number(&mut self, count: Count) {
        let Some(value) = std::str::from_utf8(&self.capture)
            .ok()
            .and_then(|text| text.parse().ok())
        else {
            return;
        };
        let slot = match count {
            Count::Input => &mut self.counts.input,
            Count::Output => &mut self.counts.output,
            Count::Cached => &mut self.counts.cached,
            Count::CacheRead => &mut self.counts.cache_read,
            Count::CacheCreation => &mut self.counts.cache_creation,
        };
        *slot = Some(value);
    }
}

impl Visit for Reader {
    type Error = JsonError;

    fn begin(&mut self, kind: Kind, at: At) -> Result<Want, JsonError> {
        if kind == Kind::Key {
            self.next = Next::Ignored;
            return Ok(if self.relevant(at.depth) {
                self.capture()
            } else {
                Want::End
            });
        }
        if self.in_choices && at.depth == 2 {
            self.choices = Choices::Some;
        }
        match (self.next, kind) {
            (Next::Count(_), Kind::Number) | (Next::Type, Kind::String) => return Ok(self.capture()),
            (Next::Usage, Kind::Object) => {
                self.usage_at = Some(at.depth);
                self.usage_seen = true;
            }
            (Next::Wrapper, Kind::Object) => self.in_wrapper = true,
            (Next::Details, Kind::Object) => self.in_details = true,
            (Next::Choices, Kind::Array) => {
                self.in_choices = true;
                self.choices = Choices::Empty;
            }
            _ => {}
        }
        self.next = Next::Ignored;
        Ok(Want::End)
    }

    fn text(&mut self, piece: &[u8]) {
        // One byte over the limit marks what was cut: it equals no name and is no number.
        let room = (CAPTURE_LIMIT + 1).saturating_sub(self.capture.len());
        self.capture.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn ids(&mut self, _little_endian: &[u8]) {}

    fn end(&mut self, kind: Kind, at: At) -> Result<(), JsonError> {
        if kind == Kind::Key {
            if self.relevant(at.depth) {
                self.next = self.named(at.depth);
            }
            return Ok(());
        }
        match (self.next, kind) {
            (Next::Count(count), Kind::Number) => self.number(count),
            (Next::Type, Kind::String) => {
                self.terminal = matches!(
                    self.capture.as_slice(),
                    b"response.completed" | b"response.incomplete" | b"response.failed" | b"message_stop"
                );
            }
            _ => {}
        }
        self.next = Next::Ignored;
        if self.usage_at == Some(at.depth) {
            self.usage_at = None;
        }
        if self.usage_at.is_some_and(|usage| at.depth == usage + 1) {
            self.in_details = false;
        }
        if at.depth == 1 {
            self.in_wrapper = false;
            self.in_choices = false;
        }
        Ok(())
    }
}
