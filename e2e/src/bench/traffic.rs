//! The requests of the benchmark, and the answers that they must get.
//!
//! A prompt begins as one of 64 others do and goes on as no other does: half of it is known to the prefix index, half is new, so that every
//! decision both finds and remembers something and a full index always has to make room. Bodies of one case have the same length
//! whichever name they ask for. The text is prose with escapes and letters outside of ASCII, the same in every run.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// The name that engines serve. Both names have one length.
pub const MODEL: &str = "bench-model";

/// The name that a ModelRoute rewrites to [`MODEL`].
pub const ALIAS: &str = "bench-alias";

/// The largest body that kthena-ext-proc accepts by default, bytes.
pub const BODY_BOUND: usize = 16 << 20;

/// Beginnings that prompts share.
const BEGINNINGS: u64 = 64;

/// Digits that tell a beginning, and a whole prompt, from all others.
const DIGITS: usize = 16;

/// Counts requests through the whole run, so that no two are the same.
static REQUESTS: AtomicU64 = AtomicU64::new(0);

const WORDS: [&str; 24] = [
    "river",
    "stone",
    "market",
    "letter",
    "window",
    "garden",
    "engine",
    "winter",
    "copper",
    "signal",
    "harbour",
    "method",
    "forest",
    "paper",
    "Grüße",
    "number",
    "bridge",
    "日本",
    "summer",
    "valley",
    "kernel",
    "\\\"matrix\\\"",
    "branch",
    "vector",
];

/// What kind of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the body.
    pub bytes: usize,
    /// Tokens of the answer.
    pub tokens: u32,
    /// A stream of chunks, or one document.
    pub stream: bool,
}

/// What an answer must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// 200, from [`MODEL`], with the number of tokens that was asked for in its usage.
    Answer,
    /// This status.
    Status(u16),
}

/// An endless supply of requests of one shape.
#[derive(Debug)]
pub struct Traffic {
    body: Vec<u8>,
    beginning_at: usize,
    unique_at: usize,
    shape: Shape,
    expected: Expected,
}

impl Traffic {
    /// Requests of this shape for a model, to be answered as expected.
    #[must_use]
    pub fn new(shape: Shape, model: &str, expected: Expected) -> Self {
        let stream = match shape.stream {
            true => r#""stream":true,"stream_options":{"include_usage":true},"#,
            false => "",
        };
        let head = format!(
            r#"{{"model":"{model}","max_tokens":{},{stream}"messages":[{{"role":"user","content":""#,
            shape.tokens
        );
        let tail = r#""}]}"#;
        let prose = shape.bytes.saturating_sub(head.len() + tail.len() + 2 * DIGITS);
        let digits = "0".repeat(DIGITS);
        let begins = format!("{head}{digits}{}", text(prose / 2));
        let body = format!("{begins}{digits}{}{tail}", text(prose - prose / 2));
        Self {
            beginning_at: head.len(),
            unique_at: begins.len(),
            body: body.into_bytes(),
            shape,
            expected,
        }
    }

    /// The body of the next request.
    #[must_use]
    pub fn next(&self) -> Bytes {
        let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
        let mut body = self.body.clone();
        let mut set =
            |at: usize, number: u64| body[at..at + DIGITS].copy_from_slice(format!("{number:016x}").as_bytes());
        set(self.beginning_at, number % BEGINNINGS);
        set(self.unique_at, number);
        Bytes::from(body)
    }

    /// The tokens of an answer.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        u64::from(self.shape.tokens)
    }

    /// Whether this is the answer that was expected.
    ///
    /// # Errors
    /// What it is in place of that.
    pub fn check(&self, status: u16, body: &[u8]) -> Result<(), String> {
        let told = |what: &str| {
            let start = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
            Err(format!("{what}: status {status}, {} bytes: {start}", body.len()))
        };
        match self.expected {
            Expected::Status(expected) if status == expected => return Ok(()),
            Expected::Status(_) => return told("another status than expected"),
            Expected::Answer if status != 200 => return told("not 200"),
            Expected::Answer => {}
        }
        // The model is named at the beginning and the usage at the end, so a long stream need not be searched.
        let (first, last) = (&body[..body.len().min(1024)], &body[body.len().saturating_sub(1024)..]);
        if !holds(first, format!(r#""model":"{MODEL}""#).as_bytes()) {
            return told("another model");
        }
        if !holds(last, format!(r#""completion_tokens":{}"#, self.shape.tokens).as_bytes()) {
            return told("usage is missing or wrong");
        }
        if self.shape.stream && !holds(last, b"data: [DONE]") {
            return told("the stream has no end");
        }
        Ok(())
    }
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Prose of so many bytes, as it stands in a JSON string.
fn text(bytes: usize) -> String {
    let mut text = String::with_capacity(bytes);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for count in 1_u32.. {
        // xorshift64*
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        let word = WORDS[(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 59) as usize % WORDS.len()];
        let end = if count.is_multiple_of(14) { ".\\n" } else { " " };
        if text.len() + word.len() + end.len() > bytes {
            break;
        }
        text.push_str(word);
        text.push_str(end);
    }
    text.extend(std::iter::repeat_n('.', bytes - text.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        bytes: 1000,
        tokens: 8,
        stream: false,
    };

    #[test]
    fn bodies_are_json_of_the_length_asked_for_and_no_two_are_the_same() {
        for (bytes, stream) in [(1000, false), (1000, true), (64_000, false)] {
            let shape = Shape { bytes, stream, ..SHAPE };
            let traffic = Traffic::new(shape, ALIAS, Expected::Answer);
            let (one, two) = (traffic.next(), traffic.next());
            assert_eq!((one.len(), two.len()), (bytes, bytes));
            assert_ne!(one, two);
            let read: serde_json::Value = serde_json::from_slice(&one).unwrap();
            assert_eq!((&read["model"], &read["max_tokens"]), (&ALIAS.into(), &8.into()));
        }
    }

    #[test]
    fn half_of_a_prompt_is_shared_with_every_64th_other() {
        let traffic = Traffic::new(SHAPE, MODEL, Expected::Answer);
        let bodies: Vec<Bytes> = (0..=2 * BEGINNINGS).map(|_| traffic.next()).collect();
        // Other tests count as well, so which one it is is not known.
        let shared = bodies[1..].iter().any(|other| other[..450] == bodies[0][..450]);
        assert!(shared && traffic.unique_at > 450);
    }

    #[test]
    fn an_answer_is_wrong_in_its_status_its_model_its_usage_or_its_end() {
        let traffic = Traffic::new(SHAPE, ALIAS, Expected::Answer);
        let good = r#"{"model":"bench-model","usage":{"completion_tokens":8}}"#;
        traffic.check(200, good.as_bytes()).unwrap();
        for (status, body, told) in [
            (503, good, "not 200"),
            (
                200,
                r#"{"model":"bench-alias","usage":{"completion_tokens":8}}"#,
                "another model",
            ),
            (
                200,
                r#"{"model":"bench-model","usage":{"completion_tokens":7}}"#,
                "usage",
            ),
        ] {
            let error = traffic.check(status, body.as_bytes()).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        let stream = Traffic::new(Shape { stream: true, ..SHAPE }, ALIAS, Expected::Answer);
        assert!(stream.check(200, good.as_bytes()).unwrap_err().contains("no end"));
        let refused = Traffic::new(SHAPE, ALIAS, Expected::Status(413));
        assert!(refused.check(413, b"").is_ok() && refused.check(200, good.as_bytes()).is_err());
    }
}
