//! `/v1/responses`.

use std::fmt::Write;

use super::json::{Json, NULL, object};
use super::{Choice, Heading, StreamForm, Usage, Word, push_event};
use crate::engine::stats::FinishReason;

/// How a response ended, with what it has to say about that.
fn status(finish: FinishReason) -> (&'static str, Json) {
    match finish {
        FinishReason::Stop => ("completed", NULL),
        FinishReason::Length => ("incomplete", object! {"reason": "max_output_tokens"}),
    }
}

/// A part of an item; what it says of log probabilities depends on where it is shown.
fn part(text: &str, logprobs: Json) -> Json {
    object! {"annotations": Vec::<Json>::new(), "text": text, "type": "output_text", "logprobs": logprobs}
}

fn item(heading: &Heading, status: &str, content: Vec<Json>) -> Json {
    object! {
        "id": format!("msg_{}", heading.id), "content": content, "role": "assistant", "status": status,
        "type": "message", "phase": NULL,
    }
}

/// Here cached tokens are told whether details are on or not.
fn usage_of(usage: Usage) -> Json {
    // Turns are counted where a model calls tools by itself.
    let no_turns = Vec::<Json>::new;
    object! {
        "input_tokens": usage.prompt,
        "input_tokens_details": object! {
            "cached_tokens": usage.cached, "cache_write_tokens": 0u32, "input_tokens_per_turn": no_turns(),
            "cached_tokens_per_turn": no_turns(),
        },
        "output_tokens": usage.completion,
        "output_tokens_details": object! {
            "reasoning_tokens": 0u32, "tool_output_tokens": 0u32, "output_tokens_per_turn": no_turns(),
            "tool_output_tokens_per_turn": no_turns(),
        },
        "total_tokens": usage.prompt + usage.completion,
    }
}

/// The response object; `finish` is not there while it is under way.
fn response(heading: &Heading, output: Vec<Json>, finish: Option<FinishReason>, usage: Option<Usage>) -> Json {
    let (status, incomplete) = finish.map_or(("in_progress", NULL), status);
    object! {
        "id": format!("resp_{}", heading.id), "created_at": heading.created, "incomplete_details": incomplete,
        "instructions": NULL, "metadata": NULL, "model": heading.model.as_str(), "object": "response",
        "output": output, "parallel_tool_calls": true, "temperature": 1.0, "tool_choice": "none",
        "tools": Vec::<Json>::new(), "top_p": 1.0, "background": false, "max_output_tokens": heading.limit,
        "max_tool_calls": NULL, "previous_response_id": NULL, "prompt": NULL, "reasoning": NULL,
        "service_tier": "auto", "status": status, "text": NULL, "top_logprobs": NULL, "truncation": "disabled",
        "usage": usage.map(usage_of), "user": NULL,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "kv_transfer_params": NULL, "ec_transfer_params": NULL,
        "input_messages": NULL, "output_messages": NULL,
    }
}

pub(super) fn plain(heading: &Heading, choices: &[Choice], usage: Usage) -> Json {
    let finish = choices.first().map(|choice| choice.finish);
    let text = choices.first().map(Choice::text).unwrap_or_default();
    response(
        heading,
        vec![item(heading, "completed", vec![part(&text, NULL)])],
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

    /// Numbers an event and writes it.
    fn push(&mut self, out: &mut String, name: &str, data: Json) {
        let data = data.with("sequence_number", self.number).with("type", name);
        self.number += 1;
        push_event(out, name, &data);
    }

    /// Where the text of the only part of the only item is.
    fn place(&self) -> Json {
        object! {"content_index": 0u32, "item_id": format!("msg_{}", self.heading.id), "output_index": 0u32}
    }
}

impl StreamForm for Stream {
    fn begin(&mut self, out: &mut String, _usage: Usage) {
        let response = response(&self.heading, Vec::new(), None, None);
        self.push(out, "response.created", object! {"response": response.clone()});
        self.push(out, "response.in_progress", object! {"response": response});
        let item = item(&self.heading, "in_progress", Vec::new());
        self.push(
            out,
            "response.output_item.added",
            object! {"item": item, "output_index": 0u32},
        );
        let added = self.place().with("part", part("", Vec::<Json>::new().into()));
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
        // Fields stand in the order of the alphabet, so that the text comes after the number.
        let name = "response.output_text.done";
        let done = object! {
            "content_index": 0u32, "item_id": format!("msg_{}", self.heading.id), "logprobs": Vec::<Json>::new(),
            "output_index": 0u32, "sequence_number": self.number, "text": text.as_str(), "type": name,
        };
        self.number += 1;
        push_event(out, name, &done);
        let done = self.place().with("part", part(&text, NULL));
        self.push(out, "response.content_part.done", done);
        let item = item(&self.heading, "completed", vec![part(&text, NULL)]);
        self.push(
            out,
            "response.output_item.done",
            object! {"item": item.clone(), "output_index": 0u32},
        );
        let response = response(&self.heading, vec![item], Some(self.finish), Some(usage));
        self.push(out, "response.completed", object! {"response": response});
    }
}
