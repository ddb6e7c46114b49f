//! Requests that cannot be served, by the rows of `docs/errors.md`, and those that look as if they could not.

use super::maker::Maker;
use crate::request::{Body, Part, Request};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";

/// Row, what is wrong, and the body; `MODEL` stands for a model that is served.
const BAD_BODIES: [(&str, &str, &str); 26] = [
    ("the body is not JSON", "cut off", r#"{"model":"MODEL","messages":["#),
    ("the body is not JSON", "no body", ""),
    ("the body is not JSON", "white space alone", " \r\n\t"),
    (
        "the body is not JSON",
        "a comma too many",
        r#"{"model":"MODEL","messages":[{"role":"user","content":"x"},]}"#,
    ),
    ("the body is not JSON", "single quotes", "{'model':'MODEL'}"),
    (
        "the body is not JSON",
        "NaN",
        r#"{"model":"MODEL","temperature":NaN,"messages":[{"role":"user","content":"x"}]}"#,
    ),
    (
        "the body is not JSON",
        "a number that begins with 0",
        r#"{"model":"MODEL","n":01,"messages":[{"role":"user","content":"x"}]}"#,
    ),
    (
        "the body is not JSON",
        "an escape that is none",
        r#"{"model":"MODEL","messages":[{"role":"user","content":"\x41"}]}"#,
    ),
    (
        "the body is not JSON",
        "a line break in a string",
        "{\"model\":\"MODEL\",\"messages\":[{\"role\":\"user\",\"content\":\"a\nb\"}]}",
    ),
    ("the body is not JSON", "a form", "model=MODEL&prompt=hello"),
    (
        "two JSON values",
        "one after the other",
        r#"{"model":"MODEL","messages":[{"role":"user","content":"x"}]}{}"#,
    ),
    (
        "two JSON values",
        "lines of JSON",
        "{\"model\":\"MODEL\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}\n{\"model\":\"MODEL\"}",
    ),
    ("the body is not an object", "a list", "[1]"),
    ("the body is not an object", "a string", r#""MODEL""#),
    (
        "no model",
        "not there",
        r#"{"messages":[{"role":"user","content":"x"}]}"#,
    ),
    (
        "no model",
        "another case",
        r#"{"Model":"MODEL","messages":[{"role":"user","content":"x"}]}"#,
    ),
    (
        "no model",
        "within another field",
        r#"{"options":{"model":"MODEL"},"messages":[{"role":"user","content":"x"}]}"#,
    ),
    (
        "the model is not a string",
        "a number",
        r#"{"model":7,"messages":[{"role":"user","content":"x"}]}"#,
    ),
    (
        "the model is not a string",
        "null",
        r#"{"model":null,"messages":[{"role":"user","content":"x"}]}"#,
    ),
    (
        "the model is blank",
        "white space",
        r#"{"model":" ","messages":[{"role":"user","content":"x"}]}"#,
    ),
    (
        "the model is blank",
        "empty",
        r#"{"messages":[{"role":"user","content":"x"}],"model":""}"#,
    ),
    (
        "the model is given twice",
        "two models",
        r#"{"model":"MODEL","model":"b","messages":[{"role":"user","content":"x"}]}"#,
    ),
    (
        "the model is given twice",
        "once in disguise",
        r#"{"model":"MODEL","messages":[{"role":"user","content":"x"}],"mode\u006c":"MODEL"}"#,
    ),
    (
        "a prompt field of the wrong type",
        "a text",
        r#"{"model":"MODEL","messages":"x"}"#,
    ),
    (
        "a prompt field of the wrong type",
        "texts",
        r#"{"model":"MODEL","messages":["x"]}"#,
    ),
    (
        "no ModelRoute for the model",
        "nobody has it",
        r#"{"model":"gpt-9","messages":[{"role":"user","content":"x"}]}"#,
    ),
];

/// The same for prompts that are empty, or of types that an API does not know.
const BAD_PROMPTS: [(&str, &str, &str); 10] = [
    ("an empty prompt", CHAT, r#"{"model":"MODEL","messages":[]}"#),
    (
        "an empty prompt",
        CHAT,
        r#"{"model":"MODEL","messages":[{"role":"user","content":""}]}"#,
    ),
    (
        "an empty prompt",
        MESSAGES,
        r#"{"model":"MODEL","system":"be brief","messages":null}"#,
    ),
    (
        "an empty prompt",
        "/v1/completions",
        r#"{"model":"MODEL","prompt":[[],""]}"#,
    ),
    (
        "an empty prompt",
        "/v1/responses",
        r#"{"model":"MODEL","instructions":"be brief"}"#,
    ),
    ("an empty prompt", "/v1/embeddings", r#"{"model":"MODEL","input":[]}"#),
    (
        "a prompt field of the wrong type",
        "/v1/completions",
        r#"{"model":"MODEL","prompt":{"text":"x"}}"#,
    ),
    (
        "a prompt field of the wrong type",
        "/v1/completions",
        r#"{"model":"MODEL","prompt":[1,2.5]}"#,
    ),
    (
        "a prompt field of the wrong type",
        "/v1/responses",
        r#"{"model":"MODEL","input":7}"#,
    ),
    (
        "a prompt field of the wrong type",
        CHAT,
        r#"{"model":"MODEL","messages":[{"role":"user","content":"x"}],"stream":"yes"}"#,
    ),
];

impl Maker {
    /// Bad bodies about a model that is served, and heads that say too much; in the form of either API.
    pub(crate) fn refused(&mut self, model: &str) {
        for (at, (row, what, body)) in BAD_BODIES.into_iter().enumerate() {
            let path = if at % 3 == 2 { MESSAGES } else { CHAT };
            let request = self.post(&format!("refused: {row}, {what}"), path, body.replace("MODEL", model));
            self.add_refused(row, request);
        }
        // Every row has to be seen in the other form, too.
        let mut rows: Vec<&str> = Vec::new();
        for (row, what, body) in BAD_BODIES {
            if !rows.contains(&row) {
                rows.push(row);
                let request = self.post(
                    &format!("refused as Anthropic does: {row}, {what}"),
                    MESSAGES,
                    body.replace("MODEL", model),
                );
                self.add_refused(row, request);
            }
        }
        for (row, path, body) in BAD_PROMPTS {
            let request = self.post(&format!("refused: {row}, {path}"), path, body.replace("MODEL", model));
            self.add_refused(row, request);
        }
        self.refused_by_head(model);
        self.refused_by_bytes(model);
    }

    fn refused_by_head(&mut self, model: &str) {
        let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"x"}}]}}"#);
        for path in [CHAT, MESSAGES] {
            for (row, name, value) in [
                ("the body is too large", "content-length", "16777217"),
                ("a content encoding we cannot read", "content-encoding", "gzip"),
                ("a content encoding we cannot read", "content-encoding", "zstd, br"),
                (
                    "a body of parts, as uploads are",
                    "content-type",
                    "multipart/form-data; boundary=x",
                ),
                ("a body of parts, as uploads are", "content-type", "Multipart/Mixed"),
            ] {
                let mut request = self.post(&format!("refused: {row}, {value}"), path, body.clone());
                request.headers.insert(name.to_owned(), value.to_owned());
                self.add_refused(row, request);
            }
        }
        let mut identity = self.post("not refused: encoded as it is", CHAT, body);
        identity
            .headers
            .insert("content-encoding".to_owned(), "Identity".to_owned());
        self.add(identity);
    }

    fn refused_by_bytes(&mut self, model: &str) {
        let around = |middle: Part| {
            let head = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":""#);
            Body::Recipe(vec![Part::Text(head), middle, Part::Text(r#""}]}"#.to_owned())])
        };
        let hex = |hex: &str| Part::Hex { hex: hex.to_owned() };
        for (what, middle) in [
            ("bytes that are no UTF-8", hex("fffe")),
            ("a character cut off", hex("e69d")),
            ("a character spelled too long", hex("c080")),
            ("half of a surrogate pair in UTF-8", hex("eda080")),
        ] {
            let mut request = self.post(&format!("refused: {what}"), CHAT, "");
            request.body = around(middle);
            self.add_refused("the body is not JSON", request);
        }
        let mut deep = self.post("refused: nested too deep", CHAT, "");
        let brackets = Part::Repeat {
            repeat: "[".to_owned(),
            times: 3_000,
        };
        deep.body = Body::Recipe(vec![Part::Text(format!(r#"{{"model":"{model}","x":"#)), brackets]);
        self.add_refused("the body is not JSON", deep);
        let mut marked = self.post("refused: a byte order mark", CHAT, "");
        marked.body = Body::Recipe(vec![hex("efbbbf"), Part::Text(format!(r#"{{"model":"{model}"}}"#))]);
        self.add_refused("the body is not JSON", marked);
    }

    /// Adds a request that must get this row.
    pub(crate) fn add_refused(&mut self, row: &str, mut request: Request) {
        self.cut(&mut request);
        request.row = Some(row.to_owned());
        self.add(request);
    }
}
