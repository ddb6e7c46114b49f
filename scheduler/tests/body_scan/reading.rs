//! The plain reading: a tree of the body, and the documented rules applied to it one after the other.

use std::num::NonZeroU32;

use kthena_scheduler::prefix::chain::ChainBuilder;
use kthena_scheduler::request::{ApiForm, BodyError, IncludeUsage, ModelField, Prompt, RequestFacts, StreamOptions};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A value with its place in the body.
struct Node {
    start: u64,
    end: u64,
    value: Value,
}

enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

struct Fields<'a>(Vec<(&'a RawValue, &'a RawValue)>);
struct Elements<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Elements<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut elements = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(Elements(elements))
            }
        }
        deserializer.deserialize_seq(Collect)
    }
}

/// Decodes a JSON string, quotes included; lone surrogates become U+FFFD.
fn decode(raw: &str) -> String {
    let inner = &raw[1..raw.len() - 1];
    let mut units: Vec<u16> = Vec::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        let unit = match c {
            '\\' => match chars.next().unwrap() {
                'b' => 8,
                'f' => 12,
                'n' => 10,
                'r' => 13,
                't' => 9,
                'u' => {
                    let hex: String = chars.by_ref().take(4).collect();
                    u16::from_str_radix(&hex, 16).unwrap()
                }
                plain => plain as u16,
            },
            c => {
                units.extend(c.encode_utf16(&mut [0; 2]).iter());
                continue;
            }
        };
        units.push(unit);
    }
    char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect()
}

fn node(body: &str, raw: &RawValue) -> Node {
    let text = raw.get();
    let start = (text.as_ptr() as usize - body.as_ptr() as usize) as u64;
    let value = match text.as_bytes()[0] {
        b'n' => Value::Null,
        b't' => Value::Bool(true),
        b'f' => Value::Bool(false),
        b'"' => Value::Text(decode(text)),
        b'[' => {
            let Elements(elements) = serde_json::from_str(text).unwrap();
            Value::List(elements.into_iter().map(|element| node(body, element)).collect())
        }
        b'{' => {
            let Fields(fields) = serde_json::from_str(text).unwrap();
            Value::Object(
                fields
                    .into_iter()
                    .map(|(key, value)| (decode(key.get()), node(body, value)))
                    .collect(),
            )
        }
        _ => Value::Number(text.to_owned()),
    };
    Node {
        start,
        end: start + text.len() as u64,
        value,
    }
}

/// The text stream as it grows.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    text_bytes: u64,
    ids: Option<u64>,
    found: bool,
}

impl Stream {
    fn add(&mut self, separator: u8, text: &str) {
        self.bytes.push(separator);
        self.bytes.extend(text.as_bytes());
        self.text_bytes += text.len() as u64;
    }

    fn structure(&mut self, node: &Node, essential: bool) {
        match &node.value {
            Value::Null => self.add(0xFD, "null"),
            Value::Bool(value) => self.add(0xFD, &value.to_string()),
            Value::Number(spelled) => self.add(0xFD, spelled),
            Value::Text(text) => {
                self.add(0xFF, text);
                self.found |= essential && !text.is_empty();
            }
            Value::List(elements) => elements.iter().for_each(|element| self.structure(element, essential)),
            Value::Object(fields) => {
                for (key, value) in fields.iter().filter(|(key, _)| key != "cache_control") {
                    self.add(0xFE, key);
                    self.structure(
                        value,
                        essential && !(key == "role" && matches!(value.value, Value::Text(_))),
                    );
                }
            }
        }
    }

