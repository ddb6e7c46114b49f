//! The HTTP APIs of a model server, without the HTTP: bodies in, bodies out.
//!
//! `request` reads any form of request into an [`request::Ask`]; one file for each form writes its answers, plain and
//! streamed. The words of an answer depend on its prompt alone. What must always hold: a plain answer and a stream of
//! the same request say the same words and the same usage; a stream of N tokens has N chunks that carry text.
//!
//! Left out, as nothing depends on it: sampling parameters, stop sequences, logprobs, tool calls in answers. They are
//! accepted and do nothing. Embeddings are answered by every model, where vLLM would have one model for each task.

mod chat;
mod completions;
mod embeddings;
pub(crate) mod errors;
mod fields;
pub(crate) mod json;
mod messages;
pub(crate) mod models;
mod prompts;
pub(crate) mod request;
mod responses;
pub(crate) mod tokenize;

use std::time::{SystemTime, UNIX_EPOCH};

use crate::engine::prompt::word;
use crate::engine::stats::FinishReason;
use json::{Json, NULL, object};
use request::{Ask, Form, StreamUsage};

/// What vLLM 0.32 says of its version and build.
pub(crate) const FINGERPRINT: &str = "vllm-0.32.0-simulator";

/// What all parts of one answer say.
#[derive(Debug, Clone)]
pub(crate) struct Heading {
    /// Without the prefix that its form gives it.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// As the client named it.
    pub(crate) model: String,
    /// Most tokens that the answer may have.
    pub(crate) limit: u32,
    /// Whether usage says how many prompt tokens were cached.
    pub(crate) details: bool,
    /// Tokens of a block, as only whole blocks are written to the cache.
    pub(crate) block_size: u32,
}

/// Tokens, as the client is told of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// In all prompts.
    pub(crate) prompt: u32,
    /// Of these, from the cache.
    pub(crate) cached: u32,
    /// Generated.
    pub(crate) completion: u32,
}

impl Usage {
    /// Prompt tokens that were computed and written to the cache; of several prompts in one request, about so many.
    fn created(self, heading: &Heading) -> u32 {
        (self.prompt - self.prompt % heading.block_size.max(1)).saturating_sub(self.cached)
    }

    /// What `prompt_tokens_details` begins with.
    fn details(self, heading: &Heading) -> Json {
        object! {"cached_tokens": self.cached, "created_cache_tokens": self.created(heading)}
    }

    /// As chat and completions tell it in a stream, where details are absent unless they are on.
    fn streamed(self, heading: &Heading) -> Json {
        let usage = object! {
            "prompt_tokens": self.prompt, "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
        };
        if heading.details {
            usage.with("prompt_tokens_details", self.details(heading))
        } else {
            usage
        }
    }

    /// As chat and completions tell it in a plain answer, where details are null unless they are on.
    fn plain(self, heading: &Heading) -> Json {
        let details = match heading.details {
            true => self.details(heading).with("multimodal_tokens", NULL),
            false => NULL,
        };
        object! {
            "prompt_tokens": self.prompt, "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion, "prompt_tokens_details": details,
            "completion_tokens_details": NULL,
        }
    }
}

/// One finished choice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    /// What its words are drawn from.
    pub(crate) seed: u64,
    /// How many words.
    pub(crate) tokens: u32,
    /// How it ended.
    pub(crate) finish: FinishReason,
}

impl Choice {
    fn text(&self) -> String {
        (0..self.tokens).map(|index| word(self.seed, index)).collect()
    }
}

/// What chat and completions call an ending.
fn finish_reason(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// The answer to `GET /version`.
pub(crate) fn version() -> Json {
    object! {"version": "0.32.0"}
}

/// Seconds since 1970.
pub(crate) fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The whole answer in one.
pub(crate) fn plain(ask: &Ask, heading: &Heading, choices: &[Choice], usage: Usage) -> Json {
    match ask.form {
        Form::Chat => chat::plain(heading, choices, usage),
        Form::Completions => completions::plain(heading, choices, usage),
        Form::Responses => responses::plain(heading, choices, usage),
        Form::Messages => messages::plain(heading, choices, usage),
        Form::Embeddings => embeddings::plain(ask, heading, choices, usage),
    }
}

/// One word of one choice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word {
    /// Which choice.
    pub(crate) choice: usize,
    /// Its text; four bytes that need no escape in JSON.
    pub(crate) text: &'static str,
    /// Set on the last word of the choice.
    pub(crate) finish: Option<FinishReason>,
}

/// Writes a stream of server-sent events.
pub(crate) trait StreamForm: Send {
    /// Before the first word.
    fn begin(&mut self, out: &mut String, usage: Usage);
    /// For every word.
    fn word(&mut self, out: &mut String, word: Word, usage: Usage);
    /// After the last word of all choices.
    fn end(&mut self, out: &mut String, usage: Usage);
}

/// The writer of the stream that was asked for. An embedding cannot be streamed and is written as chat.
pub(crate) fn streamed(ask: &Ask, heading: &Heading) -> Box<dyn StreamForm> {
    let choices = ask.submissions.len();
    match ask.form {
        Form::Chat | Form::Embeddings => Box::new(chat::Stream::new(heading, choices, ask.stream_usage)),
        Form::Completions => Box::new(completions::Stream::new(heading, ask.stream_usage)),
        Form::Responses => Box::new(responses::Stream::new(heading)),
        Form::Messages => Box::new(messages::Stream::new(heading)),
    }
}

/// Appends an unnamed event.
fn push_data(out: &mut String, data: &Json) {
    out.push_str("data: ");
    out.push_str(&data.to_text());
    out.push_str("\n\n");
}

/// Appends an event named like its `type`.
fn push_event(out: &mut String, name: &str, data: &Json) {
    out.push_str("event: ");
    out.push_str(name);
    out.push('\n');
    push_data(out, data);
}

/// Ends a stream: usage where it was wished for, in a chunk that begins with `opening`, and the end mark.
fn push_end(out: &mut String, opening: &str, wish: StreamUsage, heading: &Heading, usage: Usage) {
    if wish.at_end {
        let usage = usage.streamed(heading).to_text();
        out.push_str(opening);
        out.push_str("],\"usage\":");
        out.push_str(&usage);
        out.push_str(",\"system_fingerprint\":\"");
        out.push_str(FINGERPRINT);
        out.push_str("\"}\n\n");
    }
    out.push_str("data: [DONE]\n\n");
}

/// Appends what a chunk says of usage, if it is told there.
fn push_usage(out: &mut String, wish: StreamUsage, heading: &Heading, usage: Usage) {
    if wish.always {
        out.push_str(",\"usage\":");
        out.push_str(&usage.streamed(heading).to_text());
    }
}
