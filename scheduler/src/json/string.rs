//! Strings: runs of plain bytes, and escapes that any cut may split.
//!
//! Three ways to read, by what the text is like. Long plain runs go to the visitor where they lie, found by vector
//! search. From an escape on, what it stands for and the runs between it and the next ones are gathered in a buffer,
//! block by block and almost without branches, until a run is long again: a visitor is called for kilobytes, not for
//! each piece. Escapes that are split by a cut, of surrogates, or wrong, go byte by byte.

use std::ops::Range;

use super::bits::{self, BLOCK, Block};
use super::machine::{Escape, JsonScan, State, malformed};
use super::{Kind, Visit, Want};

/// A lone surrogate has no UTF-8 form.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

const EXPECTED_CHARACTER: &str = "a character (control characters must be escaped)";

/// Bytes copied at once: a run is copied in such pieces, the last of which may carry bytes that do not count.
const PIECE: usize = 16;

/// What a step of gathering must see: its block, and the end of an escape or a piece that begins in it.
const WINDOW: usize = BLOCK + PIECE;

/// Decoded bytes gathered before the visitor gets them.
const GATHERED: usize = 4 << 10;

/// A run of this many bytes is long: from its end on, text is read where it lies.
const LONG_RUN: usize = 256;

/// Room for what is gathered, and for what one more step may write: a run that is not long yet, and a block.
const BUFFER: usize = GATHERED + LONG_RUN + 3 * WINDOW;

impl JsonScan {
    /// Reads a string from `pos` on, as far as it goes; its opening quote has been read. Returns the position after it.
    pub(super) fn string<V: Visit>(
        &mut self,
        key: bool,
        bytes: &[u8],
        mut pos: usize,
        visitor: &mut V,
    ) -> Result<usize, V::Error> {
        while let Some(&byte) = bytes.get(pos) {
            if self.escape != Escape::None {
                pos = self.escape(byte, pos, visitor)?;
                continue;
            }
            match byte {
                b'"' => {
                    self.string_ended(key, pos + 1, visitor)?;
                    return Ok(pos + 1);
                }
                b'\\' => {
                    let from = pos;
                    pos = self.gather(bytes, pos, visitor);
                    if pos == from {
                        pos += self.one_escape(bytes, pos, visitor);
                    }
                }
                _ => pos = self.run(bytes, pos, visitor)?,
            }
        }
        Ok(pos)
    }

    /// Reads the escape at `pos` where it is one letter and at hand; else it is read byte by byte. Returns how many bytes
    /// were read.
    #[inline]
    fn one_escape<V: Visit>(&mut self, bytes: &[u8], pos: usize, visitor: &mut V) -> usize {
        let letter = bytes
            .get(pos + 1)
            .map_or(0, |letter| PLAIN_ESCAPES[usize::from(*letter)]);
        if letter == 0 {
            self.escape = Escape::Start;
            return 1;
        }
        self.emit(&[letter], visitor);
        2
    }

    /// Reads plain bytes up to a quote, a `\` or the end.
    #[inline]
    fn run<V: Visit>(&mut self, bytes: &[u8], pos: usize, visitor: &mut V) -> Result<usize, V::Error> {
        let rest = &bytes[pos..];
        let run = &rest[..plain(rest)];
        if rest.get(run.len()).is_some_and(|byte| *byte < 0x20) {
            return Err(malformed(self.base + (pos + run.len()) as u64, EXPECTED_CHARACTER).into());
        }
        self.emit(run, visitor);
        Ok(pos + run.len())
    }

    /// Reads escapes and the runs between them. Stops, without an error, at what it leaves to the others: the end of a
    /// long run, the end of the string or of the bytes, an escape that is wrong or needs more care. Returns the position it
    /// came to.
    fn gather<V: Visit>(&mut self, bytes: &[u8], start: usize, visitor: &mut V) -> usize {
        if bytes.len() < start + WINDOW {
            return start;
        }
        let mut room = std::mem::take(&mut self.gathered);
        room.resize(BUFFER, 0);
        let position = match room.first_chunk_mut() {
            Some(buffer) => self.gather_in(buffer, bytes, start, visitor),
            None => start,
        };
        self.gathered = room;
        position
    }

