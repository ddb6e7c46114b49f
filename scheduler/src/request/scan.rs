//! The scan of a request body: the facts, gathered as the bytes pass.

use std::num::NonZeroU32;

use super::fields::{self, Field, InnerKey, PromptField, Types};
use super::prompt::{BEFORE_SCALAR, BEFORE_TEXT, PromptReader};
use super::{ApiForm, BodyError, IncludeUsage, ModelField, RequestFacts, StreamOptions};
use crate::json::{At, JsonScan, Kind, Visit, Want};

/// Scans one request body, in chunks of any size.
#[derive(Debug)]
pub struct BodyScan {
    json: JsonScan,
    reader: Reader,
    bytes: u64,
    /// The error that ended the scan; it is the answer to everything that follows.
    failed: Option<BodyError>,
}

impl BodyScan {
    /// A scan of a body of this form, hashing its prompt in blocks of `block_bytes` bytes.
    pub fn new(form: ApiForm, block_bytes: NonZeroU32) -> Self {
        Self {
            json: JsonScan::new(),
            reader: Reader::new(form, block_bytes),
            bytes: 0,
            failed: None,
        }
    }

    /// Scans the next chunk.
    ///
    /// # Errors
    /// The first thing that is wrong with the body. Later calls give the same error again.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<(), BodyError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.bytes += chunk.len() as u64;
        self.json
            .feed(chunk, &mut self.reader)
            .inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Ends the body.
    ///
    /// # Errors
    /// What [`feed`](Self::feed) reported, a body that ends too early, a missing model, an empty prompt.
    pub fn finish(mut self) -> Result<RequestFacts, BodyError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.json.finish(&mut self.reader)?;
        self.reader.finish(self.bytes)
    }

    /// Bytes fed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Where text that was asked for goes.
#[derive(Debug, Clone, Copy)]
enum Sink {
    /// Kept: names and numbers.
    Capture,
    /// Into the chain. `counts`: it makes the prompt one that is not empty.
    Chain { counts: bool },
}

#[derive(Debug)]
struct Reader {
    form: ApiForm,
    /// The field at the top level whose value is being read.
    field: Field,
    sink: Sink,
    capture: Vec<u8>,
    /// Where the value begins that a span is wanted of.
    value_start: u64,
    model: Option<ModelField>,
    stream: bool,
    stream_options: StreamOptions,
    /// The value being read is `stream_options.include_usage`.
    in_include_usage: bool,
    object_start: u64,
    max_tokens: Option<(u8, u64)>,
    cache_salt: Option<Box<str>>,
    prompt: PromptReader,
}

impl Reader {
    fn new(form: ApiForm, block_bytes: NonZeroU32) -> Self {
        Self {
            form,
            field: Field::Other,
            sink: Sink::Capture,
            capture: Vec::new(),
            value_start: 0,
            model: None,
            stream: false,
            stream_options: StreamOptions::Absent,
            in_include_usage: false,
            object_start: 0,
            max_tokens: None,
            cache_salt: None,
            prompt: PromptReader::new(block_bytes),
        }
    }

    fn finish(self, body_bytes: u64) -> Result<RequestFacts, BodyError> {
        let model = self.model.ok_or(BodyError::ModelMissing)?;
        if let Some(field) = fields::essential_field(self.form).filter(|_| !self.prompt.found) {
            return Err(BodyError::EmptyPrompt { field });
        }
        Ok(RequestFacts {
            form: self.form,
            model,
            stream: self.stream,
            stream_options: self.stream_options,
            object_start: self.object_start,
            max_tokens: self.max_tokens.map(|(_, tokens)| tokens),
            cache_salt: self.cache_salt,
            prompt: self.prompt.finish(),
            body_bytes,
        })
    }

    fn want_capture(&mut self) -> Want {
        self.capture.clear();
        self.sink = Sink::Capture;
        Want::Text
    }

    fn captured_text(&self) -> Box<str> {
        String::from_utf8_lossy(&self.capture).into()
    }

    fn begin_model(&mut self, kind: Kind, at: At) -> Result<Want, BodyError> {
        if self.model.is_some() {
            return Err(BodyError::ModelTwice { offset: at.offset });
        }
        if kind != Kind::String {
            return Err(BodyError::ModelNotAString);
        }
        self.value_start = at.offset;
        Ok(self.want_capture())
    }

    fn end_model(&mut self, at: At) -> Result<(), BodyError> {
        let name = self.captured_text();
        if name.trim().is_empty() {
            return Err(BodyError::ModelBlank);
        }
        self.model = Some(ModelField {
            name,
            span: self.value_start..at.offset,
        });
        Ok(())
    }

    fn begin_stream_options(&mut self, kind: Kind, at: At) {
        match at.depth {
            1 => {
                self.value_start = at.offset;
                self.stream_options = match kind {
                    Kind::Object => StreamOptions::Object {
                        insert_at: at.offset + 1,
                        empty: true,
                        include_usage: None,
                    },
                    _ => StreamOptions::Invalid,
                };
            }
            2 if self.in_include_usage => self.value_start = at.offset,
            _ => {}
        }
    }

    fn end_stream_options(&mut self, kind: Kind, at: At) {
        if at.depth == 1 && kind == Kind::Null {
            self.stream_options = StreamOptions::Null(self.value_start..at.offset);
        }
        if at.depth != 2 {
            return;
        }
        let StreamOptions::Object {
            empty, include_usage, ..
        } = &mut self.stream_options
        else {
            return;
        };
        match kind {
            Kind::Key => {
                *empty = false;
                self.in_include_usage = self.capture == b"include_usage";
            }
            _ if self.in_include_usage => {
                *include_usage = Some(IncludeUsage {
                    span: self.value_start..at.offset,
                    on: kind == Kind::True,
                });
                self.in_include_usage = false;
            }
            _ => {}
        }
    }