    fn text(&mut self, node: &Node, essential: bool) {
        match &node.value {
            Value::Text(text) => {
                self.add(0xFF, text);
                self.found |= essential && !text.is_empty();
            }
            Value::List(elements) => elements.iter().for_each(|element| self.text(element, essential)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    match key.as_str() {
                        "type" | "cache_control" => {}
                        "tool_calls" | "function_call" | "input" | "arguments" => self.structure(value, essential),
                        "role" if matches!(value.value, Value::Text(_)) => self.text(value, false),
                        _ => self.text(value, essential),
                    }
                }
            }
            _ => {}
        }
    }

    fn ids(&mut self, elements: &[Node], essential: bool) {
        let mut opened = false;
        for element in elements {
            if let Some(id) = id_of(element) {
                if !opened {
                    self.bytes.push(0xFC);
                    opened = true;
                }
                self.bytes.extend(id.to_le_bytes());
                self.ids = Some(self.ids.unwrap_or(0) + 1);
                self.found |= essential;
            } else if let Value::List(inner) = &element.value {
                opened = false;
                self.ids(inner, essential);
            } else {
                // The separator stands before ids in a row; whatever else is between them parts the row.
                opened &= matches!(element.value, Value::Number(_));
                self.text(element, essential);
            }
        }
    }
}

fn id_of(node: &Node) -> Option<u32> {
    match &node.value {
        Value::Number(spelled) => spelled.parse().ok(),
        _ => None,
    }
}

fn kind(node: &Node) -> &'static str {
    match &node.value {
        Value::Null | Value::Bool(_) => "other",
        Value::Number(_) => "number",
        Value::Text(_) => "string",
        Value::List(_) => "list",
        Value::Object(_) => "object",
    }
}

