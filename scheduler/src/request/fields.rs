//! Which fields of a body mean what, by API form.
//!
//! # The text stream of a prompt
//!
//! The prompt-bearing fields, in document order:
//!
//! | form | fields |
//! |---|---|
//! | chat completions | `messages`; `tools`, `functions` |
//! | completions | `prompt`, `prompt_embeds` |
//! | responses | `input`, `instructions`; `tools` |
//! | embeddings | `input`, `messages` |
//! | messages | `system`, `messages`; `tools` |
//! | other | `prompt`, `messages`, `input`, `query`, `documents`, `text` |
//!
//! Within them every string value goes into the stream, decoded, behind the byte 0xFF: text, roles, names, and also the
//! URL or the data of an image, which decides what the cache holds as much as text does. Within `tools` and `functions`,
//! and below `tool_calls`, `function_call`, `input`, `arguments` inside a message, the rest of the structure counts too:
//! keys behind 0xFE, and numbers, `true`, `false`, `null` as they are spelled behind 0xFD. Token ids in a row are 0xFC and
//! each id as four little-endian bytes. None of these bytes occurs in UTF-8, so borders between values count.
//!
//! Not in the stream: outside of tools the value of `type`, and everywhere all of `cache_control`. The first only says
//! how a part is wrapped; the second is a mark that clients move from turn to turn, which would part every conversation
//! from its own cache.

/// What a field at the top level is read as.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    Model,
    Stream,
    StreamOptions,
    CacheSalt,
    /// A bound on generated tokens; the greatest rank counts.
    MaxTokens {
        rank: u8,
    },
    Prompt(&'static PromptField),
    Other,
}

/// A prompt-bearing field.
#[derive(Debug)]
pub(super) struct PromptField {
    pub(super) name: &'static str,
    /// It carries the prompt itself: one of these must hold text or ids.
    pub(super) essential: bool,
    /// Keys and scalars count.
    pub(super) structured: bool,
    /// What its value may be; `null` is as good as absent always.
    pub(super) value: Types,
    /// What the elements of a list may be.
    pub(super) elements: Types,
    /// What the elements of a list within the list may be.
    pub(super) inner: Types,
    /// The same in words.
    pub(super) expected: &'static str,
}

/// A set of JSON types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Types(u8);

impl Types {
    pub(super) const NONE: Self = Self(0);
    pub(super) const STRING: Self = Self(1);
    /// Numbers, and they are token ids.
    pub(super) const IDS: Self = Self(2);
    pub(super) const OBJECT: Self = Self(4);
    pub(super) const ARRAY: Self = Self(8);
    /// Everything; numbers in lists are token ids where they can be.
    pub(super) const ANY: Self = Self(0xFF);

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

const IDS_OR_TEXT: PromptField = PromptField {
    name: "prompt",
    essential: true,
    structured: false,
    value: Types::STRING.or(Types::ARRAY),
    elements: Types::STRING.or(Types::IDS).or(Types::ARRAY),
    inner: Types::IDS,
    expected: "a string, a list of strings, a list of token ids or a list of such lists",
};

const FREE: PromptField = PromptField {
    name: "",
    essential: false,
    structured: false,
    value: Types::ANY,
    elements: Types::ANY,
    inner: Types::ANY,
    expected: "any value",
};

static PROMPT: PromptField = IDS_OR_TEXT;
static EMBEDDING_INPUT: PromptField = PromptField {
    name: "input",
    elements: Types::STRING.or(Types::IDS).or(Types::ARRAY).or(Types::OBJECT),
    expected: "a string, a list of strings, a list of token ids, a list of such lists or a list of parts",
    ..IDS_OR_TEXT
};
static MESSAGES: PromptField = PromptField {
    name: "messages",
    value: Types::ARRAY,
    elements: Types::OBJECT,
    inner: Types::NONE,
    expected: "a list of messages",
    ..IDS_OR_TEXT
};
static INPUT: PromptField = PromptField {
    name: "input",
    value: Types::STRING.or(Types::ARRAY),
    elements: Types::OBJECT,
    inner: Types::NONE,
    expected: "a string or a list of items",
    ..IDS_OR_TEXT
};
static PROMPT_EMBEDS: PromptField = PromptField {
    name: "prompt_embeds",
    essential: true,
    ..FREE
};
static CONTEXT: PromptField = PromptField {
    name: "system",
    value: Types::STRING.or(Types::ARRAY),
    elements: Types::OBJECT,
    inner: Types::NONE,
    expected: "a string or a list of parts",
    ..FREE
};
static INSTRUCTIONS: PromptField = PromptField {
    name: "instructions",
    ..FREE
};
static TOOLS: PromptField = PromptField {
    name: "tools",
    structured: true,
    ..FREE
};
static ANYTHING: PromptField = FREE;

/// What the field `key` means in a body of this form.
pub(super) fn field(form: super::ApiForm, key: &[u8]) -> Field {
    match key {
        b"model" => Field::Model,
        b"stream" => Field::Stream,
        b"stream_options" => Field::StreamOptions,
        b"cache_salt" => Field::CacheSalt,
        b"max_tokens" => Field::MaxTokens { rank: 1 },
        b"max_output_tokens" => Field::MaxTokens { rank: 2 },
        b"max_completion_tokens" => Field::MaxTokens { rank: 3 },
        _ => prompt_field(form, key).map_or(Field::Other, Field::Prompt),
    }
}

fn prompt_field(form: super::ApiForm, key: &[u8]) -> Option<&'static PromptField> {
    use super::ApiForm::{ChatCompletions, Completions, Embeddings, Messages, Other, Responses};
    Some(match (form, key) {
        (ChatCompletions | Embeddings | Messages, b"messages") => &MESSAGES,
        (ChatCompletions | Responses | Messages, b"tools") | (ChatCompletions, b"functions") => &TOOLS,
        (Completions, b"prompt") => &PROMPT,
        (Completions, b"prompt_embeds") => &PROMPT_EMBEDS,
        (Responses, b"input") => &INPUT,
        (Responses, b"instructions") => &INSTRUCTIONS,
        (Embeddings, b"input") => &EMBEDDING_INPUT,
        (Messages, b"system") => &CONTEXT,
        (Other, b"prompt" | b"messages" | b"input" | b"query" | b"documents" | b"text") => &ANYTHING,
        _ => return None,
    })
}

/// The field that must carry a prompt in a body of this form.
pub(super) fn essential_field(form: super::ApiForm) -> Option<&'static str> {
    use super::ApiForm::{ChatCompletions, Completions, Embeddings, Messages, Other, Responses};
    match form {
        ChatCompletions | Messages => Some("messages"),
        Completions => Some("prompt"),
        Responses | Embeddings => Some("input"),
        Other => None,
    }
}

/// What a key within a prompt-bearing field says of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InnerKey {
    /// Nothing special.
    Plain,
    /// Who speaks: counts for the chain, but is no prompt by itself.
    Role,
    /// Only says how a part is wrapped.
    Wrapping,
    /// A mark for the cache of the engine's vendor.
    CacheMark,
    /// Keys and scalars count from here on.
    Structure,
}

pub(super) fn inner_key(key: &[u8]) -> InnerKey {
    match key {
        b"role" => InnerKey::Role,
        b"type" => InnerKey::Wrapping,
        b"cache_control" => InnerKey::CacheMark,
        b"tool_calls" | b"function_call" | b"input" | b"arguments" => InnerKey::Structure,
        _ => InnerKey::Plain,
    }
}
