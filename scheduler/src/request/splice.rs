//! Changing a body by splicing the bytes that change, and no others.
//!
//! Unknown fields, number formats, key order and white space survive, because they are never read into a tree and
//! written again. Spans come from the scan of the same body; a splice that does not lie within the body, or overlaps the
//! one before it, is left out rather than applied somewhere else.

use std::ops::Range;

use super::{ApiForm, RequestFacts, StreamOptions};

const INCLUDE_USAGE: &str = r#""include_usage":true"#;

/// Replaces a range of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    /// What goes, in bytes of the body as it arrived; an empty range inserts.
    pub range: Range<u64>,
    /// What comes in its place.
    pub bytes: Vec<u8>,
}

impl Splice {
    fn new(range: Range<u64>, text: impl Into<String>) -> Self {
        Self {
            range,
            bytes: text.into().into_bytes(),
        }
    }

    /// The range as indices, if it lies within `from..len`.
    fn within(&self, from: usize, len: usize) -> Option<Range<usize>> {
        let start = usize::try_from(self.range.start).ok()?;
        let end = usize::try_from(self.range.end).ok()?;
        (from <= start && start <= end && end <= len).then_some(start..end)
    }
}

/// Applies splices that are in ascending order and do not overlap; their ranges all refer to the body before the call.
/// A single splice is done in place with one move of what follows it.
pub fn apply(body: &mut Vec<u8>, splices: &[Splice]) {
    match splices {
        [] => {}
        [splice] => {
            if let Some(range) = splice.within(0, body.len()) {
                body.splice(range, splice.bytes.iter().copied());
            }
        }
        _ => {
            let added: usize = splices.iter().map(|splice| splice.bytes.len()).sum();
            let mut changed = Vec::with_capacity(body.len() + added);
            let mut kept = 0;
            for splice in splices {
                let Some(range) = splice.within(kept, body.len()) else {
                    continue;
                };
                changed.extend_from_slice(&body[kept..range.start]);
                changed.extend_from_slice(&splice.bytes);
                kept = range.end;
            }
            changed.extend_from_slice(&body[kept..]);
            *body = changed;
        }
    }
}

/// Puts another model name in; `None` when it is the one that stands there.
pub fn rewrite_model(facts: &RequestFacts, name: &str) -> Option<Splice> {
    (*facts.model.name != *name).then(|| {
        let quoted = serde_json::Value::from(name).to_string();
        Splice::new(facts.model.span.clone(), quoted)
    })
}

/// Asks the engine for a last event with usage, if the request is a stream of an API that has `stream_options` and does
/// not ask already. What the client set beside it stays. The client did not ask, so the extra event must be withheld
/// from it: [`crate::response::UsageFilter`].
pub fn inject_usage(facts: &RequestFacts) -> Option<Splice> {
    if !facts.stream || !matches!(facts.form, ApiForm::ChatCompletions | ApiForm::Completions) {
        return None;
    }
    match &facts.stream_options {
        StreamOptions::Absent => {
            let at = facts.object_start;
            Some(Splice::new(at..at, format!(r#""stream_options":{{{INCLUDE_USAGE}}},"#)))
        }
        StreamOptions::Null(span) => Some(Splice::new(span.clone(), format!("{{{INCLUDE_USAGE}}}"))),
        StreamOptions::Object {
            include_usage: Some(field),
            ..
        } => (!field.on).then(|| Splice::new(field.span.clone(), "true")),
        StreamOptions::Object {
            insert_at,
            empty,
            include_usage: None,
        } => {
            let comma = if *empty { "" } else { "," };
            Some(Splice::new(*insert_at..*insert_at, format!("{INCLUDE_USAGE}{comma}")))
        }
        StreamOptions::Invalid => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::chain::DEFAULT_BLOCK_BYTES;
    use crate::request::BodyScan;

    fn facts(form: ApiForm, body: &str) -> RequestFacts {
        let mut scan = BodyScan::new(form, DEFAULT_BLOCK_BYTES);
        scan.feed(body.as_bytes()).unwrap();
        scan.finish().unwrap()
    }

    fn applied(body: &str, splices: &[Splice]) -> String {
        let mut bytes = body.as_bytes().to_vec();
        apply(&mut bytes, splices);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_model_alone_changes() {
        let body = r#" { "z": 1.50, "model" : "al\u0069as" , "prompt":"x", "y":1e5 }"#;
        let facts = facts(ApiForm::Completions, body);
        assert_eq!(rewrite_model(&facts, "alias"), None);
        let splice = rewrite_model(&facts, "org/\"real\"").unwrap();
        assert_eq!(
            applied(body, &[splice]),
            r#" { "z": 1.50, "model" : "org/\"real\"" , "prompt":"x", "y":1e5 }"#
        );
    }

    #[test]
    fn usage_is_asked_for_beside_what_the_client_set() {
        for (before, after) in [
            (r#"{"#, r#"{"stream_options":{"include_usage":true},"#),
            (
                r#"{"stream_options":null,"#,
                r#"{"stream_options":{"include_usage":true},"#,
            ),
            (
                r#"{"stream_options": { },"#,
                r#"{"stream_options": {"include_usage":true },"#,
            ),
            (
                r#"{"stream_options":{"a":[1]},"#,
                r#"{"stream_options":{"include_usage":true,"a":[1]},"#,
            ),
            (
                r#"{"stream_options":{"include_usage":false,"a":1},"#,
                r#"{"stream_options":{"include_usage":true,"a":1},"#,
            ),
            (
                r#"{"stream_options":{"a":1,"include_usage": {} },"#,
                r#"{"stream_options":{"a":1,"include_usage": true },"#,
            ),
        ] {
            let rest = r#""stream":true,"model":"m","prompt":"x"}"#;
            let body = format!("{before}{rest}");
            let splice = inject_usage(&facts(ApiForm::Completions, &body)).unwrap();
            assert_eq!(applied(&body, &[splice]), format!("{after}{rest}"));
        }
    }

    #[test]
    fn usage_is_not_asked_for_where_it_comes_anyway_or_nothing_is_streamed() {
        let on = r#"{"model":"m","prompt":"x","stream":true,"stream_options":{"include_usage":true}}"#;
        let off = r#"{"model":"m","prompt":"x","stream":false}"#;
        let wrong = r#"{"model":"m","prompt":"x","stream":true,"stream_options":7}"#;
        for body in [on, off, wrong] {
            assert_eq!(inject_usage(&facts(ApiForm::Completions, body)), None, "{body}");
        }
        let responses = r#"{"model":"m","input":"x","stream":true}"#;
        assert_eq!(inject_usage(&facts(ApiForm::Responses, responses)), None);
    }

    #[test]
    fn several_splices_refer_to_the_body_as_it_came() {
        let splices = [
            Splice::new(0..0, "<"),
            Splice::new(2..4, ""),
            Splice::new(6..6, "longer"),
            Splice::new(8..9, ">"),
        ];
        assert_eq!(applied("012345678", &splices), "<0145longer67>");
    }

    #[test]
    fn a_splice_that_does_not_fit_the_body_is_left_out() {
        assert_eq!(applied("0123", &[Splice::new(3..9, "x")]), "0123");
        #[expect(clippy::reversed_empty_ranges)]
        let backwards = Splice::new(3..2, "x");
        assert_eq!(
            applied("0123", &[Splice::new(1..3, "-"), Splice::new(2..4, "x"), backwards]),
            "0-3"
        );
    }
}
