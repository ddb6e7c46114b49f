//! How facts lose their weight with age.
//!
//! What must always hold: a fact that nobody renews ends up neither for nor against an endpoint, since nothing would
//! ever change it back.

use super::plugin::UNSCORED;

/// What is left of 1 after `age`, when it halves every `half_life`. Between two halvings the line is straight: within
/// 6 % of the exponential, and cheap enough to ask for every endpoint of every request.
#[inline]
pub(super) fn halving(age: u64, half_life: u64) -> f32 {
    // What is known is seldom old: then there is nothing to divide.
    let (halvings, rest) = match age < half_life {
        true => (0, age),
        false => (age / half_life, age % half_life),
    };
    if halvings >= 24 {
        return 0.0;
    }
    let within = rest as i64 as f32 * (0.5 / half_life as i64 as f32);
    // 2^-n, straight into the exponent: a division is the dearest part otherwise.
    (1.0 - within) * f32::from_bits((127 - halvings as u32) << 23)
}

/// Scores candidates by facts that age: `fact` gives the points that a candidate deserves by its last known state, and
/// how much that is believed (0 to 1). What is lost in belief is made up from the average of all, weighed by belief.
pub(super) fn fade(points: &mut [f32], fact: impl Fn(usize) -> Option<(f32, f32)>) {
    let (mut sum, mut weight) = (0.0, 0.0);
    for at in 0..points.len() {
        if let Some((value, trust)) = fact(at) {
            sum += value * trust;
            weight += trust;
        }
    }
    if weight <= f32::MIN_POSITIVE {
        points.fill(UNSCORED);
        return;
    }
    let mean = sum / weight;
    for (at, point) in points.iter_mut().enumerate() {
        *point = match fact(at) {
            Some((value, trust)) => mean + (value - mean) * trust,
            None => UNSCORED,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_halves_and_halves_again_and_ends() {
        assert_eq!(halving(0, 10), 1.0);
        assert_eq!(halving(10, 10), 0.5);
        assert_eq!(halving(20, 10), 0.25);
        assert!(halving(5, 10) > halving(6, 10));
        assert_eq!(halving(u64::MAX, 10), 0.0);
    }
}
