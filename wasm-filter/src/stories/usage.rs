//! Usage is read as an answer passes, and stands in the access log.

use super::*;

/// The head of an answer to a request that was sent on.
fn answer_begins(rig: &mut Rig, content_type: &str) {
    let stream = content_type.starts_with("text/event-stream");
    let question = json!({"model": "alias", "messages": [{"role": "user", "content": "hello"}], "stream": stream});
    rig.post(REQUEST, CHAT, &question.to_string());
    rig.host.change(REQUEST, |request| {
        let headers = [(":status", "200"), ("content-type", content_type)];
        for (name, value) in headers {
            request.response_headers.insert(name.into(), value.into());
        }
    });
    rig.root.on_response_headers(REQUEST, false);
}

fn piece(rig: &mut Rig, piece: &[u8], end: bool) {
    rig.host.change(REQUEST, |request| request.piece = piece.to_vec());
    rig.root.on_response_body(REQUEST, piece.len(), end);
}

/// What the access log would say now: input, output, input from the cache.
fn logged(rig: &Rig) -> [Option<String>; 3] {
    rig.root.on_log(REQUEST);
    let facts = rig.host.request(REQUEST).facts;
    ["input_tokens", "output_tokens", "cached_tokens"].map(|key| facts.get(&format!("kthena.{key}")).cloned())
}

fn counts(counts: [&str; 3]) -> [Option<String>; 3] {
    counts.map(|count| Some(count.to_owned()).filter(|count| !count.is_empty()))
}

const USAGE: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":100,"prompt_tokens_details":{"cached_tokens":5}}}"#;

fn stream() -> String {
    let token = r#"data: {"choices":[{"delta":{"content":"usage"}}],"usage":null}"#;
    format!("{token}\n\n{token}\n\ndata: {USAGE}\n\ndata: [DONE]\n\n")
}

#[test]
fn of_a_stream_wherever_it_is_cut() {
    let stream = stream().into_bytes();
    for cut in 0..=stream.len() {
        let mut rig = Rig::ready(&json!({}));
        answer_begins(&mut rig, "text/event-stream; charset=utf-8");
        piece(&mut rig, &stream[..cut], false);
        piece(&mut rig, &stream[cut..], false);
        piece(&mut rig, b"", true);
        assert_eq!(logged(&rig), counts(["7", "100", "5"]), "cut at {cut}");
    }
}

#[test]
fn of_a_document_and_of_an_event_that_is_longer_than_any_buffer() {
    let mut rig = Rig::ready(&json!({}));
    answer_begins(&mut rig, "application/json");
    piece(&mut rig, USAGE.as_bytes(), true);
    assert_eq!(logged(&rig), counts(["7", "100", "5"]));

    let mut rig = Rig::ready(&json!({}));
    answer_begins(&mut rig, "text/event-stream");
    let long = USAGE.replace("[]", &format!("[\"{}\"]", "x".repeat(1 << 20)));
    for bytes in format!("data: {long}\n\n").as_bytes().chunks(16 << 10) {
        piece(&mut rig, bytes, false);
    }
    assert_eq!(logged(&rig), counts(["7", "100", "5"]));
}

#[test]
fn of_a_client_that_hangs_up_before_the_end_what_had_come() {
    let mut rig = Rig::ready(&json!({}));
    answer_begins(&mut rig, "text/event-stream");
    assert_eq!(logged(&rig), counts(["", "", ""]), "an entry in between");
    let running = r#"data: {"choices":[{}],"usage":{"prompt_tokens":7,"completion_tokens":1}}"#;
    piece(&mut rig, format!("{running}\n\ndata: {{\"cho").as_bytes(), false);
    assert_eq!(logged(&rig), counts(["7", "1", ""]));
    rig.root.on_done(REQUEST);
    rig.host.pass(2_000);
    rig.tick();
    let told = rig.sent().into_iter().find_map(|message| match message {
        from_filter::Message::Counts(counts) => Some(counts),
        _ => None,
    });
    let output = told.unwrap().requests[0].output_tokens.clone();
    assert_eq!(output.map(|tokens| tokens.sum), Some(1.0));
}

#[test]
fn of_what_cannot_be_read_nothing() {
    for (content_type, body) in [
        ("application/json", &b"\x1f\x8b\x08compressed"[..]),
        ("text/event-stream", b"data: null\n\ndata: 0\n\ndata: [DONE]\n\n"),
        ("text/plain", b"usage"),
    ] {
        let mut rig = Rig::ready(&json!({}));
        answer_begins(&mut rig, content_type);
        piece(&mut rig, body, true);
        assert_eq!(logged(&rig), counts(["", "", ""]), "{content_type}");
    }
}

#[test]
fn of_nothing_where_envoys_metadata_filters_do() {
    let mut rig = Rig::ready(&json!({"usage": "envoy"}));
    answer_begins(&mut rig, "application/json");
    piece(&mut rig, USAGE.as_bytes(), true);
    assert_eq!(logged(&rig), counts(["", "", ""]));
}
