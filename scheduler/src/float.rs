//! The larger and the smaller of two numbers that are not NaN.
//!
//! `f32::max` and `f32::min` take care of NaN, which costs a call each in WebAssembly and keeps loops from being vectorised.
//! Where one of the numbers is NaN the second is the result.

/// The larger of two numbers.
#[inline]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The smaller of two numbers.
#[inline]
pub(crate) fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}
