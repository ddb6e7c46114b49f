//! Lists of token ids: many short integers in a row, read without a branch for what each of them is.
//!
//! The commas of a block are found first; then the integers before them are read, and what is wrong with any of them is
//! only added up and asked for once. All that is unusual is left to the grammar.

use super::Visit;
use super::bits::{self, BLOCK, Block};
use super::machine::{JsonScan, State};

/// What a step must see: its block, and the word that begins behind its last comma.
const WINDOW: usize = BLOCK + 8;

/// Ids in a block, at most: a digit and a comma each.
const MOST_IDS: usize = BLOCK / 2;

/// Bytes of ids gathered before the visitor gets them, and room for one more block.
const GATHERED: usize = 512;
const BUFFER: usize = GATHERED + 4 * MOST_IDS;

/// What lifts a byte that is more than nine to its highest bit, and the highest bits.
const LIFT: u64 = 0x7676_7676_7676_7676;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// How a list is spelled; lists are written by programs, and each by one.
struct Spelling {
    /// A word of zeros, as an integer of it may begin.
    zeros: u64,
    /// The least integer of so many bytes, but for zero itself; `MAX` where there is none.
    least: [u32; 10],
}

/// Up to eight digits.
static COMPACT: Spelling = Spelling {
    zeros: 0x3030_3030_3030_3030,
    least: [
        u32::MAX,
        0,
        10,
        100,
        1_000,
        10_000,
        100_000,
        1_000_000,
        10_000_000,
        u32::MAX,
    ],
};

/// A blank and up to seven digits: the blank is read as one more zero in front.
static SPACED: Spelling = Spelling {
    zeros: 0x3030_3030_3030_3020,
    least: [
        u32::MAX,
        u32::MAX,
        0,
        10,
        100,
        1_000,
        10_000,
        100_000,
        1_000_000,
        u32::MAX,
    ],
};

impl JsonScan {
    /// Reads integers of a list and the commas behind them, as long as they are plainly spelled. Stops at what it leaves
    /// to the grammar: the last ones, another spelling than the first one's, anything else. Returns the position it came
    /// to, behind a comma, or `start`.
    pub(super) fn ids<V: Visit>(&mut self, bytes: &[u8], start: usize, visitor: &mut V) -> usize {
        if self.base + (start as u64) < self.ids_again_at {
            return start;
        }
        let blank_before = start > 0 && bytes[start - 1] == b' ';
        let (spelling, first) = if blank_before {
            (&SPACED, start - 1)
        } else {
            (&COMPACT, start)
        };
        let mut buffer = [0u8; BUFFER];
        let mut filled = 0;
        let mut next = first;
        let mut base = first;
        while let Some(after) = integers(bytes, base, next, spelling, &mut buffer, &mut filled) {
            next = after;
            base += BLOCK;
            if filled >= GATHERED {
                visitor.ids(&buffer[..filled]);
                filled = 0;
            }
        }
        // Where ids are not of this kind, the work is not done in vain for each of them.
        self.ids_again_at = self.base + (base + BLOCK) as u64;
        if filled > 0 {
            visitor.ids(&buffer[..filled]);
        }
        if next == first {
            return start;
        }
        self.state = State::Value;
        next
    }
}

/// Reads the integers whose commas lie in the block at `base`, the first of which begins at `next`, into `buffer` from
/// `filled` on. Returns where the one after them begins; `None`, and nothing is read, if one of them is not as `spelling`
/// has it.
#[inline]
fn integers(
    bytes: &[u8],
    base: usize,
    mut next: usize,
    spelling: &Spelling,
    buffer: &mut [u8; BUFFER],
    filled: &mut usize,
) -> Option<usize> {
    let block = bytes.get(base..base + WINDOW)?.first_chunk::<BLOCK>()?;
    let commas = Block::new(block).equal(b',');
    let mut no_digit = 0;
    let mut wrong = commas == 0;
    let slots = buffer.get_mut(*filled..)?.as_chunks_mut::<4>().0;
    for (slot, comma) in slots.iter_mut().zip(bits::positions(commas)) {
        let comma = base + comma;
        let word = bytes.get(next..)?.first_chunk::<8>()?;
        let length = comma.wrapping_sub(next);
        // The digits go to the top of the word, zeros before them.
        let digits =
            (u64::from_le_bytes(*word) ^ spelling.zeros).wrapping_shl((length as u32).wrapping_mul(8).wrapping_neg());
        let value = joined(digits);
        *slot = value.to_le_bytes();
        no_digit |= digits.wrapping_add(LIFT) | digits;
        wrong |= value < spelling.least[length.min(9)];
        next = comma + 1;
    }
    if wrong || no_digit & HIGH != 0 {
        return None;
    }
    *filled += 4 * commas.count_ones() as usize;
    Some(next)
}

/// The value of eight digits, the first in the lowest byte: pairs are joined, then fours, then all.
#[inline]
fn joined(digits: u64) -> u32 {
    let pairs = digits.wrapping_mul(10 << 8 | 1) >> 8 & 0x00FF_00FF_00FF_00FF;
    let fours = pairs.wrapping_mul(100 << 16 | 1) >> 16 & 0x0000_FFFF_0000_FFFF;
    (fours.wrapping_mul(10_000 << 32 | 1) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of the text, behind which blanks stand, in one block.
    fn read(text: &str, spelling: &Spelling) -> Option<(Vec<u32>, usize)> {
        let mut bytes = [b' '; WINDOW];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let mut buffer = [0; BUFFER];
        let mut filled = 0;
        let next = integers(&bytes, 0, 0, spelling, &mut buffer, &mut filled)?;
        let ids = buffer[..filled]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|id| u32::from_le_bytes(*id))
            .collect();
        Some((ids, next))
    }

    #[test]
    fn short_integers_are_read_as_they_are_spelled() {
        let compact = read("0,7,1234567,99999999,128000,5]", &COMPACT);
        assert_eq!(compact, Some((vec![0, 7, 1_234_567, 99_999_999, 128_000], 28)));
        assert_eq!(read(" 0, 7, 1234567, 15", &SPACED), Some((vec![0, 7, 1_234_567], 15)));
        assert_eq!(read(&"1,".repeat(32), &COMPACT), Some((vec![1; 32], 64)));
        for value in (0..10_000_000u32).step_by(997) {
            let text = format!(" {value},");
            assert_eq!(read(&text[1..], &COMPACT), Some((vec![value], text.len() - 1)));
            assert_eq!(read(&text, &SPACED), Some((vec![value], text.len())));
        }
    }

    #[test]
    fn what_is_otherwise_spelled_is_left_to_the_grammar() {
        let others = [
            "123456789,",
            "123456789012345678,",
            "01,",
            "00,",
            ",",
            "-1,",
            "1.5,",
            "1e5,",
            " 1,",
            "1 ,",
            "\"1\",",
            "[1,",
            "1/,",
            "1:,",
            "é,",
        ];
        for other in others {
            assert_eq!(read(&format!("7,{other}8,"), &COMPACT), None, "{other}");
        }
        for other in [
            "8,",
            "  8,",
            " 8 ,",
            " 08,",
            " ,",
            " 12345678,",
            " -1,",
            " 1 1,",
            "\t1,",
            "01,",
        ] {
            assert_eq!(read(&format!(" 7,{other} 9,"), &SPACED), None, "{other}");
        }
        assert_eq!(read("7", &COMPACT), None);
        assert_eq!(read("7]", &COMPACT), None);
    }
}
