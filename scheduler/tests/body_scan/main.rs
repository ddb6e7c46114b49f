//! The body scan against a plain reading of the same body: a tree, walked by the documented rules.
//!
//! Whatever the body, the scan and the reading must agree on whether it is JSON, on the first thing wrong with it, on every
//! fact, and on the prompt text; and the scan must say the same however the body was cut.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod generate;
mod reading;

use std::num::NonZeroU32;

use kthena_scheduler::request::splice::{self, Splice};
use kthena_scheduler::request::{ApiForm, BodyError, BodyScan, RequestFacts};
use proptest::prelude::*;

const BLOCK_BYTES: NonZeroU32 = NonZeroU32::MIN.saturating_add(6);

fn scan(form: ApiForm, pieces: &[&[u8]]) -> Result<RequestFacts, BodyError> {
    let mut scan = BodyScan::new(form, BLOCK_BYTES);
    for piece in pieces {
        scan.feed(piece)?;
    }
    scan.finish()
}

fn whole(form: ApiForm, body: &str) -> Result<RequestFacts, BodyError> {
    scan(form, &[body.as_bytes()])
}

fn is_json(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

/// The same body whole, byte by byte and cut at `cuts`: one answer.
fn scan_in_every_way(form: ApiForm, body: &[u8], cuts: &[usize]) -> Result<RequestFacts, BodyError> {
    let answer = scan(form, &[body]);
    assert_eq!(scan(form, &body.chunks(1).collect::<Vec<_>>()), answer, "byte by byte");
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
    cuts.extend([0, body.len()]);
    cuts.sort_unstable();
    let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
    assert_eq!(scan(form, &pieces), answer, "cut at {cuts:?}");
    answer
}

/// Syntax, then meaning: the scan against the reading.
fn agree(form: ApiForm, body: &[u8], cuts: &[usize]) {
    let answer = scan_in_every_way(form, body, cuts);
    if !is_json(body) {
        assert!(answer.is_err(), "not JSON, yet {answer:?}");
        return;
    }
    let text = std::str::from_utf8(body).unwrap();
    assert_eq!(answer, reading::read(form, text, BLOCK_BYTES), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bodies_of_every_form(body in generate::body(), cuts in proptest::collection::vec(any::<usize>(), 0..5)) {
        agree(body.form, body.text.as_bytes(), &cuts);
    }

    #[test]
    fn bodies_with_a_byte_wrong(
        body in generate::body(),
        at in any::<prop::sample::Index>(),
        wrong in prop_oneof![Just(None), any::<u8>().prop_map(Some), prop::sample::select(&b"{}[],:\"\\ 01-.eu\n\x1f\x80\xff"[..]).prop_map(Some)],
        insert in any::<bool>(),
        cuts in proptest::collection::vec(any::<usize>(), 0..5),
    ) {
        let mut bytes = body.text.into_bytes();
        let at = at.index(bytes.len());
        let replaced = at..at + usize::from(!insert);
        bytes.splice(replaced, wrong);
        agree(body.form, &bytes, &cuts);
    }

    #[test]
    fn any_bytes_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..40), cuts in proptest::collection::vec(any::<usize>(), 0..3)) {
        agree(ApiForm::Other, &bytes, &cuts);
    }

    #[test]
    fn white_space_and_the_spelling_of_strings_do_not_matter(body in generate::body(), seed in any::<u64>()) {
        let respelled = body.respelled(seed);
        match (whole(body.form, &body.text), whole(body.form, &respelled)) {
            (Ok(one), Ok(other)) => {
                prop_assert_eq!(one.prompt, other.prompt);
                prop_assert_eq!(one.model.name, other.model.name);
            }
            (one, other) => prop_assert_eq!(one.is_ok(), other.is_ok()),
        }
    }

    #[test]
    fn long_texts_with_escapes_near_and_far(
        pieces in proptest::collection::vec(
            (
                prop_oneof![0usize..20, 40usize..90, 180usize..340, 900usize..1200],
                prop::sample::select(vec!["\\n", "\\\"", "\\\\", "\\u00e9", "\\ud83e\\udd80", "\\ud83e", "\\/\\t", "é", "你", "\\u000"]),
            ),
            1..60,
        ),
        wrong in proptest::bool::weighted(0.1),
        cuts in proptest::collection::vec(any::<usize>(), 0..5),
    ) {
        let text = |(length, end): &(usize, &str)| {
            // An escape that is wrong is as seldom as the tests that want one.
            let end = if end.len() == 5 && end.starts_with("\\u") && !wrong { "\\r" } else { end };
            let run = "the quick brown fox ".chars().cycle().take(*length);
            run.collect::<String>() + end
        };
        let content: String = pieces.iter().map(text).collect();
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{content}"}}]}}"#);
        agree(ApiForm::ChatCompletions, body.as_bytes(), &cuts);
    }

    #[test]
    fn texts_of_escapes_in_rows(
        rows in proptest::collection::vec(
            (
                prop::sample::select(vec![
                    "\\u6e2f", "\\uFF0C", "\\u0433", "\\u07fF", "\\u0800", "\\u007f", "\\u0080", "\\u003c", "\\u0000",
                    "\\ud83e\\udd80", "\\uD83E\\uDD80", "\\ud83e", "\\udd80", "\\uffff", "\\n", "\\\\", "\\\\u1234",
                ]),
                0usize..14,
                prop::sample::select(vec!["", "", " ", ", ", "港", "a longer run of text, longer than a block of the scan takes"]),
            ),
            0..40,
        ),
        wrong in proptest::option::weighted(0.2, prop::sample::select(vec!["\\u12g4", "\\u 123", "\\u12", "\\ud83e\\u12", "\\U1234", "\n", "\\"])),
        at in any::<prop::sample::Index>(),
        cuts in proptest::collection::vec(any::<usize>(), 0..5),
    ) {
        let mut rows: Vec<String> = rows.iter().map(|(escape, count, run)| escape.repeat(*count) + run).collect();
        if let Some(wrong) = wrong {
            rows.insert(at.index(rows.len() + 1), wrong.to_owned());
        }
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{}"}}]}}"#, rows.concat());
        agree(ApiForm::ChatCompletions, body.as_bytes(), &cuts);
    }

    #[test]
    fn lists_of_ids_with_others_among_them(
        separator in prop::sample::select(vec![",", ", ", ",\n", " ,", ",  ", ",\t"]),
        ids in proptest::collection::vec(
            prop_oneof![
                100 => (0u32..9, any::<u32>()).prop_map(|(digits, id)| (id % 10u32.pow(digits)).to_string()),
                1 => any::<u32>().prop_map(|id| id.to_string()),
            ],
            0..120,
        ),
        others in proptest::collection::vec(
            (
                prop::sample::select(vec![
                    "-1", "-0", "1.5", "1e2", "1E+2", "0.0", "01", "00", "-", "1.", "1e", "", " 7", "7 ", "\n7\r", "\t7", "4294967295",
                    "4294967296", "18446744073709551616", "123456789012345678901234567890", "\"a\"", "null", "[1,2]", "7 7", "é",
                ]),
                any::<prop::sample::Index>(),
            ),
            0..3,
        ),
        cuts in proptest::collection::vec(any::<usize>(), 0..5),
    ) {
        let mut ids = ids;
        for (other, at) in others {
            ids.insert(at.index(ids.len() + 1), other.to_owned());
        }
        let list = ids.join(separator);
        for body in [
            format!(r#"{{"model":"m","prompt":[{list}]}}"#),
            format!(r#"{{"prompt":[[{list}],[{list}],[]],"model":"m"}}"#),
        ] {
            agree(ApiForm::Completions, body.as_bytes(), &cuts);
        }
    }

    #[test]
    fn splices_change_what_they_say_and_nothing_else(body in generate::body(), name in "\\PC{0,12}") {
        let Ok(facts) = whole(body.form, &body.text) else { return Ok(()) };
        let mut splices: Vec<Splice> =
            [splice::rewrite_model(&facts, &name), splice::inject_usage(&facts)].into_iter().flatten().collect();
        splices.sort_by_key(|splice| splice.range.start);
        let mut changed = body.text.clone().into_bytes();
        splice::apply(&mut changed, &splices);
        let changed = String::from_utf8(changed).unwrap();

        let mut kept = 0;
        let mut rest = changed.as_str();
        for splice in &splices {
            let (from, to) = (splice.range.start as usize, splice.range.end as usize);
            rest = rest.strip_prefix(&body.text[kept..from]).unwrap();
            rest = rest.strip_prefix(std::str::from_utf8(&splice.bytes).unwrap()).unwrap();
            kept = to;
        }
        prop_assert_eq!(rest, &body.text[kept..]);

        if name.trim().is_empty() {
            return Ok(());
        }
        let after = whole(body.form, &changed).unwrap();
        prop_assert_eq!(&*after.model.name, &*name);
        prop_assert_eq!(&after.prompt, &facts.prompt);
        prop_assert_eq!(after.max_tokens, facts.max_tokens);
        prop_assert_eq!(splice::rewrite_model(&after, &name), None);
        prop_assert_eq!(splice::inject_usage(&after), None);
    }
}

#[test]
fn every_cut_of_a_body_with_everything_in_it() {
    let body = r#" {"stream" : true, "messages":[{"role":"user","content":"a\u00e9\n\ud83e\udd80 \ud83e x 你🦀\\"},
        {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]}],
        "tools":[{"type":"function","function":{"name":"f","parameters":{"x":{"minimum":-1.5e3,"nullable":true}}}}],
        "max_tokens": 12, "stream_options":{"include_usage":false}, "cache_salt":"s", "model":"m\/n" } "#
        .as_bytes();
    let answer = scan(ApiForm::ChatCompletions, &[body]);
    assert!(answer.is_ok(), "{answer:?}");
    for first in 0..=body.len() {
        for second in [first, (first + 1).min(body.len()), (first + 7).min(body.len())] {
            let pieces = [&body[..first], &body[first..second], &body[second..]];
            assert_eq!(
                scan(ApiForm::ChatCompletions, &pieces),
                answer,
                "cut at {first} and {second}"
            );
        }
    }
}

