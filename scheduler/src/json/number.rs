//! Numbers: the grammar, byte by byte, and a faster way for lists of token ids.

use super::bits::{self, BLOCK};
use super::scan::{JsonScan, State, malformed};
use super::{Kind, Visit, Want};

/// How far a number has come; named for what was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Start,
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigit,
}

impl Number {
    pub(super) fn may_end(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigit)
    }

    /// The state after `byte`, if the number goes on with it.
    #[inline]
    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Start, b'-') => Self::Minus,
            (Self::Start | Self::Minus, b'0') => Self::Zero,
            (Self::Start | Self::Minus, b'1'..=b'9') => Self::Integer,
            (Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::Exponent,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Exponent, b'+' | b'-') => Self::ExponentSign,
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigit, b'0'..=b'9') => Self::ExponentDigit,
            _ => return None,
        })
    }
}

impl JsonScan {
    /// Reads a number from `pos` on, as far as it goes. Returns the position after it.
    pub(super) fn number<V: Visit>(
        &mut self,
        mut number: Number,
        bytes: &[u8],
        start: usize,
        visitor: &mut V,
    ) -> Result<usize, V::Error> {
        if number == Number::Start && self.want == Want::Ids {
            let after = self.ids(bytes, start, visitor);
            if after > start {
                return Ok(after);
            }
        }
        let mut pos = start;
        let mut ended = false;
        while let Some(&byte) = bytes.get(pos) {
            match number.next(byte) {
                Some(next) => number = next,
                None => {
                    ended = true;
                    break;
                }
            }
            pos += 1;
        }
        if self.want != Want::End {
            visitor.text(&bytes[start..pos]);
        }
        if !ended {
            self.state = State::InNumber(number);
            return Ok(pos);
        }
        let offset = self.base + pos as u64;
        if !number.may_end() {
            return Err(malformed(offset, "a digit").into());
        }
        self.value_ended(Kind::Number, offset, visitor)?;
        Ok(pos)
    }

    /// Reads integers of a list and the commas behind them, as long as they are short and plainly spelled. Stops at what
    /// it leaves to the grammar: the last elements, another spelling of the comma than the first one's, anything else.
    /// Returns the position it came to: where the next element must begin.
    fn ids<V: Visit>(&mut self, bytes: &[u8], start: usize, visitor: &mut V) -> usize {
        // Lists are written by programs: with a blank behind every comma, or none.
        let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut gathered = [0u8; GATHERED + 4 * MOST_IDS];
        let mut ids = Ids {
            gathered: &mut gathered,
            count: 0,
            next: start,
        };
        let mut base = start;
        let blank = matches!(bytes[start + digits..], [b',', b' ', ..]);
        while base + WINDOW <= bytes.len() {
            let read = if blank {
                ids.block::<1>(bytes, base)
            } else {
                ids.block::<0>(bytes, base)
            };
            if !read {
                break;
            }
            if ids.count * 4 >= GATHERED {
                visitor.ids(ids.take());
            }
            base += BLOCK;
        }
        if ids.count > 0 {
            visitor.ids(ids.take());
        }
        if ids.next > start {
            self.state = State::Value;
        }
        ids.next
    }
}

/// What a step of reading ids must see: a block, and the word that begins behind its last comma.
const WINDOW: usize = BLOCK + 16;

/// Ids in one block, at most: a digit and a comma each.
const MOST_IDS: usize = BLOCK / 2;

/// Bytes of ids gathered before the visitor gets them.
const GATHERED: usize = 512;

/// Each byte of a word: its highest bit, the digit zero, and what lifts more than nine to the highest bit.
const HIGH: u64 = 0x8080_8080_8080_8080;
const ZEROS: u64 = 0x3030_3030_3030_3030;
const LIFT: u64 = 0x7676_7676_7676_7676;

/// The least integer of so many digits, but for zero itself; nothing has no digits.
const LEAST: [u32; 8] = [u32::MAX, 0, 10, 100, 1_000, 10_000, 100_000, 1_000_000];

/// Ids read and not yet passed on.
struct Ids<'a> {
    gathered: &'a mut [u8; GATHERED + 4 * MOST_IDS],
    count: usize,
    /// Where the next id begins.
    next: usize,
}

