//! `/v1/completions`.

use std::fmt::Write;

use serde_json::Value;

use super::json::{Json, NULL, object};
use super::request::StreamUsage;
use super::{Choice, FINGERPRINT, Heading, StreamForm, Usage, Word, finish_reason, push_end, push_usage};

pub(super) fn plain(heading: &Heading, choices: &[Choice], usage: Usage) -> Json {
    let choice = |(index, choice): (usize, &Choice)| {
        object! {
            "index": index, "text": choice.text(), "logprobs": NULL, "finish_reason": finish_reason(choice.finish),
            "stop_reason": NULL, "token_ids": NULL, "prompt_logprobs": NULL, "prompt_token_ids": NULL,
            "routed_experts": NULL,
        }
    };
    object! {
        "id": format!("cmpl-{}", heading.id), "object": "text_completion", "created": heading.created,
        "model": heading.model.as_str(), "choices": choices.iter().enumerate().map(choice).collect::<Vec<_>>(),
        "service_tier": NULL, "system_fingerprint": FINGERPRINT, "usage": usage.plain(heading),
        "kv_transfer_params": NULL, "ec_transfer_params": NULL, "metrics": NULL,
    }
}

/// Writes chunks; what they have in common is formatted once.
pub(super) struct Stream {
    heading: Heading,
    usage: StreamUsage,
    opening: String,
}

impl Stream {
    pub(super) fn new(heading: &Heading, usage: StreamUsage) -> Self {
        let opening = format!(
            r#"data: {{"id":"cmpl-{}","object":"text_completion","created":{},"model":{},"choices":["#,
            heading.id,
            heading.created,
            Value::from(heading.model.as_str()),
        );
        Self {
            heading: heading.clone(),
            usage,
            opening,
        }
    }
}

impl StreamForm for Stream {
    fn begin(&mut self, _out: &mut String, _usage: Usage) {}

    fn word(&mut self, out: &mut String, word: Word, usage: Usage) {
        out.push_str(&self.opening);
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            r#"{{"index":{},"text":"{}","logprobs":null,"#,
            word.choice, word.text
        );
        let _ = match word.finish {
            None => write!(out, r#""finish_reason":null,"#),
            Some(finish) => write!(out, r#""finish_reason":"{}","#, finish_reason(finish)),
        };
        out.push_str(r#""stop_reason":null,"prompt_token_ids":null,"token_ids":null}]"#);
        push_usage(out, self.usage, &self.heading, usage);
        out.push_str("}\n\n");
    }

    fn end(&mut self, out: &mut String, usage: Usage) {
        push_end(out, &self.opening, self.usage, &self.heading, usage);
    }
}
