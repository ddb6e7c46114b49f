//! Durations as Kubernetes writes them (`metav1.Duration`, which is Go's notation): `30s`, `1m30s`, `1.5h`, `100ms`.
//!
//! What must always hold: parsing never panics and never wraps; what is printed parses to the same value. A negative
//! duration, legal in Go, is refused here: no field of ours gives it a meaning.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration as StdDuration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span of time, written as a string with units `h`, `m`, `s`, `ms`, `us`, `ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(StdDuration);

/// A string that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: write a number with a unit, as in `30s`, `1m30s` or `100ms`")]
pub struct InvalidDuration(String);

/// Characters of a duration.
const MAX_CHARS: usize = 64;
/// What [`Duration::from_str`] takes, as a regular expression.
const PATTERN: &str = "^[+]?(0|(([0-9]+([.][0-9]*)?|[.][0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$";

// Largest first: the order in which they are printed.
const UNITS: [(&str, u128); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

// === impl Duration ===

impl Duration {
    /// A duration of so many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(StdDuration::from_millis(millis))
    }

    /// Whole milliseconds; a shorter duration that is not zero counts as one.
    pub fn as_millis(self) -> u64 {
        match u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX) {
            0 if !self.0.is_zero() => 1,
            millis => millis,
        }
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidDuration(text.chars().take(MAX_CHARS).collect());
        if text.chars().count() > MAX_CHARS {
            return Err(invalid());
        }
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u128 = 0;
        while !rest.is_empty() {
            let (nanos, after) = one_part(rest).ok_or_else(invalid)?;
            total = total.checked_add(nanos).ok_or_else(invalid)?;
            rest = after;
        }
        // Go holds durations in 63 bits of nanoseconds, about 292 years.
        let nanos = u64::try_from(total)
            .ok()
            .filter(|nanos| *nanos <= i64::MAX as u64)
            .ok_or_else(invalid)?;
        Ok(Self(StdDuration::from_nanos(nanos)))
    }
}

/// One number with its unit: its nanoseconds, and what follows.
fn one_part(text: &str) -> Option<(u128, &str)> {
    let number_len = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(number_len);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let unit_len = rest
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_len);
    // Both code points that look like a micro sign are in use.
    let unit = if matches!(unit, "µs" | "μs") { "us" } else { unit };
    let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(*nanos)?;
    let mut scale = *nanos;
    for digit in fraction.bytes() {
        scale /= 10;
        total = total.checked_add(u128::from(digit - b'0') * scale)?;
    }
    Some((total, rest))
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_nanos();
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, nanos) in UNITS {
            if left >= nanos {
                write!(f, "{}{unit}", left / nanos)?;
                left %= nanos;
            }
        }
        Ok(())
    }
}

impl From<Duration> for StdDuration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": MAX_CHARS,
            "x-kubernetes-validations": [{
                // The second half refuses what is too long for Go's 63 bits of nanoseconds.
                "rule": format!("self.matches('{PATTERN}') && duration(self) >= duration('0s')"),
                "message": "must be a duration: a number with a unit, as in `30s`, `1m30s` or `100ms`",
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_kubernetes_writes() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("100ms", 100),
            ("1.5h", 5_400_000),
            ("0", 0),
            ("0s", 0),
            ("+2s", 2_000),
            (".5s", 500),
            ("1h0m0s", 3_600_000),
        ] {
            assert_eq!(text.parse::<Duration>().unwrap().as_millis(), millis, "{text}");
        }
        // Rounded up, since a timeout of zero means none.
        assert_eq!("1us".parse::<Duration>().unwrap().as_millis(), 1);
    }

    #[test]
    fn refuses_the_rest_and_says_what_to_write() {
        for text in ["", "30", "s", "-1s", "1 s", "1d", ".s", "1.2.3s", "9999999999h", "1s1"] {
            let error = text.parse::<Duration>().unwrap_err().to_string();
            assert!(error.contains("as in `30s`"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = text.parse::<Duration>();
        }

        #[test]
        fn what_is_printed_parses_to_the_same(nanos in 0..i64::MAX as u64) {
            let duration = Duration(StdDuration::from_nanos(nanos));
            prop_assert_eq!(duration.to_string().parse::<Duration>().unwrap(), duration);
        }
    }
}
