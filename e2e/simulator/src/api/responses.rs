//! `/v1/responses`.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Choice, Heading, StreamForm, Usage, Word, push_event};
use crate::engine::stats::FinishReason;

/// How a response ended, with what it has to say about that.
fn status(finish: FinishReason) -> (&'static str, Value) {
    match finish {
        FinishReason::Stop => ("completed", Value::Null),
        FinishReason::Length => ("incomplete", json!({"reason": "max_output_tokens"})),
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": null})
}

fn item(heading: &Heading, status: &str, content: Vec<Value>) -> Value {
    json!({
        "id": format!("msg_{}", heading.id), "type": "message", "role": "assistant", "status": status,
        "content": content,
    })
}

/// The response object; `finish` is not there while it is under way.
fn response(heading: &Heading, output: Vec<Value>, finish: Option<FinishReason>, usage: Option<Usage>) -> Value {
    let (status, incomplete) = finish.map_or(("in_progress", Value::Null), status);
    let usage = usage.map(|usage| {
        json!({
            "input_tokens": usage.prompt, "output_tokens": usage.completion,
            "total_tokens": usage.prompt + usage.completion,
            "input_tokens_details": {"cached_tokens": if heading.details { usage.cached } else { 0 }},
            "output_tokens_details": {"reasoning_tokens": 0},
        })
    });
    json!({
        "id": format!("resp_{}", heading.id), "object": "response", "created_at": heading.created,
        "model": heading.model, "status": status, "incomplete_details": incomplete, "output": output, "usage": usage,
        "instructions": null, "metadata": null, "parallel_tool_calls": true, "temperature": 1.0, "tool_choice": "auto",
        "tools": [], "top_p": 1.0, "background": false, "max_output_tokens": null, "max_tool_calls": null,
        "previous_response_id": null, "prompt": null, "reasoning": null, "service_tier": "auto", "text": null,
        "top_logprobs": null, "truncation": "disabled", "user": null,
    })
}

pub(super) fn plain(heading: &Heading, choices: &[Choice], usage: Usage) -> Value {
    let finish = choices.first().map(|choice| choice.finish);
    let text = choices.first().map(Choice::text).unwrap_or_default();
    response(
        heading,
        vec![item(heading, "completed", vec![part(&text)])],
        finish,
        Some(usage),
    )
}

/// Writes events, each with its number.
pub(super) struct Stream {
    heading: Heading,
    text: String,
    finish: FinishReason,
    number: u32,
}

impl Stream {
    pub(super) fn new(heading: &Heading) -> Self {
        Self {
            heading: heading.clone(),
            text: String::new(),
            finish: FinishReason::Stop,
            number: 0,
        }
    }

    fn push(&mut self, out: &mut String, name: &str, mut data: Value) {
        data["type"] = name.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        push_event(out, name, &data);
    }

    /// Where the text of the only part of the only item is.
    fn place(&self) -> Value {
        json!({"item_id": format!("msg_{}", self.heading.id), "output_index": 0, "content_index": 0})
    }
}

impl StreamForm for Stream {
    fn begin(&mut self, out: &mut String, _usage: Usage) {
        let response = response(&self.heading, Vec::new(), None, None);
        self.push(out, "response.created", json!({"response": response}));
        self.push(out, "response.in_progress", json!({"response": response}));
        let item = item(&self.heading, "in_progress", Vec::new());
        self.push(
            out,
            "response.output_item.added",
            json!({"output_index": 0, "item": item}),
        );
        let mut added = self.place();
        added["part"] = part("");
        self.push(out, "response.content_part.added", added);
    }

    fn word(&mut self, out: &mut String, word: Word, _usage: Usage) {
        out.push_str("event: response.output_text.delta\ndata: ");
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            r#"{{"content_index":0,"delta":"{}","item_id":"msg_{}","logprobs":[],"output_index":0,"sequence_number":{},"#,
            word.text, self.heading.id, self.number
        );
        out.push_str("\"type\":\"response.output_text.delta\"}\n\n");
        self.number += 1;
        self.text.push_str(word.text);
        self.finish = word.finish.unwrap_or(self.finish);
    }

    fn end(&mut self, out: &mut String, usage: Usage) {
        let text = std::mem::take(&mut self.text);
        let mut done = self.place();
        done["text"] = text.as_str().into();
        done["logprobs"] = json!([]);
        self.push(out, "response.output_text.done", done);
        let mut done = self.place();
        done["part"] = part(&text);
        self.push(out, "response.content_part.done", done);
        let item = item(&self.heading, "completed", vec![part(&text)]);
        self.push(
            out,
            "response.output_item.done",
            json!({"output_index": 0, "item": item}),
        );
        let response = response(&self.heading, vec![item], Some(self.finish), Some(usage));
        let name = match self.finish {
            FinishReason::Stop => "response.completed",
            FinishReason::Length => "response.incomplete",
        };
        self.push(out, name, json!({"response": response}));
    }
}
