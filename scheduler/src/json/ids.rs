//! Lists of token ids: many short integers in a row, read without a branch for what each of them is.
//!
//! The commas of a block are found first, and with them the first byte that is not as it should be, whatever that is: the
//! integers before it are then read in rows, without a question. All that is unusual is left to the grammar.

use wide::bytemuck::cast;
use wide::{i16x8, u16x8, u64x2};

use super::Visit;
use super::bits::{self, BLOCK, Masks as _, Portable};
use super::machine::{JsonScan, State};

/// Integers read in a row. What a row has too many is written all the same and does not count.
const ROW: usize = 4;

/// The most digits of an integer: a word of them.
const DIGITS: usize = 8;

/// Bytes of a window before its block: blanks and digits of an integer whose comma lies in the block.
const BEFORE: usize = 16;

/// What a step must see: its block, and a word from wherever an integer may begin.
const WINDOW: usize = BEFORE + BLOCK + AFTER;
const AFTER: usize = 16;

/// Bytes of ids gathered before the visitor gets them, and room for one more block: a digit and a comma each.
const GATHERED: usize = 512;
const BUFFER: usize = GATHERED + 4 * BLOCK / 2;

impl JsonScan {
    /// Reads integers of a list and the commas behind them, as long as they are plainly spelled. Stops at what it leaves
    /// to the grammar: the last one, another spelling than the first one's, anything else. Returns the position it came
    /// to, behind a comma, or `start`.
    pub(super) fn ids<V: Visit>(&mut self, bytes: &[u8], start: usize, visitor: &mut V) -> usize {
        if start <= BEFORE || self.base + (start as u64) < self.ids_again_at {
            return start;
        }
        // Lists are written by programs, and each by one.
        let (next, other) = match bytes[start - 1] {
            b' ' => read::<V, 1>(bytes, start - 1, visitor),
            _ => read::<V, 0>(bytes, start, visitor),
        };
        if other {
            // Where ids are not of this kind, the work is not done in vain for each of them.
            self.ids_again_at = self.base + (next + BLOCK) as u64;
        }
        if next <= start {
            return start;
        }
        self.state = State::Value;
        next
    }
}

/// Reads integers with `BLANK` blanks before each from `start` on. Returns where the first one begins that is left to the
/// grammar, and whether that one is of another kind, rather than the last one of the list or of the bytes.
fn read<V: Visit, const BLANK: usize>(bytes: &[u8], start: usize, visitor: &mut V) -> (usize, bool) {
    let mut buffer = [0; BUFFER];
    let mut filled = 0;
    let mut base = start - BEFORE;
    // Where the integer at hand begins in the window, with its blanks.
    let mut next = BEFORE;
    let mut carried = Carried::new(BLANK);
    let fault = loop {
        let rest = bytes.get(base..).unwrap_or_default();
        let end;
        let window = match rest.first_chunk() {
            Some(window) => window,
            None => {
                end = bits::padded(rest);
                &end
            }
        };
        let (commas, faults) = plain::<BLANK>(window, next, &mut carried);
        let plain = commas & bits::below_lowest(faults);
        if plain != 0 {
            integers::<BLANK>(window, plain, next, buffer.get_mut(filled..).unwrap_or_default());
            filled += 4 * plain.count_ones() as usize;
            next = WINDOW - AFTER - plain.leading_zeros() as usize;
        }
        if faults != 0 {
            break rest.get(BEFORE + faults.trailing_zeros() as usize);
        }
        if filled >= GATHERED {
            visitor.ids(&buffer[..filled]);
            filled = 0;
        }
        next = next.wrapping_sub(BLOCK);
        base += BLOCK;
    };
    if filled > 0 {
        visitor.ids(&buffer[..filled]);
    }
    (base + next, fault.is_some_and(|byte| *byte != b']'))
}

/// What the last byte of a block says of the first one of the next, as bit 0.
struct Carried {
    /// An integer begins, with its blanks.
    first: u64,
    /// Its digits begin.
    start: u64,
    /// It ends, as the byte before was a zero that began it.
    ended: u64,
}

