//! The scan of an answer for its usage.

use super::counts::{Counts, Usage};
use super::document::Document;
use super::events::Events;
use crate::request::ApiForm;

/// Reads usage from an answer that passes in chunks of any size.
///
/// The forms: `usage` at the top level (chat completions, completions, embeddings, and everything that is not a stream),
/// `response.usage` in the terminal event of the Responses API, `message.usage` of Anthropic's `message_start` and `usage`
/// of its `message_delta`, latest values first. Anthropic's counts of cached input are added to its `input_tokens`, as
/// the other APIs count.
#[derive(Debug)]
pub struct UsageScan {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Json(Document),
    Events { events: Events, counts: Counts, done: bool },
}

impl UsageScan {
    /// A scan of an answer of this form: a stream of events if `sse`, else one JSON value.
    pub fn new(form: ApiForm, sse: bool) -> Self {
        let source = if sse {
            Source::Events {
                events: Events::new(form),
                counts: Counts::default(),
                done: false,
            }
        } else {
            Source::Json(Document::new(form))
        };
        Self { source }
    }

    /// Looks at the next chunk.
    pub fn feed(&mut self, chunk: &[u8]) {
        match &mut self.source {
            Source::Json(document) => document.feed(chunk),
            Source::Events { events, counts, done } => events.feed(chunk, &mut |said| {
                counts.update(said.counts);
                *done |= said.terminal;
            }),
        }
    }

    /// The end was seen: `[DONE]`, `response.completed` (or `incomplete`, `failed`), `message_stop`; without a stream, the
    /// end of the JSON value. A client that hangs up after it has got everything.
    pub fn done(&self) -> bool {
        match &self.source {
            Source::Json(document) => document.said().is_some(),
            Source::Events { done, .. } => *done,
        }
    }

    /// What is known so far.
    pub fn usage(&self) -> Usage {
        match &self.source {
            Source::Json(document) => document.said().unwrap_or_default().counts.usage(),
            Source::Events { counts, .. } => counts.usage(),
        }
    }

    /// Ends the answer, whose last line may lack its line break.
    pub fn finish(mut self) -> Usage {
        if let Source::Events { .. } = self.source {
            self.feed(b"\n");
        }
        self.usage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: u64, output: impl Into<Option<u64>>, cached: impl Into<Option<u64>>) -> Usage {
        Usage {
            input_tokens: Some(input),
            output_tokens: output.into(),
            cached_tokens: cached.into(),
        }
    }

    /// Scans the answer whole, byte by byte, and cut in two at every byte: always the same.
    fn scanned(form: ApiForm, sse: bool, answer: &str) -> (Usage, bool) {
        let run = |pieces: &[&[u8]]| {
            let mut scan = UsageScan::new(form, sse);
            pieces.iter().for_each(|piece| scan.feed(piece));
            let done = scan.done();
            (scan.finish(), done)
        };
        let bytes = answer.as_bytes();
        let whole = run(&[bytes]);
        assert_eq!(run(&bytes.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
        for cut in 0..bytes.len() {
            assert_eq!(run(&[&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
        }
        whole
    }

    #[test]
    fn a_chat_answer() {
        let answer = r#"{"id":"x","choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}"},"usage":{"prompt_tokens":8}}],
            "usage":{"prompt_tokens":13,"total_tokens":17,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":11}}}"#;
        assert_eq!(
            scanned(ApiForm::ChatCompletions, false, answer),
            (usage(13, 4, 11), true)
        );
    }

    #[test]
    fn embeddings_have_no_output() {
        let answer = r#"{"data":[{"embedding":[-0.1,2e-5]}],"usage":{"prompt_tokens":7,"total_tokens":7}}"#;
        assert_eq!(
            scanned(ApiForm::Embeddings, false, answer),
            (usage(7, None, None), true)
        );
    }

    #[test]
    fn a_responses_answer_and_its_stream() {
        let inner = r#"{"output":[],"usage":{"input_tokens":20,"input_tokens_details":{"cached_tokens":16},"output_tokens":5}}"#;
        assert_eq!(scanned(ApiForm::Responses, false, inner), (usage(20, 5, 16), true));
        let stream = format!(
            "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{{\"usage\":null}}}}\n\n\
             event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{inner}}}\n\n"
        );
        assert_eq!(scanned(ApiForm::Responses, true, &stream), (usage(20, 5, 16), true));
    }

    #[test]
    fn an_anthropic_answer_counts_cached_input_apart() {
        let answer = r#"{"type":"message","usage":{"input_tokens":10,"cache_read_input_tokens":30,
            "cache_creation_input_tokens":5,"output_tokens":2}}"#;
        assert_eq!(scanned(ApiForm::Messages, false, answer), (usage(45, 2, 30), true));
    }

    #[test]
    fn an_anthropic_stream_reports_in_two_places() {
        let stream = "event: message_start\r\n\
            data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"cache_read_input_tokens\":30,\"output_tokens\":1}}}\r\n\r\n\
            event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"usage message_stop\"}}\r\n\r\n\
            event: message_delta\r\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":25}}\r\n\r\n\
            event: message_stop\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n";
        assert_eq!(scanned(ApiForm::Messages, true, stream), (usage(40, 25, 30), true));
        let cut_off = stream.split("event: message_stop").next().unwrap();
        assert_eq!(scanned(ApiForm::Messages, true, cut_off), (usage(40, 25, 30), false));
    }

    #[test]
    fn a_chat_stream_takes_the_latest_usage() {
        let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n\
            : keep-alive\n\n\
            data: {\"choices\":[{\"delta\":{}}],\"usage\":null}\n\n\
            data:{\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n\
            data: [DONE]\n\n";
        assert_eq!(
            scanned(ApiForm::ChatCompletions, true, stream),
            (usage(3, 2, None), true)
        );
    }

    #[test]
    fn a_stream_without_usage_leaves_it_unknown() {
        let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]";
        assert_eq!(
            scanned(ApiForm::ChatCompletions, true, stream),
            (Usage::default(), false)
        );
    }

    #[test]
    fn malformed_usage_is_unknown() {
        for bad in [
            r#"{"usage":7}"#,
            r#"{"usage":[{"prompt_tokens":7}]}"#,
            r#"{"usage":{"prompt_tokens":-7,"completion_tokens":"7"}}"#,
            r#"{"usage":{"prompt_tokens":7.5,"completion_tokens":99999999999999999999999}}"#,
            r#"{"usage":{"prompt_tokens":{"prompt_tokens":7},"prompt_tokens_details":7}}"#,
            r#"{"usage":{"prompt_tokens":7"#,
            r#"{"usage":{"prompt_tokens":7}}}"#,
            r#"{"usage":{"prompt_tokens":7},"x":nul}"#,
            r#"[{"usage":{"prompt_tokens":7}}]"#,
            "\u{feff}usage",
            "",
        ] {
            assert_eq!(scanned(ApiForm::Completions, false, bad).0, Usage::default(), "{bad}");
            let event = format!("data: {bad}\n\n");
            assert_eq!(
                scanned(ApiForm::Completions, true, &event).0,
                Usage::default(),
                "{event}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_no_usage() {
        let mut scan = UsageScan::new(ApiForm::Completions, false);
        scan.feed(b"{\"usage\":{\"prompt_tokens\":7},\"x\":\"\xff\"}");
        assert_eq!(scan.finish(), Usage::default());
    }
}
