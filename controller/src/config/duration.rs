//! Times on the command line: a number and a unit.

use std::time::Duration;

/// A time with its unit: `ms`, `s`, `m` or `h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| "write a time such as 500ms, 1s or 2m")?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err("a time needs a unit: ms, s, m or h".into()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| "the time is too long".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for odd in ["", "5", "s", "-1s", "1 s", "1e400s", "1..2s"] {
            assert!(duration(odd).is_err(), "{odd}");
        }
    }
}