impl Carried {
    fn new(blanks: usize) -> Self {
        Self {
            first: 1,
            start: u64::from(blanks == 0),
            ended: 0,
        }
    }
}

/// The commas in the window's block, and bytes that are not as they should be: the first of them is within the first integer
/// that is not plain, or its comma.
#[inline(always)]
fn plain<const BLANK: usize>(window: &[u8; WINDOW], next: usize, carried: &mut Carried) -> (u64, u64) {
    let block = window[BEFORE..].first_chunk().unwrap_or(&[0; BLOCK]);
    let commas = Portable.equal(block, b',');
    let digits = Portable.digits(block);
    let firsts = commas << 1 | carried.first;
    carried.first = commas >> (BLOCK - 1);
    // Blanks stand where they have to, and nowhere else.
    let (starts, strange) = if BLANK == 0 {
        (firsts, !(digits | commas))
    } else {
        let starts = firsts << 1 | carried.start;
        carried.start = firsts >> (BLOCK - 1);
        (
            starts,
            !(digits | commas) ^ firsts | firsts & !Portable.equal(block, b' '),
        )
    };
    let zeros = starts & Portable.equal(block, b'0');
    let ended = zeros << 1 | carried.ended;
    carried.ended = zeros >> (BLOCK - 1);
    // An integer has a word of digits and not one more, and may have begun before the block.
    let twos = digits & digits >> 1;
    let fours = twos & twos >> 2;
    let long = fours & fours >> 4 & digits >> 8;
    let most = (next + BLANK + DIGITS).wrapping_sub(BEFORE);
    let first_long = u64::from(commas.trailing_zeros() as usize > most).wrapping_shl(most as u32);
    (commas, strange | starts & !digits | ended & !commas | long | first_long)
}

/// Reads the integers before `commas`, the first of which begins at `next`.
#[inline(always)]
fn integers<const BLANK: usize>(window: &[u8; WINDOW], commas: u64, next: usize, buffer: &mut [u8]) {
    let mut rest = commas;
    let mut next = next.min(BEFORE);
    for row in buffer.as_chunks_mut().0 {
        *row = joined(std::array::from_fn(|_| {
            let comma = BEFORE + rest.trailing_zeros() as usize;
            rest &= rest.wrapping_sub(1);
            let start = next + BLANK;
            next = comma + 1;
            let word = window.get(start..).and_then(|rest| rest.first_chunk());
            let word = u64::from_le_bytes(*word.unwrap_or(&[0; 8]));
            // The digits go to the top of the word, zeros before them.
            let length = comma.wrapping_sub(start) as u32;
            (word ^ 0x3030_3030_3030_3030).wrapping_shl(length.wrapping_mul(8).wrapping_neg())
        }));
        if rest == 0 {
            break;
        }
    }
}

/// The values of words of eight digits, the first in the lowest byte, little-endian: pairs are joined, then fours, then all.
#[inline(always)]
fn joined([a, b, c, d]: [u64; ROW]) -> [u8; 4 * ROW] {
    let fours = [[a, b], [c, d]].map(|words| {
        let digits: u16x8 = cast(u64x2::new(words));
        let pairs: i16x8 = cast((digits * u16x8::splat(10 << 8 | 1)) >> 8);
        pairs.dot(i16x8::new([100, 1, 100, 1, 100, 1, 100, 1]))
    });
    let fours = i16x8::from_i32x8_saturate(cast(fours));
    cast(fours.dot(i16x8::new([10_000, 1, 10_000, 1, 10_000, 1, 10_000, 1])))
}

#[cfg(test)]
mod tests {
    use super::super::{At, JsonError, Kind, Want};
    use super::*;

    #[derive(Default)]
    struct Heard(Vec<u32>);

    impl Visit for Heard {
        type Error = JsonError;

        fn begin(&mut self, _: Kind, _: At) -> Result<Want, JsonError> {
            Ok(Want::Ids)
        }

        fn text(&mut self, _: &[u8]) {}

        fn ids(&mut self, little_endian: &[u8]) {
            let (ids, rest) = little_endian.as_chunks();
            assert!(rest.is_empty(), "whole ids");
            self.0.extend(ids.iter().map(|id| u32::from_le_bytes(*id)));
        }

