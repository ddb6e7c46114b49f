//! Strings: runs of plain bytes, and escapes that any cut may split.

use super::scan::{JsonScan, State, malformed};
use super::{Kind, Visit, Want};

/// How far an escape has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// Not in an escape.
    None,
    /// After `\`.
    Start,
    /// Within the digits of `\u`: how many were read, and their value. `high` is the surrogate before it, if it is the
    /// second escape of a pair.
    Hex { digits: u8, value: u16, high: Option<u16> },
    /// After `\u` and a high surrogate: a low one may follow.
    High(u16),
    /// The same, and a `\`.
    HighStart(u16),
}

/// A lone surrogate has no UTF-8 form.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

const EXPECTED_CHARACTER: &str = "a character (control characters must be escaped)";

impl JsonScan {
    /// Reads a string from `pos` on, as far as it goes; its opening quote has been read. Returns the position after it.
    pub(super) fn string<V: Visit>(
        &mut self,
        key: bool,
        bytes: &[u8],
        mut pos: usize,
        visitor: &mut V,
    ) -> Result<usize, V::Error> {
        while pos < bytes.len() {
            if self.escape != Escape::None {
                pos = self.escape(bytes[pos], pos, visitor)?;
                continue;
            }
            let rest = &bytes[pos..];
            let run = &rest[..memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len())];
            if let Some(index) = run.iter().position(|byte| *byte < 0x20) {
                return Err(malformed(self.base + (pos + index) as u64, EXPECTED_CHARACTER).into());
            }
            self.emit(run, visitor);
            pos += run.len();
            match bytes.get(pos) {
                None => return Ok(pos),
                Some(b'"') => {
                    self.string_ended(key, pos + 1, visitor)?;
                    return Ok(pos + 1);
                }
                Some(_) => {
                    self.escape = Escape::Start;
                    pos += 1;
                }
            }
        }
        Ok(pos)
    }

    #[inline]
    fn string_ended<V: Visit>(&mut self, key: bool, end: usize, visitor: &mut V) -> Result<(), V::Error> {
        let offset = self.base + end as u64;
        if key {
            self.state = State::Colon;
            return visitor.end(Kind::Key, self.at(offset));
        }
        self.value_ended(Kind::String, offset, visitor)
    }

    #[inline]
    fn emit<V: Visit>(&self, piece: &[u8], visitor: &mut V) {
        if self.want != Want::End {
            visitor.text(piece);
        }
    }

    /// Reads one byte of an escape. Returns the position to go on from: the same one where the byte is not part of it.
    fn escape<V: Visit>(&mut self, byte: u8, pos: usize, visitor: &mut V) -> Result<usize, V::Error> {
        let fault = |expected| malformed(self.base + pos as u64, expected);
        match self.escape {
            Escape::None => return Ok(pos),
            Escape::Start if byte == b'u' => {
                self.escape = Escape::Hex {
                    digits: 0,
                    value: 0,
                    high: None,
                }
            }
            Escape::Start => {
                let plain = plain_escape(byte).ok_or_else(|| fault("one of `\"\\/bfnrtu` after `\\`"))?;
                self.escape = Escape::None;
                self.emit(&[plain], visitor);
            }
            Escape::Hex { digits, value, high } => {
                let digit = char::from(byte)
                    .to_digit(16)
                    .ok_or_else(|| fault("a hexadecimal digit"))?;
                let value = value << 4 | digit as u16;
                if digits < 3 {
                    self.escape = Escape::Hex {
                        digits: digits + 1,
                        value,
                        high,
                    };
                } else {
                    self.unit(value, high, visitor);
                }
            }
            Escape::High(high) if byte == b'\\' => self.escape = Escape::HighStart(high),
            Escape::HighStart(high) if byte == b'u' => {
                self.escape = Escape::Hex {
                    digits: 0,
                    value: 0,
                    high: Some(high),
                };
            }
            Escape::High(_) => {
                self.escape = Escape::None;
                self.emit(REPLACEMENT, visitor);
                return Ok(pos);
            }
            Escape::HighStart(_) => {
                self.escape = Escape::Start;
                self.emit(REPLACEMENT, visitor);
                return Ok(pos);
            }
        }
        Ok(pos + 1)
    }

    /// Takes one UTF-16 unit, after the high surrogate `high` if there was one.
    fn unit<V: Visit>(&mut self, unit: u16, high: Option<u16>, visitor: &mut V) {
        self.escape = Escape::None;
        if let (Some(high), 0xDC00..=0xDFFF) = (high, unit) {
            let code = 0x1_0000 + (u32::from(high - 0xD800) << 10) + u32::from(unit - 0xDC00);
            return self.emit_char(code, visitor);
        }
        if high.is_some() {
            self.emit(REPLACEMENT, visitor);
        }
        if let 0xD800..=0xDBFF = unit {
            self.escape = Escape::High(unit);
        } else {
            self.emit_char(u32::from(unit), visitor);
        }
    }

    fn emit_char<V: Visit>(&self, code: u32, visitor: &mut V) {
        let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        self.emit(character.encode_utf8(&mut [0; 4]).as_bytes(), visitor);
    }
}

/// What the one-letter escapes stand for.
#[inline]
fn plain_escape(byte: u8) -> Option<u8> {
    Some(match byte {
        b'"' | b'\\' | b'/' => byte,
        b'b' => 0x08,
        b'f' => 0x0C,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}
