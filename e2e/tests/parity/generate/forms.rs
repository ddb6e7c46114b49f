//! The forms of prompts, by path: one line each, beside the fields that they are made of.

use serde_json::{Value, json};

use super::draws::Draws;

/// A form of a prompt.
pub(crate) struct Form {
    pub(crate) name: &'static str,
    pub(crate) path: &'static str,
    pub(crate) fields: fn(&mut Draws) -> Vec<(&'static str, Value)>,
}

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";
const EMBEDDINGS: &str = "/v1/embeddings";
const MESSAGES: &str = "/v1/messages";

/// All forms.
pub(crate) fn all() -> Vec<Form> {
    let mut all = chat();
    all.extend(completions());
    all.extend(responses());
    all.extend(embeddings());
    all.extend(messages());
    all.extend(others());
    all
}

fn form(name: &'static str, path: &'static str, fields: fn(&mut Draws) -> Vec<(&'static str, Value)>) -> Form {
    Form { name, path, fields }
}

fn user(text: String) -> Value {
    json!({"role": "user", "content": text})
}

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "weather", "strict": true, "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 14}}, "required": ["city"]}}})
}

fn chat() -> Vec<Form> {
    vec![
        form("chat: text", CHAT, |d| vec![("messages", json!([user(d.sentence())]))]),
        form("chat: system and user", CHAT, |d| {
            let system = json!({"role": "system", "content": d.paragraph()});
            vec![
                ("messages", json!([system, user(d.sentence())])),
                ("temperature", json!(0.7)),
                ("max_tokens", json!(64)),
            ]
        }),
        form("chat: turns", CHAT, |d| {
            let turns =
                json!([user(d.paragraph()), {"role": "assistant", "content": d.sentence()}, user(d.sentence())]);
            vec![
                ("messages", turns),
                ("max_completion_tokens", json!(100)),
                ("max_tokens", json!(7)),
            ]
        }),
        form("chat: parts", CHAT, |d| {
            let parts = json!([{"type": "text", "text": d.sentence()}, {"type": "text", "text": d.paragraph()}]);
            vec![("messages", json!([{"role": "user", "content": parts}]))]
        }),
        form("chat: image", CHAT, |d| {
            let url = format!("data:image/png;base64,{}", "iVBORw0KGgo".repeat(3 + d.below(9)));
            let parts = json!([{"type": "text", "text": d.sentence()}, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]);
            vec![("messages", json!([{"role": "user", "content": parts}]))]
        }),
        form("chat: audio", CHAT, |d| {
            let parts = json!([{"type": "input_audio", "input_audio": {"data": "UklGRg==".repeat(1 + d.below(9)), "format": "wav"}}]);
            vec![("messages", json!([{"role": "user", "content": parts}]))]
        }),
        form("chat: tools", CHAT, |d| {
            vec![
                ("tools", json!([tool()])),
                ("messages", json!([user(d.sentence())])),
                ("tool_choice", json!("auto")),
            ]
        }),
        form("chat: functions", CHAT, |d| {
            let function = json!({"name": "lookup", "parameters": {"type": "object", "properties": {"n": {"enum": [1, 2.5, null, true]}}}});
            vec![
                ("functions", json!([function])),
                ("messages", json!([user(d.sentence())])),
            ]
        }),
        form("chat: tool calls", CHAT, |d| {
            let call = json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Zürich\",\"days\":3}"}});
            let turns = json!([user(d.sentence()), {"role": "assistant", "content": null, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "call_1", "content": "-3.5 °C"}]);
            vec![("messages", turns), ("tools", json!([tool()]))]
        }),
        form("chat: stream", CHAT, |d| {
            vec![
                ("messages", json!([user(d.sentence())])),
                ("stream", json!(true)),
                ("stream_options", json!({"include_usage": true})),
            ]
        }),
        form("chat: cache salt", CHAT, |d| {
            vec![
                ("cache_salt", json!("tenant-1")),
                ("messages", json!([user(d.paragraph())])),
            ]
        }),
        form("chat: unknown fields", CHAT, |d| {
            let deep =
                json!({"model": "not this one", "list": [[], {}, [1e-7, -0.0, 12345678901234567890u64]], "none": null});
            vec![
                ("x_future", deep),
                ("messages", json!([user(d.sentence())])),
                ("logit_bias", json!({"50256": -100})),
                ("n", json!(1)),
            ]
        }),
    ]
}

fn completions() -> Vec<Form> {
    vec![
        form("completions: text", COMPLETIONS, |d| {
            vec![
                ("prompt", json!(d.paragraph())),
                ("max_tokens", json!(16)),
                ("echo", json!(false)),
            ]
        }),
        form("completions: texts", COMPLETIONS, |d| {
            vec![("prompt", json!([d.sentence(), d.sentence()])), ("suffix", json!("."))]
        }),
        form("completions: ids", COMPLETIONS, |d| {
            vec![("prompt", json!(d.ids(40))), ("max_tokens", json!(1))]
        }),
        form("completions: lists of ids", COMPLETIONS, |d| {
            vec![("prompt", json!([d.ids(3), d.ids(20)]))]
        }),
        form("completions: embeds", COMPLETIONS, |d| {
            vec![("prompt_embeds", json!("gASVdgAAAAAAAAB9".repeat(2 + d.below(9))))]
        }),
    ]
}