        fn end(&mut self, _: Kind, _: At) -> Result<(), JsonError> {
            Ok(())
        }
    }

    /// The ids that are read of a list, what is left to the grammar, and whether that is of another kind.
    fn read_list<const BLANK: usize>(list: &str) -> (Vec<u32>, &str, bool) {
        let text = format!("{{\"prompt\":      [{list}");
        let start = text.len() - list.len();
        let mut heard = Heard::default();
        let (next, other) = read::<_, BLANK>(text.as_bytes(), start, &mut heard);
        (heard.0, &list[next - start..], other)
    }

    #[test]
    fn short_integers_are_read_as_they_are_spelled() {
        let compact = read_list::<0>("0,7,1234567,99999999,128000,5]");
        assert_eq!(compact, (vec![0, 7, 1_234_567, 99_999_999, 128_000], "5]", false));
        let spaced = read_list::<1>(" 0, 7, 12345678, 15");
        assert_eq!(spaced, (vec![0, 7, 12_345_678], " 15", false));
        for value in (0..100_000_000u32).step_by(9_973) {
            let text = format!(" {value},");
            assert_eq!(read_list::<0>(&text[1..]), (vec![value], "", false));
            assert_eq!(read_list::<1>(&text), (vec![value], "", false));
        }
    }

    /// Behind every number of bytes, so that it lies in every place of a block and on the border of two.
    fn behind_others<const BLANK: usize>(check: impl Fn(&str, &[u32])) {
        let blank = " ".repeat(BLANK);
        for ones in 0..40 {
            for (first, id) in [
                ("", None),
                ("12,", Some(12)),
                ("1234567,", Some(1_234_567)),
                ("12345678,", Some(12_345_678)),
            ] {
                let mut text = String::new();
                let mut ids = vec![1; ones];
                text.push_str(&format!("{blank}1,").repeat(ones));
                if let Some(id) = id {
                    text.push_str(&format!("{blank}{first}"));
                    ids.push(id);
                }
                check(&text, &ids);
            }
        }
    }

    fn left_alone<const BLANK: usize>(others: &[&str]) {
        behind_others::<BLANK>(|text, ids| {
            for other in others {
                let list = format!("{text}{other},{}", " 8,".repeat(60));
                let (read, rest, is_other) = read_list::<BLANK>(&list);
                assert_eq!((&read[..], is_other), (ids, true), "{list}");
                assert!(rest.starts_with(&format!("{other},")), "{list}");
            }
        });
    }

    #[test]
    fn what_is_otherwise_spelled_is_left_to_the_grammar_with_all_that_follows() {
        left_alone::<0>(&[
            "123456789",
            "123456789012345678",
            "01",
            "00",
            "000000001",
            "",
            "-1",
            "1.5",
            "1e5",
            "1E5",
            " 1",
            "\n1",
            "1 ",
            "\"1\"",
            "[1",
            "1/",
            "1:",
            "é",
            "null",
            "{}",
            "1234567890123456789012345678901234567890123456789012345678901234567890",
        ]);
        left_alone::<1>(&[
            "8",
            "  8",
            " 8 ",
            " 08",
            " 00",
            " ",
            " 123456789",
            " -1",
            " 1 1",
            "\t1",
            "01",
            " 1.0",
            "\n 1",
            " \n1",
            " [1",
            " é",
        ]);
    }

    #[test]
    fn the_last_ones_of_the_list_and_of_the_bytes_are_left_too() {
        behind_others::<0>(|text, ids| {
            for end in ["5", "5]", "5],\"n\":1", "", "12345678", "0"] {
                assert_eq!(
                    read_list::<0>(&format!("{text}{end}")),
                    (ids.to_vec(), end, false),
                    "{text}"
                );
            }
        });
        behind_others::<1>(|text, ids| {
            for end in [" 5", " 5]", "", " ", " 0"] {
                assert_eq!(
                    read_list::<1>(&format!("{text}{end}")),
                    (ids.to_vec(), end, false),
                    "{text}"
                );
            }
        });
    }
}
