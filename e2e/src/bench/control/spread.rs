//! Times, as figures.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// Times in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Spread(Vec<Duration>);

impl Spread {
    /// Of these.
    pub(super) fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut times: Vec<_> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Milliseconds that this share (0 to 1) of them did not exceed, by the nearest rank; zero when there are none.
    pub(super) fn ms(&self, share: f64) -> f64 {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        let time = self.0.get(rank.max(1) - 1).copied().unwrap_or_default();
        (time.as_secs_f64() * 1e5).round() / 100.0
    }

    /// As fields of a line of JSON, whose names end with this.
    pub(super) fn fields(&self, of: &str) -> Map<String, Value> {
        let shares = [("p50", 0.5), ("p99", 0.99), ("max", 1.0)];
        let fields = shares.map(|(name, share)| (format!("{name}{of}_ms"), json!(self.ms(share))));
        fields.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_nearest_rank() {
        let spread = Spread::of((1..=200).rev().map(Duration::from_millis));
        assert_eq!(spread.len(), 200);
        assert_eq!(
            [0.0, 0.5, 0.99, 1.0].map(|share| spread.ms(share)),
            [1.0, 100.0, 198.0, 200.0]
        );
        assert_eq!(Spread::default().ms(0.99), 0.0);
        let one = Spread::of([Duration::from_micros(1234)]);
        assert_eq!(
            Value::from(one.fields("_told")),
            json!({"p50_told_ms": 1.23, "p99_told_ms": 1.23, "max_told_ms": 1.23})
        );
    }
}