    fn gather_in<V: Visit>(&self, buffer: &mut [u8; BUFFER], bytes: &[u8], start: usize, visitor: &mut V) -> usize {
        let mut filled = 0;
        let mut run_start = start;
        let mut base = start;
        // Blocks follow each other at a fixed distance, whatever they hold, so that the masks of the next ones can be
        // worked out while this one is decoded.
        let mut escaped = 0;
        while let Some(block) = bytes
            .get(base..base + WINDOW)
            .and_then(|window| window.first_chunk::<BLOCK>())
        {
            let masks = Block::new(block);
            let backslashes = masks.equal(b'\\');
            let stops = masks.stops();
            let second = escaped;
            let starts = bits::escape_starts(backslashes, &mut escaped);
            let stops = stops & !(starts << 1 | second);
            let starts = starts & bits::below_lowest(stops);
            let mut understood = true;
            for at in bits::positions(starts) {
                let at = base + at;
                copy_run(bytes, run_start..at, buffer, &mut filled);
                run_start = at;
                let Some(length) = unescape(bytes, at, buffer, &mut filled) else {
                    understood = false;
                    break;
                };
                run_start += length;
            }
            if !understood {
                break;
            }
            // The second half of an escape may lie in the next block.
            let run_end = base + (stops.trailing_zeros() as usize).min(BLOCK);
            if stops != 0 || run_end.saturating_sub(run_start) >= LONG_RUN {
                copy_run(bytes, run_start..run_end.max(run_start), buffer, &mut filled);
                run_start = run_end.max(run_start);
                break;
            }
            if filled >= GATHERED {
                self.emit(&buffer[..filled], visitor);
                filled = 0;
            }
            base += BLOCK;
        }
        self.emit(&buffer[..filled], visitor);
        run_start
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
        if self.want != Want::End && !piece.is_empty() {
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
                let plain = PLAIN_ESCAPES[usize::from(byte)];
                if plain == 0 {
                    return Err(fault("one of `\"\\/bfnrtu` after `\\`").into());
                }
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

/// How many bytes stand before the first that is not plain: a quote, a `\`, a control character.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    let mut length = 0;
    for block in blocks {
        let special = Block::new(block).special();
        if special != 0 {
            return length + special.trailing_zeros() as usize;
        }
        length += BLOCK;
    }
    let special = |byte: &u8| matches!(*byte, b'"' | b'\\' | ..0x20);
    length + rest.iter().position(special).unwrap_or(rest.len())
}

/// Copies a run in whole pieces; a piece behind its end must be there.
#[inline]
fn copy_run(bytes: &[u8], run: Range<usize>, buffer: &mut [u8; BUFFER], filled: &mut usize) {
    let mut from = run.start;
    let mut to = *filled;
    loop {
        let source = bytes
            .get(from..from + PIECE)
            .and_then(|piece| piece.first_chunk::<PIECE>());
        let target = buffer
            .get_mut(to..to + PIECE)
            .and_then(|piece| piece.first_chunk_mut::<PIECE>());
        let (Some(source), Some(target)) = (source, target) else {
            break;
        };
        *target = *source;
        from += PIECE;
        to += PIECE;
        if from >= run.end {
            break;
        }
    }
    *filled += run.len();
}

/// Decodes the escape at `at`. Returns its length; `None` for a surrogate, which may need another one, and a wrong escape.
#[inline]
fn unescape(bytes: &[u8], at: usize, buffer: &mut [u8; BUFFER], filled: &mut usize) -> Option<usize> {
    let escape = bytes.get(at..at + 6)?.first_chunk::<6>()?;
    let decoded = PLAIN_ESCAPES[usize::from(escape[1])];
    if decoded != 0 {
        *buffer.get_mut(*filled)? = decoded;
        *filled += 1;
        return Some(2);
    }
    let [_, b'u', digits @ ..] = escape else { return None };
    let [a, b, c, d] = digits.map(|digit| u32::from(HEX_DIGITS[usize::from(digit)]));
    if (a | b | c | d) > 0xF {
        return None;
    }
    let character = char::from_u32(a << 12 | b << 8 | c << 4 | d)?;
    *filled += character.encode_utf8(buffer.get_mut(*filled..*filled + 4)?).len();
    Some(6)
}

/// What the one-letter escapes stand for; 0 for every other byte.
static PLAIN_ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[b'/' as usize] = b'/';
    table[b'b' as usize] = 0x08;
    table[b'f' as usize] = 0x0C;
    table[b'n' as usize] = b'\n';
    table[b'r' as usize] = b'\r';
    table[b't' as usize] = b'\t';
    table
};

/// The values of hexadecimal digits; above 15 for every other byte.
static HEX_DIGITS: [u8; 256] = {
    let mut table = [0xFF; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit] as usize] = digit as u8;
        table[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};