fn responses() -> Vec<Form> {
    vec![
        form("responses: text", RESPONSES, |d| {
            vec![("input", json!(d.sentence())), ("max_output_tokens", json!(50))]
        }),
        form("responses: items", RESPONSES, |d| {
            let item =
                json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": d.paragraph()}]});
            vec![("input", json!([item])), ("store", json!(false))]
        }),
        form("responses: instructions", RESPONSES, |d| {
            vec![("instructions", json!(d.paragraph())), ("input", json!(d.sentence()))]
        }),
        form("responses: tool output", RESPONSES, |d| {
            let items = json!([{"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": d.sentence()}]);
            vec![
                (
                    "tools",
                    json!([{"type": "function", "name": "weather", "parameters": {"type": "object"}}]),
                ),
                ("input", items),
                ("stream", json!(false)),
            ]
        }),
    ]
}

fn embeddings() -> Vec<Form> {
    vec![
        form("embeddings: text", EMBEDDINGS, |d| {
            vec![("input", json!(d.sentence())), ("encoding_format", json!("float"))]
        }),
        form("embeddings: texts", EMBEDDINGS, |d| {
            vec![("input", json!([d.sentence(), d.paragraph(), "x"]))]
        }),
        form("embeddings: ids", EMBEDDINGS, |d| {
            vec![("input", json!(d.ids(12))), ("dimensions", json!(256))]
        }),
        form("embeddings: lists of ids", EMBEDDINGS, |d| {
            vec![("input", json!([d.ids(4), d.ids(4)]))]
        }),
        form("embeddings: parts", EMBEDDINGS, |d| {
            vec![("input", json!([{"type": "text", "text": d.sentence()}]))]
        }),
        form("embeddings: messages", EMBEDDINGS, |d| {
            vec![("input", Value::Null), ("messages", json!([user(d.sentence())]))]
        }),
    ]
}

fn messages() -> Vec<Form> {
    vec![
        form("messages: text", MESSAGES, |d| {
            vec![("max_tokens", json!(1024)), ("messages", json!([user(d.sentence())]))]
        }),
        form("messages: system", MESSAGES, |d| {
            vec![
                ("system", json!(d.paragraph())),
                ("messages", json!([user(d.sentence())])),
                ("max_tokens", json!(10)),
            ]
        }),
        form("messages: cached system", MESSAGES, |d| {
            let part =
                json!({"type": "text", "text": d.paragraph(), "cache_control": {"type": "ephemeral", "ttl": "1h"}});
            vec![
                ("max_tokens", json!(10)),
                ("system", json!([part])),
                ("messages", json!([user(d.sentence())])),
            ]
        }),
        form("messages: tools", MESSAGES, |d| {
            let tool = json!({"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}});
            vec![
                ("tools", json!([tool])),
                ("messages", json!([user(d.sentence())])),
                ("max_tokens", json!(10)),
            ]
        }),
        form("messages: tool use", MESSAGES, |d| {
            let turns = json!([user(d.sentence()), {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {"days": 2, "ok": true}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": d.sentence()}]}]);
            vec![("messages", turns), ("max_tokens", json!(10)), ("stream", json!(true))]
        }),
        form("messages: image", MESSAGES, |d| {
            let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/4AAQ".repeat(2 + d.below(9))}});
            vec![
                (
                    "messages",
                    json!([{"role": "user", "content": [image, {"type": "text", "text": d.sentence()}]}]),
                ),
                ("max_tokens", json!(10)),
            ]
        }),
    ]
}

fn others() -> Vec<Form> {
    vec![
        form("other: rerank", "/v1/rerank", |d| {
            vec![
                ("query", json!(d.sentence())),
                ("documents", json!([d.sentence(), {"text": d.paragraph()}])),
                ("top_n", json!(1)),
            ]
        }),
        form("other: pooling", "/v1/pooling", |d| {
            vec![("input", json!([d.sentence()]))]
        }),
        form("other: classify", "/v1/classify", |d| vec![("input", json!(d.ids(9)))]),
        form("other: image", "/v1/images/generations", |d| {
            vec![("prompt", json!(d.sentence())), ("size", json!("1024x1024"))]
        }),
        form("other: speech", "/v1/audio/speech", |d| {
            vec![("input", json!(d.sentence())), ("voice", json!("alloy"))]
        }),
        form("other: count tokens", "/v1/messages/count_tokens", |d| {
            vec![("messages", json!([user(d.paragraph())]))]
        }),
        form("other: tokenize", "/v1/tokenize?verbose=1", |d| {
            vec![("text", json!(d.sentence()))]
        }),
        form("other: no prompt known", "/v1/score", |d| {
            vec![("text_1", json!(d.sentence())), ("text_2", json!([d.sentence()]))]
        }),
    ]
}
