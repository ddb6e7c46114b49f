//! A request that is over: what it was and what it took, for the counts that go to the controller.
//!
//! What must always hold: nothing is counted that is not known; a request that is not ours is not counted. Tokens are
//! those that the engine counted: the filter read them of the answer, or Envoy's metadata filters did, whose metadata is
//! asked for once, when the request has ended.

use kthena_scheduler::exchange::Record;
use kthena_scheduler::response::Usage as Tokens;
use kthena_scheduler::tally::Request;

use crate::host::Host;

/// Where Envoy's metadata filters leave usage, as in the reference configuration.
const USAGE: [&str; 3] = ["metadata", "filter_metadata", "kthena.usage"];

/// Facts that say usage to the access log: tokens of the input, of the output, and of the input those from a cache.
pub(crate) const FACTS: [&str; 3] = ["kthena.input_tokens", "kthena.output_tokens", "kthena.cached_tokens"];

/// Moments of a request, nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    /// Its head came.
    pub(crate) began: u64,
    /// The head of its answer came.
    pub(crate) answered: Option<u64>,
}

/// What is counted of a request that ends `now`.
pub(crate) fn request<'a>(record: &'a Record, moments: Moments, now: u64) -> Request<'a> {
    let since = |moment: u64| moment.saturating_sub(moments.began) as f64 / 1e9;
    let status = record.status.unwrap_or(0);
    let failed = status >= 400 || status == 0;
    let mut request = Request {
        status: Some(status),
        error_type: record.error_type.or(failed.then_some("request_failed")),
        duration_s: Some(since(now)),
        first_byte_s: moments.answered.map(since),
        ..Request::of(record)
    };
    // What we answer without reading a body is the list of models.
    if record.form.is_none() {
        request.path = "/v1/models";
    }
    request
}

/// The part of the prompt that the chosen endpoint was believed to hold.
pub(crate) fn match_ratio(record: &Record) -> Option<f64> {
    let total = Some(record.total_blocks).filter(|total| *total > 0)?;
    Some(f64::from(record.matched_blocks) / f64::from(total))
}

/// Tokens that Envoy's metadata filters have read of an answer. Anthropic's form counts what was read from the cache, or
/// written to it, apart from the input; the other forms never say so.
pub(crate) fn metered(host: &impl Host) -> Tokens {
    let Some(bytes) = host.property(&USAGE) else {
        return Tokens::default();
    };
    let mut tokens = Tokens::default();
    let mut apart = 0_u64;
    for (name, value) in pairs(&bytes) {
        let Some(count) = number(value) else { continue };
        match name {
            b"input_tokens" => tokens.input_tokens = Some(count),
            b"output_tokens" => tokens.output_tokens = Some(count),
            b"cached_tokens" => tokens.cached_tokens = Some(count),
            b"cache_read_tokens" | b"cache_creation_tokens" => apart = apart.saturating_add(count),
            _ => {}
        }
    }
    tokens.input_tokens = tokens.input_tokens.map(|input| input.saturating_add(apart));
    tokens
}

/// A number of the host, which are all of the form that JSON has.
fn number(value: &[u8]) -> Option<u64> {
    let number = f64::from_le_bytes(value.try_into().ok()?);
    (number.is_finite() && number >= 0.0).then_some(number as u64)
}

/// Names and values of a map as the host serialises it: how many, the lengths of each, then each with a zero behind it.
/// What is cut off is left out.
fn pairs(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let word = |at: usize| -> Option<usize> {
        let word = bytes.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_le_bytes(word.try_into().ok()?)).ok()
    };
    let count = word(0).unwrap_or(0).min(bytes.len() / 8);
    let mut at = 4 + 8 * count;
    (0..count).map_while(move |index| {
        let mut piece = |length: usize| {
            let piece = bytes.get(at..at.checked_add(length)?)?;
            at += length + 1;
            Some(piece)
        };
        let name = piece(word(4 + 8 * index)?)?;
        Some((name, piece(word(8 + 8 * index)?)?))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::host::fake::Fake;

    /// A map of numbers as the host serialises it.
    pub(crate) fn map(entries: &[(&str, f64)]) -> Vec<u8> {
        let word = |n: usize| (n as u32).to_le_bytes();
        let mut bytes = word(entries.len()).to_vec();
        for (name, _) in entries {
            bytes.extend(word(name.len()));
            bytes.extend(word(8));
        }
        for (name, value) in entries {
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.extend(value.to_le_bytes());
            bytes.push(0);
        }
        bytes
    }

    fn metered_of(bytes: &[u8]) -> Tokens {
        let host = Fake::new();
        host.begin(1, &[]);
        host.change(1, |request| {
            request.properties.insert(USAGE.join("."), bytes.to_vec());
        });
        metered(&host)
    }

    #[test]
    fn tokens_are_read_of_the_hosts_metadata() {
        let tokens = metered_of(&map(&[
            ("input_tokens", 12.0),
            ("output_tokens", 3.0),
            ("cached_tokens", 8.0),
        ]));
        assert_eq!(
            (tokens.input_tokens, tokens.output_tokens, tokens.cached_tokens),
            (Some(12), Some(3), Some(8))
        );
        assert_eq!(metered_of(b""), Tokens::default());
    }

    #[test]
    fn input_that_is_counted_apart_is_input() {
        let entries = [
            ("cache_read_tokens", 256.0),
            ("input_tokens", 51.0),
            ("cache_creation_tokens", 64.0),
        ];
        assert_eq!(metered_of(&map(&entries)).input_tokens, Some(371));
        assert_eq!(
            metered_of(&map(&entries[..1])).input_tokens,
            None,
            "unknown stays unknown"
        );
    }

    #[test]
    fn what_is_cut_off_or_no_number_is_left_out() {
        let whole = map(&[
            ("input_tokens", 12.0),
            ("output_tokens", f64::NAN),
            ("cached_tokens", -1.0),
        ]);
        let tokens = metered_of(&whole);
        assert_eq!(
            (tokens.input_tokens, tokens.output_tokens, tokens.cached_tokens),
            (Some(12), None, None)
        );
        for length in 0..whole.len() {
            metered_of(&whole[..length]);
        }
        metered_of(&[0xff; 64]);
    }

    #[test]
    fn a_request_without_an_answer_has_no_status_and_has_failed() {
        let record = Record::default();
        let moments = Moments {
            began: 1_000_000_000,
            answered: None,
        };
        let request = request(&record, moments, 1_250_000_000);
        assert_eq!((request.status, request.error_type), (Some(0), Some("request_failed")));
        assert_eq!((request.duration_s, request.first_byte_s), (Some(0.25), None));
    }
}