impl Ids<'_> {
    fn take(&mut self) -> &[u8] {
        let count = std::mem::take(&mut self.count);
        &self.gathered[..4 * count]
    }

    /// Reads the integers whose commas lie in the block at `base`, each of one to seven digits, with `BLANK` blanks behind
    /// its comma. All of them or, where one is otherwise, none.
    ///
    /// Faults are only added up: whether there was one is asked once, so that nothing waits for the answer.
    #[inline]
    fn block<const BLANK: usize>(&mut self, bytes: &[u8], base: usize) -> bool {
        let Some(block) = bytes.get(base..).and_then(|rest| rest.first_chunk::<BLOCK>()) else {
            return false;
        };
        let commas = bits::mask(block, |byte| byte == b',');
        let mut next = self.next;
        let mut count = self.count;
        let mut no_digit = 0;
        let mut wrong = commas == 0;
        for comma in bits::positions(commas) {
            let comma = base + comma;
            let Some(word) = bytes.get(next..next + 8).and_then(|word| word.first_chunk::<8>()) else {
                return false;
            };
            let Some(slot) = self.gathered.as_chunks_mut::<4>().0.get_mut(count) else {
                return false;
            };
            let length = comma.wrapping_sub(next);
            // The digits go to the top of the word, zeros before them.
            let digits =
                (u64::from_le_bytes(*word) ^ ZEROS).wrapping_shl(64u32.wrapping_sub((length as u32).wrapping_mul(8)));
            let value = joined(digits);
            *slot = value.to_le_bytes();
            no_digit |= digits.wrapping_add(LIFT) | digits;
            wrong |= length > 7 || value < LEAST[length % 8];
            if BLANK == 1 {
                wrong |= bytes.get(comma + 1) != Some(&b' ');
            }
            count += 1;
            next = comma + 1 + BLANK;
        }
        if wrong || no_digit & HIGH != 0 {
            return false;
        }
        self.next = next;
        self.count = count;
        true
    }
}

/// The value of eight digits, the first in the lowest byte: pairs are joined, then fours, then all.
#[inline]
fn joined(digits: u64) -> u32 {
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_FFFF_0000_FFFF;
    (fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xFFFF_FFFF) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of the text, behind which blanks stand, in one block.
    fn read(text: &[u8], blank: bool) -> Option<(Vec<u32>, usize)> {
        let mut bytes = [b' '; WINDOW];
        bytes[..text.len()].copy_from_slice(text);
        let mut gathered = [0; GATHERED + 4 * MOST_IDS];
        let mut ids = Ids {
            gathered: &mut gathered,
            count: 0,
            next: 0,
        };
        let read = if blank {
            ids.block::<1>(&bytes, 0)
        } else {
            ids.block::<0>(&bytes, 0)
        };
        let next = ids.next;
        let values = ids
            .take()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|id| u32::from_le_bytes(*id))
            .collect();
        read.then_some((values, next))
    }

    #[test]
    fn short_integers_are_read_as_they_are_spelled() {
        let compact = read(b"0,7,1234567,9999999,128000,5]", false);
        assert_eq!(compact, Some((vec![0, 7, 1_234_567, 9_999_999, 128_000], 27)));
        assert_eq!(read(b"0, 7, 1234567, 15", true), Some((vec![0, 7, 1_234_567], 15)));
        assert_eq!(read(&b"1,".repeat(32), false), Some((vec![1; 32], 64)));
        for value in (0..10_000_000u32).step_by(997) {
            let text = format!("{value},");
            assert_eq!(read(text.as_bytes(), false), Some((vec![value], text.len())));
        }
    }

    #[test]
    fn what_is_not_plainly_spelled_is_left_to_the_grammar() {
        for other in [
            "12345678,",
            "123456789012345678,",
            "01,",
            "00,",
            "-1,",
            "1.5,",
            "1e5,",
            " 1,",
            "1 ,",
            ",",
            "\"1\",",
            "[1,",
            "1/,",
            "1:,",
            "é,",
        ] {
            let text = format!("7,{other}8,");
            assert_eq!(read(text.as_bytes(), false), None, "{other}");
        }
        assert_eq!(read(b"7, 8,9, ", true), None);
        assert_eq!(read(b"7,8, 9, ", false), None);
        assert_eq!(read(b"7", false), None);
    }
}
