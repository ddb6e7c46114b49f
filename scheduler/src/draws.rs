//! Pseudo-random numbers from a seed that the caller brings (SplitMix64), so that a decision can be replayed.

/// A sequence of draws.
#[derive(Clone, Debug)]
pub(crate) struct Draws(u64);

/// Mixes two numbers into one; every bit of either changes about half of the result. The finalizer of SplitMix64.
pub(crate) fn mix(a: u64, b: u64) -> u64 {
    finish(finish(a.wrapping_add(GOLDEN)) ^ b)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn finish(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Draws {
    /// The sequence of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 up to, not including, 1.
    pub(crate) fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(GOLDEN);
        // 24 bits: all that an f32 below 1 can hold without rounding up to it.
        (finish(self.0) >> 40) as f32 / (1u32 << 24) as f32
    }
}
