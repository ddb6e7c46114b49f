//! Blocks of 64 bytes as bit masks: bit `i` says something of byte `i`.

use wide::u8x16;

/// Bytes in a block.
pub(super) const BLOCK: usize = 64;

/// A block in vector registers.
#[derive(Clone, Copy)]
pub(super) struct Block([u8x16; 4]);

// === impl Block ===

impl Block {
    #[inline]
    pub(super) fn new(bytes: &[u8; BLOCK]) -> Self {
        let rows = bytes.as_chunks::<16>().0;
        Self(std::array::from_fn(|row| {
            rows.get(row).map_or(u8x16::ZERO, |row| u8x16::new(*row))
        }))
    }

    /// The bytes that are `byte`.
    #[inline]
    pub(super) fn equal(self, byte: u8) -> u64 {
        let byte = u8x16::splat(byte);
        bits(self.0.map(|row| row.simd_eq(byte)))
    }

    /// The decimal digits.
    #[inline]
    pub(super) fn digits(self) -> u64 {
        bits(self.0.map(|row| {
            let value = row - u8x16::splat(b'0');
            value.min(u8x16::splat(9)).simd_eq(value)
        }))
    }

    /// The bytes that end a run of plain ones: a quote, a `\`, a control character.
    #[inline]
    pub(super) fn special(self) -> u64 {
        let backslash = u8x16::splat(b'\\');
        bits(self.0.map(|row| row.simd_eq(backslash) | quote_or_control(row)))
    }

    /// Quotes and control characters.
    #[inline]
    pub(super) fn stops(self) -> u64 {
        bits(self.0.map(quote_or_control))
    }
}

#[inline]
fn quote_or_control(row: u8x16) -> u8x16 {
    row.simd_eq(u8x16::splat(b'"')) | row.min(u8x16::splat(0x1F)).simd_eq(row)
}

#[inline]
fn bits(rows: [u8x16; 4]) -> u64 {
    let [a, b, c, d] = rows.map(|row| u64::from(row.to_bitmask()));
    a | b << 16 | c << 32 | d << 48
}

/// The first bytes of a longer window, and zeros behind them.
#[cold]
pub(super) fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut window = [0; N];
    for (to, from) in window.iter_mut().zip(bytes) {
        *to = *from;
    }
    window
}

/// The bits below the lowest one of `bits`; all of them if there is none.
#[inline]
pub(super) fn below_lowest(bits: u64) -> u64 {
    !bits & bits.wrapping_sub(1)
}

/// Those bits of `backslashes` that start an escape: of a row of them, the first, the third and so on. Bit 0 of `escaped`
/// says that the first byte of the block is the second one of an escape; it becomes the same for the next block.
#[inline]
pub(super) fn escape_starts(backslashes: u64, escaped: &mut u64) -> u64 {
    const EVEN: u64 = 0x5555_5555_5555_5555;
    let backslashes = backslashes & !*escaped;
    // Adding the start of a row carries through the row. Rows that start on even bits, where the carry is left out, and
    // on odd bits then differ in which of their bits are second ones.
    let after = backslashes << 1 | *escaped;
    let odd_starts = backslashes & !EVEN & !after;
    let carried = odd_starts.wrapping_add(backslashes);
    let second = (EVEN ^ (carried << 1)) & after;
    let starts = backslashes & !second;
    *escaped = starts >> (BLOCK - 1);
    starts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn masks_say_what_they_say(block in any::<[u8; BLOCK]>(), thick in any::<[u8; 3]>(), byte: u8) {
            let mut block = block;
            // Bytes that matter are rare among random ones.
            for (at, special) in thick.into_iter().zip([byte, b'"', b'\\']) {
                block[usize::from(at) % BLOCK] = special;
            }
            let masks = Block::new(&block);
            for (index, other) in block.into_iter().enumerate() {
                let is = |mask: u64| mask >> index & 1 == 1;
                prop_assert_eq!(is(masks.equal(byte)), other == byte);
                prop_assert_eq!(is(masks.digits()), other.is_ascii_digit());
                prop_assert_eq!(is(masks.stops()), other == b'"' || other < 0x20);
                prop_assert_eq!(is(masks.special()), other == b'"' || other == b'\\' || other < 0x20);
            }
        }

        #[test]
        fn every_other_backslash_of_a_row_starts_an_escape(rows in any::<[u64; 3]>(), thick in any::<[u64; 3]>()) {
            let mut carry = 0;
            let mut escaped = false;
            for block in 0..3 {
                let backslashes = rows[block] | thick[block];
                let mut expected = 0;
                for index in 0..64 {
                    let starts = backslashes >> index & 1 == 1 && !escaped;
                    expected |= u64::from(starts) << index;
                    escaped = starts;
                }
                prop_assert_eq!(escape_starts(backslashes, &mut carry), expected);
                prop_assert_eq!(carry == 1, escaped);
            }
        }

        #[test]
        fn what_is_below_the_lowest_bit(bits: u64) {
            let lowest = (0..64).find(|index| bits >> index & 1 == 1).unwrap_or(64);
            prop_assert_eq!(u128::from(below_lowest(bits)), (1u128 << lowest) - 1);
        }
    }
}
