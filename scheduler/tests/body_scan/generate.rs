//! Bodies of every form: known fields and unknown ones, right types mostly and wrong ones at times, spelled in every way.

use kthena_scheduler::request::ApiForm;
use proptest::prelude::*;

/// A body, and the tree that it spells.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) form: ApiForm,
    pub(crate) text: String,
    tree: Tree,
}

impl Body {
    /// The same tree in another spelling.
    pub(crate) fn respelled(&self, seed: u64) -> String {
        spell(&self.tree, seed)
    }
}

#[derive(Debug, Clone)]
enum Tree {
    /// `true`, numbers and the like, as they are.
    Literal(&'static str),
    Text(Vec<Unit>),
    List(Vec<Tree>),
    Object(Vec<(Vec<Unit>, Tree)>),
}

/// What a string is made of.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Char(char),
    /// A surrogate that stands alone, unless chance puts its other half beside it.
    Surrogate(u16),
}

const KEYS: &[&str] = &[
    "role",
    "content",
    "type",
    "text",
    "name",
    "cache_control",
    "tool_calls",
    "function",
    "function_call",
    "arguments",
    "input",
    "include_usage",
    "",
    "kéy",
    "a key that is much longer than any that the scan knows by name",
];

const TOP_KEYS: &[&str] = &[
    "model",
    "stream",
    "stream_options",
    "cache_salt",
    "max_tokens",
    "max_output_tokens",
    "max_completion_tokens",
    "prompt",
    "prompt_embeds",
    "messages",
    "tools",
    "functions",
    "input",
    "instructions",
    "system",
    "query",
    "documents",
    "text",
    "temperature",
    "role",
];

const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "15",
    "31999",
    "1234567",
    "12345678",
    "4294967295",
    "4294967296",
    "-7",
    "1.5",
    "1e5",
    "2.0E-3",
];

fn units(text: &str) -> Vec<Unit> {
    text.chars().map(Unit::Char).collect()
}

fn string() -> impl Strategy<Value = Vec<Unit>> {
    let unit = prop_oneof![
        12 => prop::sample::select(vec!['a', 'b', ' ', '"', '\\', '/', '\n', '\t', '\u{1}', '\u{7f}', 'é', '你', '🦀'])
            .prop_map(Unit::Char),
        1 => (0xD800u16..0xE000).prop_map(Unit::Surrogate),
    ];
    prop_oneof![
        3 => prop::collection::vec(unit.clone(), 0..12),
        1 => prop::collection::vec(unit, 60..400),
        1 => prop::sample::select(vec!["", "user", "hello there, this is a longer text without anything to escape in it at all"])
            .prop_map(units),
        1 => (0usize..200).prop_map(|length| units(&"x".repeat(length))),
    ]
}

fn literal() -> impl Strategy<Value = Tree> {
    prop_oneof![Just("null"), Just("true"), Just("false"), prop::sample::select(NUMBERS)].prop_map(Tree::Literal)
}

fn ids() -> impl Strategy<Value = Tree> {
    let id = prop_oneof![99 => prop::sample::select(&NUMBERS[2..8]), 1 => prop::sample::select(NUMBERS)];
    prop::collection::vec(id.prop_map(Tree::Literal), 0..90).prop_map(Tree::List)
}

fn key() -> impl Strategy<Value = Vec<Unit>> {
    prop::sample::select(KEYS).prop_map(units)
}

fn value() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![2 => literal(), 3 => string().prop_map(Tree::Text), 1 => ids()];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Tree::List),
            prop::collection::vec((key(), inner), 0..4).prop_map(Tree::Object),
        ]
    })
}

/// What a field of this name usually holds.
fn usual(key: &'static str) -> BoxedStrategy<Tree> {
    let text = || string().prop_map(Tree::Text);
    match key {
        "model" | "cache_salt" | "instructions" => text().boxed(),
        "stream" => prop::sample::select(vec!["true", "false", "null"])
            .prop_map(Tree::Literal)
            .boxed(),
        "stream_options" => prop_oneof![
            Just(Tree::Literal("null")),
            prop::collection::vec((key_of_options(), literal()), 0..3).prop_map(Tree::Object)
        ]
        .boxed(),
        "max_tokens" | "max_output_tokens" | "max_completion_tokens" => literal().boxed(),
        "messages" => prop::collection::vec(message(), 0..4).prop_map(Tree::List).boxed(),
        "prompt" | "input" => prop_oneof![
            text(),
            ids(),
            prop::collection::vec(ids(), 0..3).prop_map(Tree::List),
            prop::collection::vec(text(), 0..3).prop_map(Tree::List),
        ]
        .boxed(),
        _ => value().boxed(),
    }
}

fn message() -> impl Strategy<Value = Tree> {
    prop::collection::vec((key(), value()), 0..4).prop_map(Tree::Object)
}

fn key_of_options() -> impl Strategy<Value = Vec<Unit>> {
    prop::sample::select(vec!["include_usage", "continuous_usage_stats"]).prop_map(units)
}

