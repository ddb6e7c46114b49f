//! A request of the corpus: what a client sends, and how the host cuts it into events.
//!
//! Values only, as they stand in the corpus' files: a small body is written out, a large one is a recipe.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    /// What it is about, for people; also its `x-request-id`, unless it brings another.
    pub(crate) name: String,
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) host: String,
    /// All other headers, names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Body::is_empty")]
    pub(crate) body: Body,
    /// Where the body is cut.
    #[serde(default, skip_serializing_if = "Cuts::is_none")]
    pub(crate) cuts: Cuts,
    #[serde(default, skip_serializing_if = "End::is_usual")]
    pub(crate) end: End,
    /// Its answer does not end before all other requests of its picture have been decided.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) stays: bool,
    /// It comes before the filter has heard from its controller, and so waits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) early: bool,
    /// The row of `docs/errors.md` that it must get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) row: Option<String>,
}

/// A body, or how to make it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Body {
    Text(String),
    Recipe(Vec<Part>),
}

/// A part of a body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Part {
    Text(String),
    Repeat { repeat: String, times: usize },
    Hex { hex: String },
}

/// Where a body is cut into the pieces that the host shows one by one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cuts {
    /// It comes in one piece.
    #[default]
    None,
    /// After these many bytes from its beginning, ascending.
    At(Vec<usize>),
    /// After every so many bytes.
    Every(usize),
}

/// How the end of a request is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum End {
    /// With the last piece of the body, or with the head when there is no body.
    #[default]
    Last,
    /// With an empty piece that follows.
    Empty,
    /// With trailers.
    Trailers,
}

// === impl Request ===

impl Request {
    /// The pieces in which the host shows the body.
    pub(crate) fn pieces(&self) -> Vec<Vec<u8>> {
        let body = self.body.bytes();
        let cuts: Vec<usize> = match &self.cuts {
            Cuts::None => Vec::new(),
            Cuts::At(cuts) => cuts.clone(),
            Cuts::Every(size) => (1..).map(|n| n * size).take_while(|at| *at < body.len()).collect(),
        };
        let mut pieces = Vec::new();
        let mut from = 0;
        for at in cuts.into_iter().chain([body.len()]) {
            assert!(
                from < at && at <= body.len() || body.is_empty(),
                "{}: a cut at {at}",
                self.name
            );
            pieces.push(body[from..at].to_vec());
            from = at;
        }
        pieces
    }

    /// Whether the head is all there is.
    pub(crate) fn is_head_only(&self) -> bool {
        self.body.is_empty() && self.end == End::Last
    }

    /// The head as a host shows it, pseudo headers included, sorted by name.
    pub(crate) fn head(&self) -> BTreeMap<String, String> {
        let mut head = self.headers.clone();
        for (name, value) in [
            (":method", &self.method),
            (":path", &self.path),
            (":authority", &self.host),
        ] {
            head.insert(name.to_owned(), value.clone());
        }
        head
    }
}

// === impl Body ===

impl Body {
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_empty())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Recipe(parts) => parts.iter().flat_map(Part::bytes).collect(),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

// === impl Part ===

impl Part {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Repeat { repeat, times } => repeat.repeat(*times).into_bytes(),
            Self::Hex { hex } => (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
                .collect(),
        }
    }
}

// === impl Cuts ===

impl Cuts {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

// === impl End ===

impl End {
    fn is_usual(&self) -> bool {
        *self == Self::Last
    }
}
