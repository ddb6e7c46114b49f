//! Strings: runs of plain bytes, and escapes that any cut may split.
//!
//! Three ways to read, by what the text is like. Long plain runs go to the visitor where they lie, found by vector
//! search. From an escape on, what it stands for and the runs between it and the next ones are gathered in a buffer,
//! block by block and almost without branches, until a run is long again: a visitor is called for kilobytes, not for
//! each piece. Escapes that are split by a cut, or wrong, go byte by byte.

use std::ops::Range;

use super::bits::{self, BLOCK, ByMasks, Masks, Portable};
use super::escape::{self, LONGEST};
use super::machine::{Escape, JsonScan, State, malformed};
use super::{Kind, Visit, Want};

/// A lone surrogate has no UTF-8 form.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

const EXPECTED_CHARACTER: &str = "a character (control characters must be escaped)";

/// Bytes copied at once: a run is copied in such pieces, the last of which may carry bytes that do not count.
const PIECE: usize = 16;

/// What a step of gathering must see: its block, and the end of escapes or a piece that begin in it.
const WINDOW: usize = BLOCK + LONGEST;

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
            .map_or(0, |letter| escape::PLAIN[usize::from(*letter)]);
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
    /// long run, the end of the string or of the bytes, an escape that is wrong or cut. Returns the position it came to.
    fn gather<V: Visit>(&mut self, bytes: &[u8], start: usize, visitor: &mut V) -> usize {
        let rest = &bytes[start..];
        if rest.len() >= WINDOW {
            let mut room = std::mem::take(&mut self.gathered);
            room.resize(BUFFER, 0);
            let length = bits::widest(Gathering {
                scan: self,
                buffer: &mut room,
                bytes: rest,
                visitor,
            });
            self.gathered = room;
            return start + length;
        }
        if rest.get(1) != Some(&b'u') {
            return start;
        }
        // The zeros behind the end stop it there.
        let end: [u8; WINDOW + BLOCK] = bits::padded(rest);
        start + self.gather_in(Portable, &mut [0; WINDOW + 2 * BLOCK], &end, visitor)
    }

    #[inline(always)]
    fn gather_in<V: Visit>(&self, masks: impl Masks, buffer: &mut [u8], bytes: &[u8], visitor: &mut V) -> usize {
        let mut filled = 0;
        let mut run_start = 0_usize;
        let mut base = 0;
        // Blocks follow each other at a fixed distance, whatever they hold, so that the masks of the next ones can be
        // worked out while this one is decoded.
        let mut escaped = 0;
        'blocks: while let Some(window) = bytes.get(base..).and_then(|rest| rest.first_chunk::<WINDOW>()) {
            let block = window.first_chunk().unwrap_or(&[0; BLOCK]);
            let backslashes = masks.equal(block, b'\\');
            let stops = masks.stops(block);
            let second = escaped;
            let starts = bits::escape_starts(backslashes, &mut escaped);
            let stops = stops & !(starts << 1 | second);
            let all = starts & bits::below_lowest(stops);
            let mut starts = all;
            let mut units = None;
            while starts != 0 {
                let at = starts.trailing_zeros() as usize;
                starts &= starts - 1;
                // It may have been read as the second half of a pair.
                if base + at < run_start {
                    continue;
                }
                copy_run(bytes, run_start..base + at, buffer, &mut filled);
                run_start = base + at;
                let Some(escapes) = window.get(at..).and_then(|rest| rest.first_chunk()) else {
                    break 'blocks;
                };
                if escape::units_follow(escapes) {
                    // A closure would not be compiled for the longer vectors.
                    let runs = match units {
                        Some(runs) => runs,
                        None => UnitRuns::new(all & masks.equal(block, b'u') >> 1),
                    };
                    units = Some(runs);
                    let count = runs.at(at);
                    if count > 1 && escape::units(escapes, count, buffer, &mut filled) {
                        run_start += count * escape::UNIT;
                        starts &= u64::MAX << (at + (count - 1) * escape::UNIT) << 1;
                        continue;
                    }
                }
                match escape::decode(escapes, buffer, &mut filled) {
                    0 => break 'blocks,
                    length => run_start += length,
                }
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
                let plain = escape::PLAIN[usize::from(byte)];
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
            return self.emit_char(escape::joined(u32::from(high), u32::from(unit)), visitor);
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

/// Where in a block there are one, two, three and four escapes `\uXXXX` in a row.
#[derive(Clone, Copy)]
struct UnitRuns([u64; 4]);

impl UnitRuns {
    #[inline(always)]
    fn new(one: u64) -> Self {
        let two = one & one >> escape::UNIT;
        let three = two & one >> (2 * escape::UNIT);
        Self([one, two, three, three & one >> (3 * escape::UNIT)])
    }

    /// How many there are in a row from a position on, but no more than four.
    #[inline(always)]
    fn at(&self, position: usize) -> usize {
        self.0.iter().map(|run| (run >> position & 1) as usize).sum()
    }
}

/// How many bytes stand before the first that is not plain: a quote, a `\`, a control character.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    // Most strings are short.
    let length = Plain(&bytes[..bytes.len().min(BLOCK)]).by(Portable);
    if length < BLOCK {
        return length;
    }
    length + bits::widest(Plain(&bytes[BLOCK..]))
}

/// The search for the first byte that is not plain.
struct Plain<'a>(&'a [u8]);

impl ByMasks for Plain<'_> {
    type Output = usize;

    #[inline(always)]
    fn by(self, masks: impl Masks) -> usize {
        let (blocks, rest) = self.0.as_chunks::<BLOCK>();
        let mut length = 0;
        for block in blocks {
            let special = masks.equal(block, b'\\') | masks.stops(block);
            if special != 0 {
                return length + special.trailing_zeros() as usize;
            }
            length += BLOCK;
        }
        let special = |byte: &u8| matches!(*byte, b'"' | b'\\' | ..0x20);
        length + rest.iter().position(special).unwrap_or(rest.len())
    }
}

/// [`JsonScan::gather_in`].
struct Gathering<'a, V> {
    scan: &'a JsonScan,
    buffer: &'a mut [u8],
    bytes: &'a [u8],
    visitor: &'a mut V,
}

impl<V: Visit> ByMasks for Gathering<'_, V> {
    type Output = usize;

    #[inline(always)]
    fn by(self, masks: impl Masks) -> usize {
        self.scan.gather_in(masks, self.buffer, self.bytes, self.visitor)
    }
}

/// Copies a run in whole pieces; a piece behind its end must be there.
#[inline(always)]
fn copy_run(bytes: &[u8], run: Range<usize>, buffer: &mut [u8], filled: &mut usize) {
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
