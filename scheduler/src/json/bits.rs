//! Blocks of 64 bytes as bit masks: bit `i` says something of byte `i`.
//!
//! [`Portable`] works with the vectors that every processor of the target has: 16 bytes. Where the one at hand has longer ones, which shows
//! only while it runs, [`widest`] takes those, and what it runs must be inlined as a whole to be compiled for them. What must always hold: all say the same.

use wide::u8x16;

/// Bytes in a block.
pub(super) const BLOCK: usize = 64;

/// How masks of a block are made.
pub(super) trait Masks: Copy {
    /// The bytes that are `byte`.
    fn equal(self, block: &[u8; BLOCK], byte: u8) -> u64;

    /// Quotes and control characters.
    fn stops(self, block: &[u8; BLOCK]) -> u64;
}

/// By vectors of 16 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portable;

/// Work that is done by masks.
pub(super) trait ByMasks {
    /// What comes of it.
    type Output;

    /// Does it; to be inlined always.
    fn by(self, masks: impl Masks) -> Self::Output;
}

/// Does work by the longest vectors of this processor.
#[inline]
pub(super) fn widest<W: ByMasks>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = pulp::x86::V3::try_new() {
        return avx2.vectorize(avx2::By(avx2, work));
    }
    work.by(Portable)
}

// === impl Portable ===

impl Portable {
    /// The decimal digits.
    #[inline(always)]
    pub(super) fn digits(self, block: &[u8; BLOCK]) -> u64 {
        bits(block, |row| {
            let value = row - u8x16::splat(b'0');
            value.min(u8x16::splat(9)).simd_eq(value)
        })
    }
}

impl Masks for Portable {
    #[inline(always)]
    fn equal(self, block: &[u8; BLOCK], byte: u8) -> u64 {
        let byte = u8x16::splat(byte);
        bits(block, |row| row.simd_eq(byte))
    }

    #[inline(always)]
    fn stops(self, block: &[u8; BLOCK]) -> u64 {
        bits(block, |row| {
            row.simd_eq(u8x16::splat(b'"')) | row.min(u8x16::splat(0x1F)).simd_eq(row)
        })
    }
}

#[inline(always)]
fn bits(block: &[u8; BLOCK], is: impl Fn(u8x16) -> u8x16) -> u64 {
    let (rows, _) = block.as_chunks::<16>();
    let rows = rows.iter().zip([0, 16, 32, 48]);
    rows.fold(0, |mask, (row, shift)| {
        mask | u64::from(is(u8x16::new(*row)).to_bitmask()) << shift
    })
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use pulp::x86::V3;
    use pulp::{NullaryFnOnce, cast, u8x32};

    use super::{BLOCK, ByMasks, Masks};

    /// Work by vectors of 32 bytes.
    pub(super) struct By<W>(pub(super) V3, pub(super) W);

    impl<W: ByMasks> NullaryFnOnce for By<W> {
        type Output = W::Output;

        #[inline(always)]
        fn call(self) -> W::Output {
            self.1.by(self.0)
        }
    }

    // Neither closures nor iterators: what is not inlined always is not compiled for these vectors, and ten times slower.
    impl Masks for V3 {
        #[inline(always)]
        fn equal(self, block: &[u8; BLOCK], byte: u8) -> u64 {
            let [low, high] = cast::<_, [u8x32; 2]>(*block);
            let byte = self.splat_u8x32(byte);
            bits(
                self,
                cast(self.cmp_eq_u8x32(low, byte)),
                cast(self.cmp_eq_u8x32(high, byte)),
            )
        }

        #[inline(always)]
        fn stops(self, block: &[u8; BLOCK]) -> u64 {
            let [low, high] = cast::<_, [u8x32; 2]>(*block);
            bits(self, quote_or_control(self, low), quote_or_control(self, high))
        }
    }

    #[inline(always)]
    fn quote_or_control(simd: V3, row: u8x32) -> u8x32 {
        let quotes = cast(simd.cmp_eq_u8x32(row, simd.splat_u8x32(b'"')));
        let controls = cast(simd.cmp_eq_u8x32(row, simd.min_u8x32(row, simd.splat_u8x32(0x1F))));
        simd.or_u8x32(quotes, controls)
    }

    #[inline(always)]
    fn bits(simd: V3, low: u8x32, high: u8x32) -> u64 {
        let low = simd.avx2._mm256_movemask_epi8(cast(low)).cast_unsigned();
        let high = simd.avx2._mm256_movemask_epi8(cast(high)).cast_unsigned();
        u64::from(low) | u64::from(high) << 32
    }
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

    struct Both<'a>(&'a [u8; BLOCK], u8);

    impl ByMasks for Both<'_> {
        type Output = [u64; 2];

        fn by(self, masks: impl Masks) -> [u64; 2] {
            [masks.equal(self.0, self.1), masks.stops(self.0)]
        }
    }

    proptest! {
        #[test]
        fn masks_say_what_they_say(block in any::<[u8; BLOCK]>(), thick in any::<[u8; 3]>(), byte: u8) {
            let mut block = block;
            // Bytes that matter are rare among random ones.
            for (at, special) in thick.into_iter().zip([byte, b'"', b'\\']) {
                block[usize::from(at) % BLOCK] = special;
            }
            let by_any = |is: &dyn Fn(u8) -> bool| (0..).zip(block).fold(0u64, |mask, (index, byte)| mask | u64::from(is(byte)) << index);
            let digits = by_any(&|other| other.is_ascii_digit());
            prop_assert_eq!(Portable.digits(&block), digits);
            let expected = [by_any(&|other| other == byte), by_any(&|other| other == b'"' || other < 0x20)];
            prop_assert_eq!(Both(&block, byte).by(Portable), expected);
            prop_assert_eq!(widest(Both(&block, byte)), expected);
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
