//! The scanner's structure: values, objects, lists and what may follow what.

use super::machine::{Escape, JsonScan, Number, State, malformed};
use super::utf8::{CutSequence, Joined, cut_suffix};
use super::{At, JsonError, Kind, MAX_DEPTH, Visit, Want};

impl JsonScan {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Value,
            depth: 0,
            objects: 0,
            base: 0,
            want: Want::End,
            escape: Escape::None,
            ids_again_at: 0,
            cut: CutSequence::default(),
            gathered: Vec::new(),
        }
    }

    /// The top value has ended: only white space may follow.
    pub(crate) fn complete(&self) -> bool {
        self.state == State::End && self.cut.is_empty()
    }

    /// Scans the next bytes.
    pub(crate) fn feed<V: Visit>(&mut self, chunk: &[u8], visitor: &mut V) -> Result<(), V::Error> {
        let mut rest = chunk;
        if !self.cut.is_empty() {
            match self.cut.join(rest) {
                Joined::Whole(bytes, len, used) => {
                    self.scan(&bytes[..len], visitor)?;
                    rest = &rest[used..];
                }
                Joined::Cut => return Ok(()),
                Joined::Invalid => return Err(JsonError::InvalidUtf8 { offset: self.base }.into()),
            }
        }
        let (whole, cut) = rest.split_at(rest.len() - cut_suffix(rest));
        if simdutf8::basic::from_utf8(whole).is_ok() {
            self.scan(whole, visitor)?;
            self.cut.hold(cut);
            return Ok(());
        }
        // What stands before the invalid byte is scanned all the same, so that the first fault is the one reported.
        let valid = simdutf8::compat::from_utf8(whole).map_or_else(|error| error.valid_up_to(), str::len);
        self.scan(&whole[..valid], visitor)?;
        Err(JsonError::InvalidUtf8 { offset: self.base }.into())
    }

    /// Ends the document: it must be complete.
    pub(crate) fn finish<V: Visit>(&mut self, visitor: &mut V) -> Result<(), V::Error> {
        if !self.cut.is_empty() {
            return Err(JsonError::InvalidUtf8 { offset: self.base }.into());
        }
        let expected = match self.state {
            State::End => return Ok(()),
            State::InNumber(number) if self.depth == 0 && number.may_end() => {
                return self.value_ended(Kind::Number, self.base, visitor);
            }
            State::Value | State::FirstElement => "a value",
            State::FirstKey | State::Key => "a key",
            State::Colon => "`:`",
            State::After => "`,` or the end of the object or list",
            State::InString { .. } => "the end of the string",
            State::InNumber(_) => "a digit",
            State::InLiteral { .. } => "`true`, `false` or `null`",
        };
        Err(malformed(self.base, expected).into())
    }

    fn scan<V: Visit>(&mut self, bytes: &[u8], visitor: &mut V) -> Result<(), V::Error> {
        let mut pos = 0;
        while pos < bytes.len() {
            pos = match self.state {
                State::InString { key } => self.string(key, bytes, pos, visitor)?,
                State::InNumber(number) => self.number(number, bytes, pos, visitor)?,
                State::InLiteral { kind, seen } => self.literal(kind, seen, bytes, pos, visitor)?,
                _ => self.structure(bytes, pos, visitor)?,
            };
        }
        self.base += bytes.len() as u64;
        Ok(())
    }

    /// Reads white space and one structural byte. Returns the position to go on from.
    #[inline]
    fn structure<V: Visit>(&mut self, bytes: &[u8], mut pos: usize, visitor: &mut V) -> Result<usize, V::Error> {
        while matches!(bytes.get(pos), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            pos += 1;
        }
        let Some(&byte) = bytes.get(pos) else { return Ok(pos) };
        let offset = self.base + pos as u64;
        match (self.state, byte) {
            (State::FirstElement, b']') | (State::FirstKey, b'}') => self.close(offset, visitor)?,
            (State::Value | State::FirstElement, _) => return self.value(byte, pos, visitor),
            (State::FirstKey | State::Key, b'"') => {
                self.want = visitor.begin(Kind::Key, self.at(offset))?;
                self.state = State::InString { key: true };
            }
            (State::FirstKey, _) => return Err(malformed(offset, "a key or `}`").into()),
            (State::Key, _) => return Err(malformed(offset, "a key").into()),
            (State::Colon, b':') => self.state = State::Value,
            (State::Colon, _) => return Err(malformed(offset, "`:`").into()),
            (State::After, b',') => self.state = if self.in_object() { State::Key } else { State::Value },
            (State::After, b'}') if self.in_object() => self.close(offset, visitor)?,
            (State::After, b']') if !self.in_object() => self.close(offset, visitor)?,
            (State::After, _) if self.in_object() => return Err(malformed(offset, "`,` or `}`").into()),
            (State::After, _) => return Err(malformed(offset, "`,` or `]`").into()),
            _ => return Err(JsonError::Trailing { offset }.into()),
        }
        Ok(pos + 1)
    }

    /// A value begins with `byte`. A number's first byte is left to the number's own state.
    #[inline]
    fn value<V: Visit>(&mut self, byte: u8, pos: usize, visitor: &mut V) -> Result<usize, V::Error> {
        let at = self.at(self.base + pos as u64);
        match byte {
            b'"' => {
                self.want = visitor.begin(Kind::String, at)?;
                self.state = State::InString { key: false };
            }
            b'{' => self.open(Kind::Object, at, visitor)?,
            b'[' => self.open(Kind::Array, at, visitor)?,
            b'-' | b'0'..=b'9' => {
                self.want = visitor.begin(Kind::Number, at)?;
                self.state = State::InNumber(Number::Start);
                return Ok(pos);
            }
            b't' | b'f' | b'n' => {
                let kind = match byte {
                    b't' => Kind::True,
                    b'f' => Kind::False,
                    _ => Kind::Null,
                };
                visitor.begin(kind, at)?;
                self.state = State::InLiteral { kind, seen: 1 };
            }
            _ => return Err(malformed(at.offset, "a value").into()),
        }
        Ok(pos + 1)
    }

    fn literal<V: Visit>(
        &mut self,
        kind: Kind,
        seen: u8,
        bytes: &[u8],
        mut pos: usize,
        visitor: &mut V,
    ) -> Result<usize, V::Error> {
        let word: &[u8] = match kind {
            Kind::True => b"true",
            Kind::False => b"false",
            _ => b"null",
        };
        let mut seen = usize::from(seen);
        while let (Some(wanted), Some(byte)) = (word.get(seen), bytes.get(pos)) {
            if wanted != byte {
                return Err(malformed(self.base + pos as u64, "`true`, `false` or `null`").into());
            }
            seen += 1;
            pos += 1;
        }
        if seen == word.len() {
            self.value_ended(kind, self.base + pos as u64, visitor)?;
        } else {
            self.state = State::InLiteral { kind, seen: seen as u8 };
        }
        Ok(pos)
    }

    fn open<V: Visit>(&mut self, kind: Kind, at: At, visitor: &mut V) -> Result<(), V::Error> {
        if self.depth == MAX_DEPTH {
            return Err(JsonError::TooDeep {
                offset: at.offset,
                limit: MAX_DEPTH,
            }
            .into());
        }
        visitor.begin(kind, at)?;
        if kind == Kind::Object {
            self.objects |= 1 << self.depth;
        }
        self.depth += 1;
        self.state = if kind == Kind::Object {
            State::FirstKey
        } else {
            State::FirstElement
        };
        Ok(())
    }

    /// The innermost container ends with the byte at `offset`.
    fn close<V: Visit>(&mut self, offset: u64, visitor: &mut V) -> Result<(), V::Error> {
        let kind = if self.in_object() { Kind::Object } else { Kind::Array };
        self.depth = self.depth.saturating_sub(1);
        self.objects &= !(1 << self.depth);
        self.value_ended(kind, offset + 1, visitor)
    }

    #[inline]
    pub(super) fn value_ended<V: Visit>(&mut self, kind: Kind, offset: u64, visitor: &mut V) -> Result<(), V::Error> {
        self.state = if self.depth == 0 { State::End } else { State::After };
        visitor.end(kind, self.at(offset))
    }

    #[inline]
    pub(super) fn at(&self, offset: u64) -> At {
        At {
            depth: self.depth,
            in_lists: self.objects == 1,
            offset,
        }
    }

    #[inline]
    fn in_object(&self) -> bool {
        self.depth > 0 && self.objects >> (self.depth - 1) & 1 == 1
    }
}
