//! `/v1/chat/completions`.

use std::fmt::Write;

use serde_json::{Value, json};

use super::request::StreamUsage;
use super::{Choice, FINGERPRINT, Heading, StreamForm, Usage, Word, finish_reason, push_usage};

pub(super) fn plain(heading: &Heading, choices: &[Choice], usage: Usage) -> Value {
    let choice = |(index, choice): (usize, &Choice)| {
        json!({
            "index": index,
            "message": {
                "role": "assistant", "content": choice.text(), "refusal": null, "annotations": null, "audio": null,
                "function_call": null, "reasoning": null,
            },
            "logprobs": null, "finish_reason": finish_reason(choice.finish), "stop_reason": null, "token_ids": null,
            "routed_experts": null,
        })
    };
    json!({
        "id": format!("chatcmpl-{}", heading.id), "object": "chat.completion", "created": heading.created,
        "model": heading.model, "choices": choices.iter().enumerate().map(choice).collect::<Vec<_>>(),
        "service_tier": null, "system_fingerprint": FINGERPRINT, "usage": usage.plain(heading),
        "prompt_logprobs": null, "prompt_token_ids": null, "prompt_text": null, "kv_transfer_params": null,
        "ec_transfer_params": null, "metrics": null,
    })
}

/// Writes chunks; what they have in common is formatted once.
pub(super) struct Stream {
    heading: Heading,
    choices: usize,
    usage: StreamUsage,
    opening: String,
}

impl Stream {
    pub(super) fn new(heading: &Heading, choices: usize, usage: StreamUsage) -> Self {
        let opening = format!(
            r#"data: {{"id":"chatcmpl-{}","object":"chat.completion.chunk","created":{},"model":{},"choices":["#,
            heading.id,
            heading.created,
            Value::from(heading.model.as_str()),
        );
        Self {
            heading: heading.clone(),
            choices,
            usage,
            opening,
        }
    }
}

impl StreamForm for Stream {
    fn begin(&mut self, out: &mut String, usage: Usage) {
        for index in 0..self.choices {
            out.push_str(&self.opening);
            // Writing to a string cannot fail.
            let _ = write!(
                out,
                r#"{{"index":{index},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}]"#
            );
            out.push_str(r#","prompt_token_ids":null,"prompt_text":null"#);
            push_usage(out, self.usage, &self.heading, usage);
            out.push_str("}\n\n");
        }
    }

    fn word(&mut self, out: &mut String, word: Word, usage: Usage) {
        out.push_str(&self.opening);
        let _ = write!(
            out,
            r#"{{"index":{},"delta":{{"content":"{}"}},"logprobs":null,"#,
            word.choice, word.text
        );
        let _ = match word.finish {
            None => write!(out, r#""finish_reason":null,"token_ids":null}}]"#),
            Some(finish) => {
                write!(
                    out,
                    r#""finish_reason":"{}","stop_reason":null,"token_ids":null}}]"#,
                    finish_reason(finish)
                )
            }
        };
        push_usage(out, self.usage, &self.heading, usage);
        out.push_str("}\n\n");
    }

    fn end(&mut self, out: &mut String, usage: Usage) {
        if self.usage.at_end {
            let usage = usage.streamed(&self.heading);
            let _ = write!(
                out,
                r#"{}],"usage":{usage},"system_fingerprint":"{FINGERPRINT}"}}"#,
                self.opening
            );
            out.push_str("\n\n");
        }
        out.push_str("data: [DONE]\n\n");
    }
}
