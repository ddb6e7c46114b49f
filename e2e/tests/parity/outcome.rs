//! What became of a request, as far as anybody outside of a filter can tell: this is what both shells must have in common.
//!
//! It is compared as text, byte for byte. How a host frames a body is left out (`content-length` is right where it is told, which is checked
//! on the way in); so is what only one kind of host needs, such as the number of a lease.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use twox_hash::XxHash3_64;

/// A body up to this length is written out.
const SHORT: usize = 400;

/// What became of a request.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// What the client is told. 200 when a model server answers, as ours do; 0 when the request is nobody's and goes on as it came.
    pub(crate) status: u16,
    /// An answer of the filter's own: headers, then body.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) answer_headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) answer: Option<Box<RawValue>>,
    /// The cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<String>,
    /// The destination list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoints: Option<String>,
    /// Other headers that reach the model server and that the client did not send so; `null` = taken away.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, Option<String>>,
    /// What reaches the model server; absent when that is what the client sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<Upstream>,
    /// What the access log can say.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) facts: BTreeMap<String, String>,
    /// `x-kthena-explanation` on the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) explanation: Option<Box<RawValue>>,
}

/// A body that was changed.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Upstream {
    Text(String),
    Large {
        bytes: usize,
        xxh3: String,
        /// Where it begins to differ, what stood there and what does now.
        at: usize,
        was: String,
        is: String,
    },
}

/// What a shell shows of a request.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The head as it goes on, pseudo headers included; absent when the request does not go on.
    pub(crate) head: Option<BTreeMap<String, String>>,
    /// The body as it goes on.
    pub(crate) body: Vec<u8>,
    /// An answer of the filter's own.
    pub(crate) answer: Option<(u16, BTreeMap<String, String>, Vec<u8>)>,
    /// Headers that the filter sets on the model server's answer.
    pub(crate) response_headers: BTreeMap<String, String>,
    /// What the access log can say.
    pub(crate) facts: BTreeMap<String, String>,
}

/// Facts that hosts of both kinds have, under the names of the access log.
pub(crate) const FACTS: [&str; 6] = [
    "error_type",
    "model_name",
    "model_route",
    "model_server",
    "selected_pod",
    "upstream_model",
];

const CLUSTER: &str = "x-kthena-cluster";
const DESTINATION: &str = "x-gateway-destination-endpoint";
const EXPLANATION: &str = "x-kthena-explanation";
const REQUEST_ID: &str = "x-request-id";

// === impl Outcome ===

impl Outcome {
    /// Reads what was seen of a request that was sent with this head and body.
    pub(crate) fn of(sent_head: &BTreeMap<String, String>, sent_body: &[u8], mut seen: Seen) -> Self {
        seen.facts.retain(|name, _| FACTS.contains(&name.as_str()));
        let mut outcome = Self {
            status: 0,
            answer_headers: BTreeMap::new(),
            answer: None,
            cluster: None,
            endpoints: None,
            headers: BTreeMap::new(),
            body: None,
            facts: seen.facts,
            explanation: None,
        };
        if let Some((status, headers, body)) = seen.answer {
            assert!(seen.head.is_none(), "answered, and sent on");
            outcome.status = status;
            outcome.answer_headers = headers;
            outcome.answer = Some(json(String::from_utf8(body).unwrap()));
            return outcome;
        }
        let mut head = seen.head.expect("neither answered nor sent on");
        if let Some(length) = head.remove("content-length") {
            assert_eq!(length, seen.body.len().to_string(), "content-length");
        }
        outcome.cluster = head.remove(CLUSTER);
        outcome.endpoints = head.remove(DESTINATION);
        let decided = outcome.cluster.is_some();
        outcome.headers = difference(sent_head, &head);
        outcome
            .headers
            .retain(|name, _| !(decided && [CLUSTER, DESTINATION].contains(&name.as_str())));
        outcome.body = Upstream::of(sent_body, &seen.body);
        outcome.status = if outcome.cluster.is_some() { 200 } else { 0 };
        let explanation = seen.response_headers.remove(EXPLANATION);
        outcome.explanation = explanation.map(json);
        let made = seen.response_headers.remove(REQUEST_ID);
        assert_eq!(
            made.as_ref(),
            outcome.headers.get(REQUEST_ID).and_then(Option::as_ref),
            "an id that was made is told on both sides"
        );
        if let Some(id) = made {
            assert!(is_uuid(&id), "{id}");
            // The only thing about a request that is left to chance.
            outcome.headers.insert(REQUEST_ID.to_owned(), Some("(made)".to_owned()));
        }
        assert!(seen.response_headers.is_empty(), "{:?}", seen.response_headers);
        outcome
    }

    /// The line of the corpus.
    pub(crate) fn line(&self) -> String {
        serde_json::to_string(self).unwrap()
    }
}

fn json(text: String) -> Box<RawValue> {
    assert!(!text.contains('\n'), "{text}");
    RawValue::from_string(text).unwrap()
}

fn is_uuid(id: &str) -> bool {
    let parts: Vec<_> = id.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && id[14..].starts_with('4')
}

fn difference(sent: &BTreeMap<String, String>, arrives: &BTreeMap<String, String>) -> BTreeMap<String, Option<String>> {
    let gone = sent
        .keys()
        .filter(|name| !arrives.contains_key(*name) && *name != "content-length")
        .map(|name| (name.clone(), None));
    let set = arrives
        .iter()
        .filter(|(name, value)| sent.get(*name) != Some(value))
        .map(|(name, value)| (name.clone(), Some(value.clone())));
    gone.chain(set).collect()
}

// === impl Upstream ===

impl Upstream {
    fn of(sent: &[u8], arrives: &[u8]) -> Option<Self> {
        if sent == arrives {
            return None;
        }
        if let Some(text) = std::str::from_utf8(arrives).ok().filter(|text| text.len() <= SHORT) {
            return Some(Self::Text(text.to_owned()));
        }
        let is_same = |(a, b): &(&u8, &u8)| a == b;
        let mut start = sent.iter().zip(arrives).take_while(is_same).count();
        let ends = sent[start..].iter().rev().zip(arrives[start..].iter().rev());
        let mut rest = ends.take_while(is_same).count();
        // The whole of the string that was changed is easier to read than its middle.
        start = sent[..start].iter().rposition(|byte| *byte == b'"').unwrap_or(start);
        let tail = &sent[sent.len() - rest..];
        rest -= tail.iter().position(|byte| *byte == b'"').map_or(0, |at| at + 1);
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[start..bytes.len() - rest]).into_owned();
        Some(Self::Large {
            bytes: arrives.len(),
            xxh3: format!("{:016x}", XxHash3_64::oneshot(arrives)),
            at: start,
            was: text(sent),
            is: text(arrives),
        })
    }
}
