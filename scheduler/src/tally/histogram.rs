//! Observations sorted into buckets with fixed upper bounds.
//!
//! What must always hold: one bucket more than there are bounds, for what is above them all; nothing that is no number is
//! observed. Nothing is allocated before the first observation.

/// Observations in buckets.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    /// How many in each bucket; empty before the first observation.
    buckets: Vec<u64>,
    sum: f64,
}

// === impl Histogram ===

impl Histogram {
    /// Nothing observed; a bucket holds what is at most its bound, and above the bound before. Bounds ascend.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            buckets: Vec::new(),
            sum: 0.0,
        }
    }

    /// What was counted elsewhere with the same bounds, as [`Histogram::counts`] and [`Histogram::sum`] gave it; `None`
    /// when it cannot have been.
    pub fn from_counts(bounds: &'static [f64], counts: &[u64], sum: f64) -> Option<Self> {
        let fits = counts.is_empty() || counts.len() == bounds.len() + 1;
        let could_be =
            sum.is_finite() && sum >= 0.0 && counts.iter().try_fold(0_u64, |all, n| all.checked_add(*n)).is_some();
        (fits && could_be).then(|| Self {
            bounds,
            buckets: counts.to_vec(),
            sum,
        })
    }

    /// Takes an observation.
    pub fn observe(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.make_room();
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket = bucket.saturating_add(1);
        }
        self.sum += value;
    }

    /// Adds observations in the same buckets; others are left out.
    pub fn add(&mut self, other: &Self) {
        if other.buckets.is_empty() || self.bounds != other.bounds {
            return;
        }
        self.make_room();
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket = bucket.saturating_add(*more);
        }
        self.sum += other.sum;
    }

    fn make_room(&mut self) {
        self.buckets.resize(self.bounds.len() + 1, 0);
    }

    /// How many observations there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |all, n| all.saturating_add(*n))
    }

    /// The sum of all observed.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// How many in each bucket, not cumulated; empty when nothing was observed.
    pub fn counts(&self) -> &[u64] {
        &self.buckets
    }

    /// Upper bound of each bucket, the last infinite, and how many are in it, not cumulated.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let counts = self.buckets.iter().copied().chain(std::iter::repeat(0));
        let bounds = self.bounds.iter().copied().chain(std::iter::once(f64::INFINITY));
        bounds.zip(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [f64; 3] = [0.1, 1.0, 10.0];

    #[test]
    fn a_bucket_holds_what_is_at_most_its_bound() {
        let mut histogram = Histogram::new(&BOUNDS);
        for value in [0.0, 0.1, 0.100_1, 1.0, 5.0, 11.0, f64::NAN, f64::INFINITY] {
            histogram.observe(value);
        }
        assert_eq!(histogram.counts(), [2, 2, 1, 1]);
        assert_eq!(histogram.count(), 6);
        let last = histogram.buckets().last().unwrap();
        assert_eq!(last, (f64::INFINITY, 1));
    }

    #[test]
    fn counts_that_cannot_be_are_not_taken() {
        let of = |counts: &[u64], sum| Histogram::from_counts(&BOUNDS, counts, sum);
        assert_eq!(of(&[], 0.0), Some(Histogram::new(&BOUNDS)));
        assert_eq!(of(&[1, 2, 3, 4], 5.0).unwrap().count(), 10);
        for (counts, sum) in [
            (&[1, 2][..], 1.0),
            (&[1, 2, 3, 4, 5], 1.0),
            (&[0, 0, 0, 1], f64::NAN),
            (&[0, 0, 0, 1], -1.0),
        ] {
            assert_eq!(of(counts, sum), None, "{counts:?} {sum}");
        }
        assert_eq!(of(&[u64::MAX, 1, 0, 0], 1.0), None);
    }
}
