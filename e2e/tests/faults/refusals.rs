//! Bad input through the real Envoy: what a client is told is the row of `docs/errors.md`, byte for byte, whatever it speaks.

use http::Method;
use kthena_e2e::client::{Answer, Ask, Client};
use kthena_e2e::process::wait_until;
use kthena_e2e::system::manifests::{model_route, model_server};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::documented::{OURS, assert_documented, documented};
use crate::{CHAT, SOON, llama, new_question, send, start};

/// The bound of a request body, bytes.
const BOUND: usize = 16 << 20;

fn post(body: &str) -> Ask {
    Ask::post(CHAT, body.to_owned())
}

fn code(answer: &Answer) -> String {
    let error = answer.json().unwrap();
    error["error"]["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_refusal_is_what_a_client_gets() {
    let mut options = llama(1);
    options.routes.push(model_route("alias", "alias", "llama"));
    let system = start(options).await;
    let external = json!([{"externalModelProviderName": "openai"}]);
    let mut outside = model_route("external", "external", "llama");
    outside["spec"]["rules"][0]["targetModels"] = external;
    let objects = [
        outside,
        model_route("missing", "missing", "missing"),
        model_route("nobody", "nobody", "empty"),
        model_server("empty", "empty", 8000),
    ];
    system.manifests().write("refused.yaml", &objects).unwrap();
    for model in ["external", "missing", "nobody"] {
        let mut told = 0;
        wait_until(model, SOON, async || {
            let answer = send(&system, new_question(model)).await;
            told = if answer.status == 503 { told + 1 } else { 0 };
            told >= 4
        })
        .await
        .unwrap();
    }

    let rows = documented(OURS);
    let chat = |model: &str| {
        post(&format!(
            r#"{{"model":"{model}","messages":[{{"role":"user","content":"x"}}]}}"#
        ))
    };
    let cases = [
        ("the body is not JSON", post(r#"{"model":"alias","messages":["#)),
        (
            "two JSON values",
            post(r#"{"model":"alias","messages":[{"role":"user","content":"x"}]}{}"#),
        ),
        ("the body is not an object", post("[1]")),
        ("no model", post(r#"{"messages":[{"role":"user","content":"x"}]}"#)),
        (
            "the model is not a string",
            post(r#"{"model":7,"messages":[{"role":"user","content":"x"}]}"#),
        ),
        ("the model is blank", chat(" ")),
        (
            "the model is given twice",
            post(r#"{"model":"alias","model":"b","messages":[]}"#),
        ),
        (
            "a prompt field of the wrong type",
            post(r#"{"model":"alias","messages":"x"}"#),
        ),
        ("an empty prompt", post(r#"{"model":"alias","messages":[]}"#)),
        ("the body is too large", Ask::post(CHAT, vec![b' '; BOUND + (1 << 20)])),
        (
            "a content encoding we cannot read",
            post("{}").header("content-encoding", "gzip"),
        ),
        (
            "a body of parts, as uploads are",
            Ask {
                headers: vec![("content-type".to_owned(), "multipart/form-data; boundary=x".to_owned())],
                ..post("--x\r\n")
            },
        ),
        ("no ModelRoute for the model", chat("unknown")),
        ("the route leads to an external provider", chat("external")),
        ("the ModelServer does not exist", chat("missing")),
        ("the ModelServer has no endpoint", chat("nobody")),
    ];
    for (condition, ask) in &cases {
        assert_documented(&system, &rows, condition, ask).await;
    }
    assert_eq!(
        system.fleet().received(0).await.unwrap().len(),
        0,
        "no refused request reached a model server"
    );
    assert_eq!(send(&system, chat("alias")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_are_refused_or_served_and_never_hang() {
    let system = start(llama(1)).await;
    let depth = 100_000;
    let deep = format!(r#"{{"model":"llama","x":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let broken = Ask::post(CHAT, &b"{\"model\":\"\xff\xfe\",\"messages\":[]}"[..]);
    for ask in [post(&deep), broken, post("")] {
        let answer = send(&system, ask).await;
        assert_eq!(
            (answer.status.as_u16(), code(&answer).as_str()),
            (400, "invalid_json"),
            "{}",
            answer.text()
        );
    }

    let huge = "x".repeat(100 << 10);
    let answer = send(&system, new_question("llama").header("x-huge", &huge)).await;
    assert_eq!(answer.status, 431, "{}", answer.text());
    let large = "x".repeat(50 << 10);
    let answer = send(&system, new_question("llama").header("x-large", &large)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    for path in ["/", "/v2/chat", "/metrics"] {
        let answer = send(&system, Ask::get(path)).await;
        assert_eq!(
            (answer.status.as_u16(), code(&answer).as_str()),
            (404, "path_not_found"),
            "{path}"
        );
    }
    let mut wrong_method = Ask::get(CHAT);
    wrong_method.method = Method::DELETE;
    assert_eq!(send(&system, wrong_method).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_http2_get_the_same() {
    let system = start(llama(1)).await;
    let client = Client::http2(system.address());
    assert_eq!(client.send(new_question("llama")).await.unwrap().status, 200);
    let unknown = client.send(new_question("unknown")).await.unwrap();
    assert_eq!(
        (unknown.status.as_u16(), code(&unknown).as_str()),
        (404, "model_not_found")
    );
    assert!(unknown.text().contains("route not found"));
    let broken = client.send(post("{")).await.unwrap();
    assert_eq!((broken.status.as_u16(), code(&broken).as_str()), (400, "invalid_json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_to_be_told_to_continue_is_told_and_then_served() {
    let system = start(llama(1)).await;
    let body = new_question("llama").body;
    let mut connection = TcpStream::connect(system.address()).await.unwrap();
    let length = body.len();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut connection, "100 Continue\r\n\r\n").await;
    connection.write_all(&body).await.unwrap();
    let answer = read_until(&mut connection, "\"completion_tokens\":4").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_length_is_refused_when_it_grows_over_the_bound() {
    let system = start(llama(1)).await;
    let mut connection = TcpStream::connect(system.address()).await.unwrap();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    let size = BOUND / 16;
    let mut chunk = format!("{size:x}\r\n").into_bytes();
    chunk.extend(std::iter::repeat_n(b' ', size));
    chunk.extend(b"\r\n");
    for _ in 0..16 {
        connection.write_all(&chunk).await.unwrap();
    }
    connection.write_all(b"1\r\n \r\n0\r\n\r\n").await.unwrap();
    let answer = read_until(&mut connection, "}}").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("larger than 16777216 bytes"), "{answer}");
}

/// Reads until the text received so far holds these words.
async fn read_until(connection: &mut TcpStream, words: &str) -> String {
    let mut text = String::new();
    let reading = async {
        while !text.contains(words) {
            let mut piece = [0; 4096];
            let length = connection.read(&mut piece).await.unwrap();
            assert_ne!(length, 0, "the connection was closed after {text:?}");
            text.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    };
    tokio::time::timeout(SOON, reading).await.unwrap();
    text
}
