//! One JSON value may be spelled in many ways: white space, escapes, order of the fields.

use std::fmt::Write as _;

use serde_json::Value;

/// How a body is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// As programs write it.
    Compact,
    /// As Python's `json.dumps` does: a space after `,` and `:`, everything but ASCII escaped.
    Python,
    /// For people, with tabs, and `/` escaped as PHP does.
    Pretty,
}

impl Spelling {
    /// An object with its fields in this order.
    pub(crate) fn object(self, fields: &[(String, Value)]) -> String {
        let mut out = String::new();
        self.open(&mut out, '{');
        for (at, (name, value)) in fields.iter().enumerate() {
            self.separate(&mut out, at, 1);
            self.string(&mut out, name);
            out.push_str(if self == Self::Compact { ":" } else { ": " });
            self.value(&mut out, value, 1);
        }
        self.close(&mut out, '}', 0, fields.is_empty());
        out
    }

    fn value(self, out: &mut String, value: &Value, depth: usize) {
        match value {
            Value::String(text) => self.string(out, text),
            Value::Array(items) => {
                self.open(out, '[');
                for (at, item) in items.iter().enumerate() {
                    self.separate(out, at, depth + 1);
                    self.value(out, item, depth + 1);
                }
                self.close(out, ']', depth, items.is_empty());
            }
            Value::Object(fields) => {
                self.open(out, '{');
                // As people write it: who speaks, or what it is, comes first.
                let is_later = |name: &str| !["role", "type"].contains(&name);
                let mut ordered: Vec<_> = fields.iter().collect();
                ordered.sort_by_key(|(name, _)| is_later(name));
                for (at, (name, value)) in ordered.into_iter().enumerate() {
                    self.separate(out, at, depth + 1);
                    self.string(out, name);
                    out.push_str(if self == Self::Compact { ":" } else { ": " });
                    self.value(out, value, depth + 1);
                }
                self.close(out, '}', depth, fields.is_empty());
            }
            other => out.push_str(&other.to_string()),
        }
    }

    fn open(self, out: &mut String, bracket: char) {
        out.push(bracket);
    }

    fn separate(self, out: &mut String, at: usize, depth: usize) {
        if at > 0 {
            out.push(',');
        }
        match self {
            Self::Compact => {}
            Self::Python => out.push_str(if at > 0 { " " } else { "" }),
            Self::Pretty => new_line(out, depth),
        }
    }

    fn close(self, out: &mut String, bracket: char, depth: usize, is_empty: bool) {
        if self == Self::Pretty && !is_empty {
            new_line(out, depth);
        }
        out.push(bracket);
    }

    fn string(self, out: &mut String, text: &str) {
        let quoted = Value::from(text).to_string();
        match self {
            Self::Compact => out.push_str(&quoted),
            Self::Pretty => out.push_str(&quoted.replace('/', "\\/")),
            Self::Python => {
                for c in quoted.chars() {
                    match c {
                        ' '..='~' => out.push(c),
                        c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                            let _ = write!(out, "\\u{unit:04x}");
                        }),
                    }
                }
            }
        }
    }
}

fn new_line(out: &mut String, depth: usize) {
    out.push_str("\r\n");
    (0..depth).for_each(|_| out.push('\t'));
}
