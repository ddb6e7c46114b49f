//! Bodies on their way through the modes: in chunks of any size, ended by trailers, and with usage asked for by us.

use std::convert::Infallible;

use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::rig::{CHAT, MODES, Mode, Rig, SOON, listeners, listeners_without_access_log, question, rest};

/// A body in chunks of these sizes, over and over, and trailers at its end if so wanted.
fn chunks(body: &[u8], sizes: &[usize], trailers: bool) -> Vec<Result<Frame<Bytes>, Infallible>> {
    let mut frames = Vec::new();
    let (mut left, mut sizes) = (body, sizes.iter().cycle());
    while !left.is_empty() {
        let (chunk, others) = left.split_at(left.len().min(*sizes.next().unwrap()));
        frames.push(Ok(Frame::data(Bytes::copy_from_slice(chunk))));
        left = others;
    }
    if trailers {
        let trailers = HeaderMap::from_iter([("x-checksum".parse().unwrap(), HeaderValue::from_static("7"))]);
        frames.push(Ok(Frame::trailers(trailers)));
    }
    frames
}

/// Sends a body over HTTP/2, whose frames are its chunks, and returns status and answer.
async fn send(rig: &Rig, mode: Mode, frames: Vec<Result<Frame<Bytes>, Infallible>>) -> (u16, String) {
    let connection = tokio::net::TcpStream::connect(rig.address(mode)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(connection))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://llm{CHAT}"))
        .header("content-type", "application/json")
        .body(StreamBody::new(tokio_stream::iter(frames)))
        .unwrap();
    let answer = tokio::time::timeout(SOON, sender.send_request(request))
        .await
        .unwrap_or_else(|_| panic!("{}: no answer", mode.name()))
        .unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_arrive_whole_however_they_are_cut_and_ended() {
    let mut rig = Rig::start(listeners, "").await;
    for mode in MODES {
        for (text, sizes, trailers) in [
            ("a few bytes at a time", &[1, 2, 3, 997][..], false),
            ("a few bytes at a time, then trailers", &[1, 61, 4_096], true),
            ("all at once, then trailers", &[usize::MAX], true),
            ("all at once", &[usize::MAX], false),
        ] {
            if trailers && mode.request_body != "BUFFERED" {
                // Envoy sends such a body twice where the route retries: see the document.
                continue;
            }
            let mut asked = question(text, 2, true);
            if sizes.len() == 1 {
                // Larger than what Envoy takes in one piece of a full-duplex body.
                asked["messages"][0]["content"] = json!("a long story ".repeat(15_000));
            }
            let text = asked.to_string();
            let case = format!("{}, {} bytes, {sizes:?}, trailers {trailers}", mode.name(), text.len());
            let (status, answer) = send(&rig, mode, chunks(text.as_bytes(), sizes, trailers)).await;
            let fleet = rig.system.fleet();
            let received = fleet.received(0).await.unwrap().pop().unwrap();
            let received = fleet.body(received.number).await.unwrap();
            let expected = text.replace("\"model\":\"llama\"", "\"model\":\"meta/llama\"");
            let last = String::from_utf8_lossy(&received[received.len().saturating_sub(100)..]).into_owned();
            assert!(
                received == expected,
                "{case}: the model server got {} bytes, the last {last}",
                received.len()
            );
            assert_eq!(status, 200, "{case}: {answer}");
            assert!(answer.ends_with("data: [DONE]\n\n"), "{case}: {answer}");
        }
        rig.wait_quiet(mode).await;
    }
}

/// The JSON of a stream's events, but for its end mark.
fn events(stream: &str) -> Vec<Value> {
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).expect(data))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_we_ask_for_is_counted_and_withheld_where_the_answer_is_seen_and_nowhere_else_asked_for() {
    let mut rig = Rig::start(listeners_without_access_log, "--usage-injection=on").await;
    for mode in MODES {
        let name = mode.name();
        let mut asked = question("unasked", 5, true);
        asked.as_object_mut().unwrap().remove("stream_options");
        let before = rig.tokens().await;
        let stream = rest(rig.open(mode, &asked).await).await;
        rig.wait_quiet(mode).await;
        let told = events(&stream).iter().filter(|event| !event["usage"].is_null()).count();
        assert_eq!(told, 0, "{name}: the client did not ask: {stream}");
        assert!(stream.ends_with("data: [DONE]\n\n"), "{name}: {stream}");
        let after = rig.tokens().await;
        let output = if mode.sees_the_answer() { 5 } else { 0 };
        assert_eq!(after[1] - before[1], output, "{name}");
        assert_eq!(after[0] > before[0], mode.sees_the_answer(), "{name}");

        let stream = rest(rig.open(mode, &question("asked", 5, true)).await).await;
        let last = events(&stream).pop().unwrap();
        assert_eq!(
            last["usage"]["completion_tokens"], 5,
            "{name}: the client asked: {stream}"
        );
        rig.wait_quiet(mode).await;
    }
}
