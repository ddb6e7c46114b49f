//! `/v1/messages`, Anthropic's form as vLLM serves it.

use std::fmt::Write;

use super::json::{Json, NULL, object};
use super::{Choice, Heading, StreamForm, Usage, Word, push_event};
use crate::engine::stats::FinishReason;

fn stop_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "end_turn",
        FinishReason::Length => "max_tokens",
    }
}

/// What the cache gave and got is told only where details are on, and then it is not among the `input_tokens`.
fn usage_of(heading: &Heading, usage: Usage) -> Json {
    if !heading.details {
        return object! {"input_tokens": usage.prompt, "output_tokens": usage.completion};
    }
    let created = usage.created(heading);
    object! {
        "input_tokens": usage.prompt.saturating_sub(usage.cached + created), "output_tokens": usage.completion,
        "cache_creation_input_tokens": created, "cache_read_input_tokens": usage.cached,
    }
}

pub(super) fn plain(heading: &Heading, choices: &[Choice], usage: Usage) -> Json {
    let text = choices.first().map(Choice::text).unwrap_or_default();
    object! {
        "id": format!("chatcmpl-{}", heading.id), "type": "message", "role": "assistant",
        "content": vec![object! {"type": "text", "text": text}], "model": heading.model.as_str(),
        "stop_reason": choices.first().map(|choice| stop_reason(choice.finish)), "usage": usage_of(heading, usage),
    }
}

/// Writes events.
pub(super) struct Stream {
    heading: Heading,
    finish: FinishReason,
}

impl Stream {
    pub(super) fn new(heading: &Heading) -> Self {
        Self {
            heading: heading.clone(),
            finish: FinishReason::Stop,
        }
    }
}

impl StreamForm for Stream {
    fn begin(&mut self, out: &mut String, usage: Usage) {
        let message = object! {
            "id": format!("chatcmpl-{}", self.heading.id), "type": "message", "role": "assistant", "content": Vec::<Json>::new(),
            "model": self.heading.model.as_str(), "stop_reason": NULL, "stop_sequence": NULL,
            "usage": object! {"input_tokens": usage.prompt, "output_tokens": 0u32},
        };
        push_event(
            out,
            "message_start",
            &object! {"type": "message_start", "message": message},
        );
        let block = object! {"type": "text", "text": ""};
        let start = object! {"type": "content_block_start", "content_block": block, "index": 0u32};
        push_event(out, "content_block_start", &start);
    }

    fn word(&mut self, out: &mut String, word: Word, _usage: Usage) {
        out.push_str("event: content_block_delta\ndata: ");
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            r#"{{"type":"content_block_delta","delta":{{"type":"text_delta","text":"{}"}},"index":0}}"#,
            word.text
        );
        out.push_str("\n\n");
        self.finish = word.finish.unwrap_or(self.finish);
    }

    fn end(&mut self, out: &mut String, usage: Usage) {
        push_event(
            out,
            "content_block_stop",
            &object! {"type": "content_block_stop", "index": 0u32},
        );
        let delta = object! {
            "type": "message_delta", "delta": object! {"stop_reason": stop_reason(self.finish), "stop_sequence": NULL},
            "usage": usage_of(&self.heading, usage),
        };
        push_event(out, "message_delta", &delta);
        push_event(out, "message_stop", &object! {"type": "message_stop"});
    }
}