    fn begin_prompt(&mut self, field: &'static PromptField, kind: Kind, at: At) -> Result<Want, BodyError> {
        self.prompt.check(field, kind, at)?;
        if self.prompt.skips() {
            return Ok(Want::End);
        }
        let structured = self.prompt.structured(field);
        self.prompt.ids_open &= kind == Kind::Number;
        match kind {
            Kind::String => {
                self.sink = Sink::Chain {
                    counts: field.essential && self.prompt.key != InnerKey::Role,
                };
                self.prompt.separate(BEFORE_TEXT);
                return Ok(Want::Text);
            }
            Kind::Number if structured => {
                self.sink = Sink::Chain { counts: false };
                self.prompt.separate(BEFORE_SCALAR);
                return Ok(Want::Text);
            }
            Kind::Number if at.in_lists && at.depth > 1 && field.elements.has(Types::IDS) => {
                self.want_capture();
                return Ok(Want::Ids);
            }
            Kind::True if structured => self.prompt.scalar(b"true"),
            Kind::False if structured => self.prompt.scalar(b"false"),
            Kind::Null if structured => self.prompt.scalar(b"null"),
            Kind::Array | Kind::Object => self.prompt.key = InnerKey::Plain,
            _ => {}
        }
        Ok(Want::End)
    }

    fn end_prompt(&mut self, field: &'static PromptField, kind: Kind, at: At) -> Result<(), BodyError> {
        if kind == Kind::Key {
            self.prompt.key(&self.capture, field, at.depth);
            return Ok(());
        }
        let structured = self.prompt.structured(field);
        let id_expected = kind == Kind::Number && at.in_lists && at.depth > 1 && field.elements.has(Types::IDS);
        if id_expected && !structured {
            let id = std::str::from_utf8(&self.capture)
                .ok()
                .and_then(|text| text.parse::<u32>().ok());
            match id {
                Some(id) => self.prompt.ids(&id.to_le_bytes(), field.essential),
                None if field.elements == Types::ANY => {}
                None => {
                    let offset = at.offset - self.capture.len() as u64;
                    return Err(BodyError::WrongType {
                        field: field.name,
                        expected: field.expected,
                        offset,
                    });
                }
            }
        }
        self.prompt.ids_open &= kind == Kind::Number;
        self.prompt.value_ended(at.depth);
        Ok(())
    }
}

impl Visit for Reader {
    type Error = BodyError;

    #[inline]
    fn begin(&mut self, kind: Kind, at: At) -> Result<Want, BodyError> {
        if kind == Kind::Key {
            return Ok(self.want_capture());
        }
        if at.depth == 0 {
            self.object_start = at.offset + 1;
            return if kind == Kind::Object {
                Ok(Want::End)
            } else {
                Err(BodyError::NotAnObject)
            };
        }
        match self.field {
            Field::Other => Ok(Want::End),
            Field::Prompt(field) => self.begin_prompt(field, kind, at),
            Field::Model => self.begin_model(kind, at),
            Field::Stream if matches!(kind, Kind::True | Kind::False | Kind::Null) => Ok(Want::End),
            Field::Stream => {
                let expected = "true or false";
                Err(BodyError::WrongType {
                    field: "stream",
                    expected,
                    offset: at.offset,
                })
            }
            Field::StreamOptions => {
                self.begin_stream_options(kind, at);
                Ok(Want::End)
            }
            Field::CacheSalt if at.depth == 1 && kind == Kind::String => Ok(self.want_capture()),
            Field::MaxTokens { .. } if at.depth == 1 && kind == Kind::Number => Ok(self.want_capture()),
            Field::CacheSalt | Field::MaxTokens { .. } => Ok(Want::End),
        }
    }

    #[inline]
    fn text(&mut self, piece: &[u8]) {
        match self.sink {
            Sink::Capture => self.capture.extend_from_slice(piece),
            Sink::Chain { counts } => self.prompt.text(piece, counts),
        }
    }

    #[inline]
    fn ids(&mut self, little_endian: &[u8]) {
        let essential = matches!(self.field, Field::Prompt(PromptField { essential: true, .. }));
        self.prompt.ids(little_endian, essential);
    }

    #[inline]
    fn end(&mut self, kind: Kind, at: At) -> Result<(), BodyError> {
        if kind == Kind::Key && at.depth == 1 {
            self.field = fields::field(self.form, &self.capture);
            self.prompt.key = InnerKey::Plain;
            return Ok(());
        }
        match self.field {
            Field::Other => {}
            Field::Prompt(field) => self.end_prompt(field, kind, at)?,
            Field::Model => self.end_model(at)?,
            Field::Stream => self.stream = kind == Kind::True,
            Field::StreamOptions => self.end_stream_options(kind, at),
            Field::CacheSalt if at.depth == 1 => {
                self.cache_salt = (kind == Kind::String).then(|| self.captured_text());
            }
            Field::MaxTokens { rank } if at.depth == 1 && kind == Kind::Number => {
                let tokens = std::str::from_utf8(&self.capture)
                    .ok()
                    .and_then(|text| text.parse().ok());
                let better = self.max_tokens.is_none_or(|(known, _)| rank >= known);
                self.max_tokens = tokens
                    .filter(|_| better)
                    .map(|tokens| (rank, tokens))
                    .or(self.max_tokens);
            }
            Field::CacheSalt | Field::MaxTokens { .. } => {}
        }
        if at.depth == 1 {
            self.field = Field::Other;
        }
        Ok(())
    }
}