fn field() -> impl Strategy<Value = (&'static str, Tree)> {
    prop::sample::select(TOP_KEYS).prop_flat_map(|key| {
        let held = prop_oneof![9 => usual(key), 1 => value()];
        held.prop_map(move |value| (key, value))
    })
}

/// A body of any form; most have a model and the form's own prompt field, at any place.
pub(crate) fn body() -> impl Strategy<Value = Body> {
    let form = prop::sample::select(vec![
        (ApiForm::ChatCompletions, "messages"),
        (ApiForm::Completions, "prompt"),
        (ApiForm::Responses, "input"),
        (ApiForm::Embeddings, "input"),
        (ApiForm::Messages, "messages"),
        (ApiForm::Other, "documents"),
    ]);
    (
        form,
        prop::collection::vec(field(), 0..5),
        any::<[bool; 2]>(),
        any::<prop::sample::Index>(),
        any::<u64>(),
    )
        .prop_flat_map(|((form, prompt), fields, [no_model, no_prompt], place, seed)| {
            (
                Just((
                    form,
                    prompt,
                    fields,
                    no_model && seed % 4 == 0,
                    no_prompt && seed % 3 == 0,
                    place,
                    seed,
                )),
                usual(prompt),
            )
        })
        .prop_map(|((form, prompt, mut fields, no_model, no_prompt, place, seed), held)| {
            if !no_prompt {
                fields.insert(place.index(fields.len() + 1), (prompt, held));
            }
            if !no_model && fields.iter().all(|(key, _)| *key != "model") {
                fields.insert(place.index(fields.len() + 1), ("model", Tree::Text(units("alias"))));
            }
            let tree = Tree::Object(fields.into_iter().map(|(key, value)| (units(key), value)).collect());
            Body {
                form,
                text: spell(&tree, seed),
                tree,
            }
        })
}

/// Spells a tree with white space and escapes as chance has it.
fn spell(tree: &Tree, seed: u64) -> String {
    let mut speller = Speller {
        out: String::new(),
        state: seed,
    };
    speller.space();
    speller.tree(tree);
    speller.space();
    speller.out
}

struct Speller {
    out: String,
    state: u64,
}

impl Speller {
    fn chance(&mut self, of: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % of
    }

    fn space(&mut self) {
        let space = ["", "", "", " ", "", "\n  ", "\t\r\n"][self.chance(7) as usize];
        self.out.push_str(space);
    }

    fn tree(&mut self, tree: &Tree) {
        match tree {
            Tree::Literal(text) => self.out.push_str(text),
            Tree::Text(units) => self.string(units),
            Tree::List(elements) => match self.chance(3) {
                0 => self.regular(elements, ","),
                1 => self.regular(elements, ", "),
                _ => self.all('[', elements, ']', Self::tree),
            },
            Tree::Object(fields) => self.all('{', fields, '}', |speller, (key, value)| {
                speller.string(key);
                speller.space();
                speller.out.push(':');
                speller.space();
                speller.tree(value);
            }),
        }
    }

    /// A list as programs write it.
    fn regular(&mut self, elements: &[Tree], comma: &str) {
        self.out.push('[');
        for (index, element) in elements.iter().enumerate() {
            self.out.push_str(if index > 0 { comma } else { "" });
            self.tree(element);
        }
        self.out.push(']');
    }

    fn all<T>(&mut self, open: char, elements: &[T], close: char, one: impl Fn(&mut Self, &T)) {
        self.out.push(open);
        self.space();
        for (index, element) in elements.iter().enumerate() {
            if index > 0 {
                self.out.push(',');
                self.space();
            }
            one(self, element);
            self.space();
        }
        self.out.push(close);
    }

    fn string(&mut self, units: &[Unit]) {
        self.out.push('"');
        for unit in units {
            match *unit {
                Unit::Surrogate(unit) => self.out.push_str(&format!("\\u{unit:04x}")),
                Unit::Char(char) => self.char(char),
            }
        }
        self.out.push('"');
    }

    fn char(&mut self, char: char) {
        let short = match char {
            '"' => Some("\\\""),
            '\\' => Some("\\\\"),
            '/' => Some("\\/"),
            '\n' => Some("\\n"),
            '\t' => Some("\\t"),
            _ => None,
        };
        let must = char < ' ' || char == '"' || char == '\\';
        match (self.chance(8), short) {
            (0, _) => self.escaped(char),
            (_, Some(short)) if must => self.out.push_str(short),
            (1, Some(short)) => self.out.push_str(short),
            _ if must => self.escaped(char),
            _ => self.out.push(char),
        }
    }

    fn escaped(&mut self, char: char) {
        for unit in char.encode_utf16(&mut [0; 2]) {
            let spelled = if self.chance(2) == 0 {
                format!("\\u{unit:04x}")
            } else {
                format!("\\u{unit:04X}")
            };
            self.out.push_str(&spelled);
        }
    }
}