#[test]
fn a_model_in_the_last_place_is_found() {
    let facts = whole(ApiForm::Completions, r#"{"prompt":"x","model":"last"}"#).unwrap();
    assert_eq!((&*facts.model.name, facts.model.span), ("last", 22..28));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    use ApiForm::{ChatCompletions, Completions, Embeddings, Responses};
    for (form, body, message) in [
        (
            Completions,
            "",
            "the body is not valid JSON: expected a value at byte 0",
        ),
        (
            Completions,
            "{\"a\":tru}",
            "the body is not valid JSON: expected `true`, `false` or `null` at byte 8",
        ),
        (
            Completions,
            "{\"a\":1",
            "the body is not valid JSON: expected a digit at byte 6",
        ),
        (
            Completions,
            "{\"a\":01}",
            "the body is not valid JSON: expected `,` or `}` at byte 6",
        ),
        (
            Completions,
            "{\"a\" 1}",
            "the body is not valid JSON: expected `:` at byte 5",
        ),
        (
            Completions,
            "{\"a\":1,}",
            "the body is not valid JSON: expected a key at byte 7",
        ),
        (
            Completions,
            "{\"a\":[1}",
            "the body is not valid JSON: expected `,` or `]` at byte 7",
        ),
        (
            Completions,
            "{\"a\":\"\\x\"}",
            "the body is not valid JSON: expected one of `\"\\/bfnrtu` after `\\` at byte 7",
        ),
        (
            Completions,
            "{\"a\":\"\n\"}",
            "the body is not valid JSON: expected a character (control characters must be escaped) at byte 6",
        ),
        (
            Completions,
            "{\"model\":\"m\",\"prompt\":\"x\"} {}",
            "the body holds more than one JSON value: unexpected data at byte 27",
        ),
        (Completions, "[]", "the body must be a JSON object"),
        (Completions, "{\"prompt\":\"x\"}", "`model` is missing"),
        (
            Completions,
            "{\"model\":7,\"prompt\":\"x\"}",
            "`model` must be a string",
        ),
        (
            Completions,
            "{\"model\":\" \\t\",\"prompt\":\"x\"}",
            "`model` must not be blank",
        ),
        (
            Completions,
            "{\"model\":\"a\",\"mod\\u0065l\":\"b\"}",
            "`model` is given twice, the second time at byte 26",
        ),
        (
            Completions,
            "{\"model\":\"m\",\"prompt\":{}}",
            "`prompt` must be a string, a list of strings, a list of token ids or a list of such lists, see byte 22",
        ),
        (
            Completions,
            "{\"model\":\"m\",\"prompt\":[1,-2]}",
            "`prompt` must be a string, a list of strings, a list of token ids or a list of such lists, see byte 25",
        ),
        (
            Completions,
            "{\"model\":\"m\",\"prompt\":[4294967296]}",
            "`prompt` must be a string, a list of strings, a list of token ids or a list of such lists, see byte 23",
        ),
        (
            Completions,
            "{\"model\":\"m\",\"prompt\":[[\"x\"]]}",
            "`prompt` must be a string, a list of strings, a list of token ids or a list of such lists, see byte 24",
        ),
        (
            Completions,
            "{\"model\":\"m\",\"prompt\":\"\"}",
            "`prompt` is missing or empty",
        ),
        (
            Completions,
            "{\"model\":\"m\",\"prompt\":[[],[]]}",
            "`prompt` is missing or empty",
        ),
        (
            ChatCompletions,
            "{\"model\":\"m\",\"messages\":\"x\"}",
            "`messages` must be a list of messages, see byte 24",
        ),
        (
            ChatCompletions,
            "{\"model\":\"m\",\"messages\":[\"x\"]}",
            "`messages` must be a list of messages, see byte 25",
        ),
        (
            ChatCompletions,
            "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\"}]}",
            "`messages` is missing or empty",
        ),
        (
            ChatCompletions,
            "{\"model\":\"m\",\"messages\":[],\"tools\":[{\"x\":\"y\"}]}",
            "`messages` is missing or empty",
        ),
        (
            Responses,
            "{\"model\":\"m\",\"instructions\":\"x\"}",
            "`input` is missing or empty",
        ),
        (
            Responses,
            "{\"model\":\"m\",\"input\":[1]}",
            "`input` must be a string or a list of items, see byte 22",
        ),
        (
            Embeddings,
            "{\"model\":\"m\",\"input\":null}",
            "`input` is missing or empty",
        ),
        (
            Completions,
            "{\"model\":\"m\",\"prompt\":\"x\",\"stream\":1}",
            "`stream` must be true or false, see byte 35",
        ),
    ] {
        let error = scan_in_every_way(form, body.as_bytes(), &[]).unwrap_err();
        assert_eq!(error.to_string(), message, "{body}");
    }
    let cut = scan_in_every_way(ApiForm::Other, b"{\"model\":\"\xe4\xbd\"}", &[]);
    assert_eq!(cut, Err(BodyError::InvalidUtf8 { offset: 10 }));
}

#[test]
fn nesting_ends_at_its_limit_and_not_on_the_stack() {
    let nested = |levels: usize| format!("{{\"model\":\"m\",\"x\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert!(whole(ApiForm::Other, &nested(127)).is_ok());
    assert_eq!(
        whole(ApiForm::Other, &nested(128)),
        Err(BodyError::TooDeep {
            offset: 144,
            limit: 128
        })
    );
    let bomb = "[{\"a\":".repeat(1_000_000);
    let body = format!("{{\"model\":\"m\",\"x\":{bomb}");
    assert!(matches!(whole(ApiForm::Other, &body), Err(BodyError::TooDeep { .. })));
}

#[test]
fn an_error_stays_the_answer() {
    let mut scan = BodyScan::new(ApiForm::Completions, BLOCK_BYTES);
    let error = scan.feed(b"[").unwrap_err();
    assert_eq!(scan.feed(b"{\"model\":\"m\"}"), Err(error.clone()));
    assert_eq!(scan.finish(), Err(error));
}

#[test]
fn the_form_of_a_message_and_marks_for_the_cache_do_not_part_a_conversation() {
    let chain = |messages: &str| {
        let body = format!("{{\"model\":\"m\",\"messages\":{messages}}}");
        whole(ApiForm::Messages, &body).unwrap().prompt.chain
    };
    let plain = chain(r#"[{"role":"user","content":"hello there"}]"#);
    let parts = chain(r#"[{"role":"user","content":[{"type":"text","text":"hello there"}]}]"#);
    let marked = chain(
        r#"[{"role":"user","content":[{"type":"text","text":"hello there","cache_control":{"type":"ephemeral","ttl":"1h"}}]}]"#,
    );
    assert_eq!(plain, parts);
    assert_eq!(plain, marked);
    assert_ne!(
        plain,
        chain(r#"[{"role":"user","content":"hello"},{"role":"user","content":" there"}]"#)
    );
}

#[test]
fn bounds_on_generated_tokens_rank_by_how_new_their_name_is() {
    let tokens = |fields: &str| {
        whole(
            ApiForm::Completions,
            &format!("{{\"model\":\"m\",\"prompt\":\"x\",{fields}}}"),
        )
        .unwrap()
        .max_tokens
    };
    assert_eq!(tokens(r#""max_completion_tokens":5,"max_tokens":7"#), Some(5));
    assert_eq!(tokens(r#""max_tokens":7,"max_output_tokens":6"#), Some(6));
    assert_eq!(tokens(r#""max_tokens":7,"max_completion_tokens":null"#), Some(7));
    assert_eq!(tokens(r#""max_tokens":-1"#), None);
    assert_eq!(tokens(r#""max_tokens":1.0"#), None);
    assert_eq!(tokens(r#""max_tokens":"7""#), None);
    assert_eq!(tokens(r#""max_tokens":[7]"#), None);
}
