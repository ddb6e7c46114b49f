//! Blocks of 64 bytes as bit masks: bit `i` says something of byte `i`.
//!
//! Plain loops over fixed arrays, written so that they become vector code on every target.

/// Bytes in a block.
pub(super) const BLOCK: usize = 64;

/// The bytes of the block for which `is` holds.
#[inline]
pub(super) fn mask(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> u64 {
    let [low, high] = *folded(block, is).as_chunks::<8>().0 else {
        return 0;
    };
    transposed(u64::from_le_bytes(low) | u64::from_le_bytes(high) << 1)
}

/// Lays the rows of 16 bytes over each other, two bits apart. With the halves of the result laid over each other one bit
/// apart, byte `j` has at bit `i` what is to be bit `j` of byte `i`.
///
/// Not inlined, as the optimiser otherwise carries the widening to words into the loop, which makes it three times slower.
#[inline(never)]
fn folded(block: &[u8; BLOCK], is: impl Fn(u8) -> bool) -> [u8; 16] {
    let mut folded = [0u8; 16];
    let [first, second, third, fourth] = block.as_chunks::<16>().0 else {
        return folded;
    };
    let rows = first.iter().zip(second).zip(third).zip(fourth);
    for (flags, (((a, b), c), d)) in folded.iter_mut().zip(rows) {
        *flags = flag(is(*a), 1) | flag(is(*b), 4) | flag(is(*c), 16) | flag(is(*d), 64);
    }
    folded
}

#[inline]
fn flag(set: bool, value: u8) -> u8 {
    if set { value } else { 0 }
}

/// Swaps bit `i` of byte `j` with bit `j` of byte `i`: bits within squares of two by two, then four by four, then eight.
#[inline]
fn transposed(mut bits: u64) -> u64 {
    for (distance, upper) in [
        (7, 0x00AA_00AA_00AA_00AA),
        (14, 0x0000_CCCC_0000_CCCC),
        (28, 0x0000_0000_F0F0_F0F0),
    ] {
        let swapped = (bits ^ (bits >> distance)) & upper;
        bits ^= swapped ^ (swapped << distance);
    }
    bits
}

/// The bits below the lowest one of `bits`; all of them if there is none.
#[inline]
pub(super) fn below_lowest(bits: u64) -> u64 {
    !bits & bits.wrapping_sub(1)
}

/// The positions of the set bits, in ascending order.
#[inline]
pub(super) fn positions(bits: u64) -> impl Iterator<Item = usize> {
    let mut rest = bits;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let position = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(position)
    })
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
        fn masks_say_what_they_say(block in any::<[u8; BLOCK]>(), byte: u8) {
            let mask = mask(&block, |other| other <= byte);
            for (index, other) in block.iter().enumerate() {
                prop_assert_eq!(mask >> index & 1 == 1, *other <= byte);
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
        fn positions_are_those_of_the_set_bits(bits: u64) {
            let found: Vec<usize> = positions(bits).collect();
            let expected: Vec<usize> = (0..64).filter(|index| bits >> index & 1 == 1).collect();
            prop_assert_eq!(below_lowest(bits).count_ones() as usize, expected.first().copied().unwrap_or(64));
            prop_assert_eq!(found, expected);
        }
    }
}
