//! `/v1/messages`, Anthropic's form as vLLM serves it.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Choice, Heading, StreamForm, Usage, Word, push_event};
use crate::engine::stats::FinishReason;

fn stop_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "end_turn",
        FinishReason::Length => "max_tokens",
    }
}

/// Cached tokens are told only where details are on; Anthropic counts them apart from `input_tokens`, vLLM within.
fn usage_of(heading: &Heading, usage: Usage) -> Value {
    let mut told = json!({"input_tokens": usage.prompt, "output_tokens": usage.completion});
    if heading.details {
        told["cache_read_input_tokens"] = usage.cached.into();
    }
    told
}

pub(super) fn plain(heading: &Heading, choices: &[Choice], usage: Usage) -> Value {
    let text = choices.first().map(Choice::text).unwrap_or_default();
    json!({
        "id": format!("chatcmpl-{}", heading.id), "type": "message", "role": "assistant",
        "content": [{"type": "text", "text": text}], "model": heading.model,
        "stop_reason": choices.first().map(|choice| stop_reason(choice.finish)), "stop_sequence": null,
        "usage": usage_of(heading, usage),
    })
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
        let message = json!({
            "id": format!("chatcmpl-{}", self.heading.id), "type": "message", "role": "assistant", "content": [],
            "model": self.heading.model, "stop_reason": null, "stop_sequence": null,
            "usage": {"input_tokens": usage.prompt, "output_tokens": 0},
        });
        push_event(
            out,
            "message_start",
            &json!({"type": "message_start", "message": message}),
        );
        let block = json!({"type": "text", "text": ""});
        let start = json!({"type": "content_block_start", "index": 0, "content_block": block});
        push_event(out, "content_block_start", &start);
    }

    fn word(&mut self, out: &mut String, word: Word, _usage: Usage) {
        out.push_str("event: content_block_delta\ndata: ");
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{}"}}}}"#,
            word.text
        );
        out.push_str("\n\n");
        self.finish = word.finish.unwrap_or(self.finish);
    }

    fn end(&mut self, out: &mut String, usage: Usage) {
        push_event(
            out,
            "content_block_stop",
            &json!({"type": "content_block_stop", "index": 0}),
        );
        let delta = json!({
            "type": "message_delta", "delta": {"stop_reason": stop_reason(self.finish), "stop_sequence": null},
            "usage": usage_of(&self.heading, usage),
        });
        push_event(out, "message_delta", &delta);
        push_event(out, "message_stop", &json!({"type": "message_stop"}));
    }
}
