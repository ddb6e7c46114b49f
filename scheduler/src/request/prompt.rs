//! The prompt as it is gathered: its text stream into the chain, by the rules of `fields`.

use std::num::NonZeroU32;

use super::fields::{self, InnerKey, PromptField, Types};
use super::{BodyError, Prompt};
use crate::json::{At, Kind};
use crate::prefix::chain::ChainBuilder;

/// Separators of the text stream; see `fields`.
pub(super) const BEFORE_TEXT: u8 = 0xFF;
const BEFORE_KEY: u8 = 0xFE;
pub(super) const BEFORE_SCALAR: u8 = 0xFD;
const BEFORE_IDS: u8 = 0xFC;

/// What the scan has gathered of the prompt, and where in it it stands.
#[derive(Debug)]
pub(super) struct PromptReader {
    chain: ChainBuilder,
    text_bytes: u64,
    token_ids: Option<u64>,
    /// Text or ids were found in an essential field.
    pub(super) found: bool,
    /// The last thing read was an id of the list at hand, behind its separator.
    pub(super) ids_open: bool,
    /// What the last key said.
    pub(super) key: InnerKey,
    /// Depth of the object whose field is being left out.
    skipped_at: Option<u32>,
    /// Depth of the object whose field is read with its structure.
    structured_at: Option<u32>,
}

impl PromptReader {
    pub(super) fn new(block_bytes: NonZeroU32) -> Self {
        Self {
            chain: ChainBuilder::new(block_bytes),
            text_bytes: 0,
            token_ids: None,
            found: false,
            ids_open: false,
            key: InnerKey::Plain,
            skipped_at: None,
            structured_at: None,
        }
    }

    pub(super) fn finish(self) -> Prompt {
        Prompt {
            text_bytes: self.text_bytes,
            token_ids: self.token_ids,
            chain: self.chain.finish(),
        }
    }

    /// What is being read is not part of the stream.
    pub(super) fn skips(&self) -> bool {
        self.skipped_at.is_some()
    }

    /// Keys and scalars count.
    pub(super) fn structured(&self, field: &PromptField) -> bool {
        field.structured || self.structured_at.is_some()
    }

    pub(super) fn separate(&mut self, separator: u8) {
        self.chain.push(&[separator]);
    }

    /// A piece of text. `counts`: it makes the prompt one that is not empty.
    #[inline]
    pub(super) fn text(&mut self, piece: &[u8], counts: bool) {
        self.found |= counts && !piece.is_empty();
        self.text_bytes += piece.len() as u64;
        self.chain.push(piece);
    }

    /// Refuses types that the field's API does not know.
    pub(super) fn check(&self, field: &'static PromptField, kind: Kind, at: At) -> Result<(), BodyError> {
        let allowed = match at.depth {
            1 if kind == Kind::Null => return Ok(()),
            1 => field.value,
            2 if at.in_lists => field.elements,
            3 if at.in_lists => field.inner,
            _ => return Ok(()),
        };
        let fits = match kind {
            Kind::String => allowed.has(Types::STRING),
            Kind::Number => allowed.has(Types::IDS),
            Kind::Object => allowed.has(Types::OBJECT),
            Kind::Array => allowed.has(Types::ARRAY),
            _ => allowed == Types::ANY,
        };
        if fits {
            return Ok(());
        }
        Err(BodyError::WrongType {
            field: field.name,
            expected: field.expected,
            offset: at.offset,
        })
    }

    /// A key within the prompt has ended.
    pub(super) fn key(&mut self, key: &[u8], field: &PromptField, depth: u32) {
        if self.skipped_at.is_some() {
            return;
        }
        let structured = self.structured(field);
        self.key = fields::inner_key(key);
        match self.key {
            InnerKey::CacheMark => self.skipped_at = Some(depth),
            InnerKey::Wrapping if !structured => self.skipped_at = Some(depth),
            InnerKey::Structure if !structured => self.structured_at = Some(depth),
            _ if structured => {
                self.separate(BEFORE_KEY);
                self.text(key, false);
            }
            _ => {}
        }
    }

    /// A value within the prompt has ended at `depth`: what its key switched on ends with it.
    pub(super) fn value_ended(&mut self, depth: u32) {
        self.key = InnerKey::Plain;
        if self.skipped_at == Some(depth) {
            self.skipped_at = None;
        }
        if self.structured_at == Some(depth) {
            self.structured_at = None;
        }
    }

    pub(super) fn scalar(&mut self, spelled: &[u8]) {
        self.separate(BEFORE_SCALAR);
        self.text(spelled, false);
    }

    pub(super) fn ids(&mut self, little_endian: &[u8], essential: bool) {
        if !self.ids_open {
            self.separate(BEFORE_IDS);
            self.ids_open = true;
        }
        self.chain.push(little_endian);
        self.token_ids = Some(self.token_ids.unwrap_or(0) + little_endian.len() as u64 / 4);
        self.found |= essential;
    }
}