/// What a prompt-bearing field of a form is: its name, whether it is essential, and what it may hold at three levels.
struct Rule(&'static str, bool, [&'static [&'static str]; 3], &'static str);

const IDS_WORDS: &str = "a string, a list of strings, a list of token ids or a list of such lists";
const EMBEDDING_WORDS: &str =
    "a string, a list of strings, a list of token ids, a list of such lists or a list of parts";

fn rule(form: ApiForm, key: &str) -> Option<Rule> {
    const ALL: &[&str] = &["other", "number", "string", "list", "object"];
    use ApiForm::*;
    let messages = || Rule("messages", true, [&["list"], &["object"], &[]], "a list of messages");
    let free = |essential| Rule("", essential, [ALL, ALL, ALL], "any value");
    Some(match (form, key) {
        (ChatCompletions | Embeddings | Messages, "messages") => messages(),
        (Completions, "prompt") => Rule(
            "prompt",
            true,
            [&["string", "list"], &["string", "number", "list"], &["number"]],
            IDS_WORDS,
        ),
        (Completions, "prompt_embeds") => free(true),
        (Embeddings, "input") => Rule(
            "input",
            true,
            [
                &["string", "list"],
                &["string", "number", "list", "object"],
                &["number"],
            ],
            EMBEDDING_WORDS,
        ),
        (Responses, "input") => Rule(
            "input",
            true,
            [&["string", "list"], &["object"], &[]],
            "a string or a list of items",
        ),
        (Messages, "system") => Rule(
            "system",
            false,
            [&["string", "list"], &["object"], &[]],
            "a string or a list of parts",
        ),
        (Responses, "instructions") => free(false),
        (Other, "prompt" | "messages" | "input" | "query" | "documents" | "text") => free(false),
        _ => return None,
    })
}

/// The first value, in document order, whose type the rule does not allow.
fn offence(rule: &Rule, node: &Node, level: usize) -> Option<u64> {
    let allowed = rule.2.get(level)?;
    if !allowed.contains(&kind(node)) {
        return Some(node.start);
    }
    if level > 0 && kind(node) == "number" && rule.3 != "any value" && id_of(node).is_none() {
        return Some(node.start);
    }
    match &node.value {
        Value::List(elements) => elements.iter().find_map(|element| offence(rule, element, level + 1)),
        _ => None,
    }
}

fn is_tools(form: ApiForm, key: &str) -> bool {
    match key {
        "tools" => matches!(form, ApiForm::ChatCompletions | ApiForm::Responses | ApiForm::Messages),
        "functions" => form == ApiForm::ChatCompletions,
        _ => false,
    }
}

/// What the scan must answer to a body that is JSON.
pub(crate) fn read(form: ApiForm, body: &str, block_bytes: NonZeroU32) -> Result<RequestFacts, BodyError> {
    let top = node(body, serde_json::from_str(body).unwrap());
    let Value::Object(fields) = &top.value else {
        return Err(BodyError::NotAnObject);
    };
    let mut model: Option<ModelField> = None;
    let mut stream = false;
    let mut stream_options = StreamOptions::Absent;
    let mut max_tokens: Option<(usize, u64)> = None;
    let mut cache_salt = None;
    let mut prompt = Stream::default();
    for (key, value) in fields {
        match key.as_str() {
            "model" => {
                let again = model.is_some();
                model = Some(read_model(value, again)?);
            }
            "stream" => stream = read_stream(value)?,
            "stream_options" => stream_options = read_stream_options(value),
            "cache_salt" => {
                cache_salt = if let Value::Text(salt) = &value.value {
                    Some(salt.as_str().into())
                } else {
                    None
                };
            }
            "max_tokens" | "max_output_tokens" | "max_completion_tokens" => {
                let rank = key.len();
                let spelled = if let Value::Number(spelled) = &value.value {
                    spelled.parse().ok()
                } else {
                    None
                };
                if let Some(tokens) = spelled.filter(|_| max_tokens.is_none_or(|(known, _)| rank >= known)) {
                    max_tokens = Some((rank, tokens));
                }
            }
            key if is_tools(form, key) => prompt.structure(value, false),
            key => {
                if let Some(rule) = rule(form, key) {
                    read_prompt(&rule, value, &mut prompt)?;
                }
            }
        }
    }
    let model = model.ok_or(BodyError::ModelMissing)?;
    let essential = match form {
        ApiForm::ChatCompletions | ApiForm::Messages => Some("messages"),
        ApiForm::Completions => Some("prompt"),
        ApiForm::Responses | ApiForm::Embeddings => Some("input"),
        ApiForm::Other => None,
    };
    if let Some(field) = essential.filter(|_| !prompt.found) {
        return Err(BodyError::EmptyPrompt { field });
    }
    let mut chain = ChainBuilder::new(block_bytes);
    chain.push(&prompt.bytes);
    Ok(RequestFacts {
        form,
        model,
        stream,
        stream_options,
        object_start: top.start + 1,
        max_tokens: max_tokens.map(|(_, tokens)| tokens),
        cache_salt,
        prompt: Prompt {
            text_bytes: prompt.text_bytes,
            token_ids: prompt.ids,
            chain: chain.finish(),
        },
        body_bytes: body.len() as u64,
    })
}

fn read_model(value: &Node, again: bool) -> Result<ModelField, BodyError> {
    if again {
        return Err(BodyError::ModelTwice { offset: value.start });
    }
    let Value::Text(name) = &value.value else {
        return Err(BodyError::ModelNotAString);
    };
    if name.trim().is_empty() {
        return Err(BodyError::ModelBlank);
    }
    Ok(ModelField {
        name: name.as_str().into(),
        span: value.start..value.end,
    })
}

fn read_stream(value: &Node) -> Result<bool, BodyError> {
    match value.value {
        Value::Bool(on) => Ok(on),
        Value::Null => Ok(false),
        _ => Err(BodyError::WrongType {
            field: "stream",
            expected: "true or false",
            offset: value.start,
        }),
    }
}

fn read_stream_options(value: &Node) -> StreamOptions {
    match &value.value {
        Value::Null => StreamOptions::Null(value.start..value.end),
        Value::Object(options) => StreamOptions::Object {
            insert_at: value.start + 1,
            empty: options.is_empty(),
            include_usage: options
                .iter()
                .rfind(|(key, _)| key == "include_usage")
                .map(|(_, option)| IncludeUsage {
                    span: option.start..option.end,
                    on: matches!(option.value, Value::Bool(true)),
                }),
        },
        _ => StreamOptions::Invalid,
    }
}

fn read_prompt(rule: &Rule, value: &Node, prompt: &mut Stream) -> Result<(), BodyError> {
    let Rule(name, essential, _, expected) = *rule;
    if let Value::Null = value.value {
        return Ok(());
    }
    if let Some(offset) = offence(rule, value, 0) {
        return Err(BodyError::WrongType {
            field: name,
            expected,
            offset,
        });
    }
    match &value.value {
        Value::List(elements) if rule.2[1].contains(&"number") => prompt.ids(elements, essential),
        _ => prompt.text(value, essential),
    }
    Ok(())
}
