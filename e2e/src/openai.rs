//! A client of OpenAI chat completions that streams and measures: the time to the first token is what its user waits for.
//!
//! The time runs from the moment the request is handed to the connection until the first piece of text has been read. An answer counts
//! only when it is whole: status 200 and the end mark of the stream. Nothing is retried, so that what is lost is seen.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The path of chat completions.
pub const CHAT: &str = "/v1/chat/completions";

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What it says.
    pub content: String,
}

impl Message {
    /// A message.
    #[must_use]
    pub fn new(role: &'static str, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
        }
    }
}

/// One request for a streamed answer.
#[derive(Clone, Copy, Debug)]
pub struct Chat<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The conversation so far.
    pub messages: &'a [Message],
    /// Tokens of the answer.
    pub max_tokens: u32,
    /// Ask why this endpoint was chosen.
    pub explain: bool,
    /// Time for the whole answer.
    pub within: Duration,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Turn {
    /// What it says.
    pub text: String,
    /// From the request to the first piece of text.
    pub first_token: Duration,
    /// From the request to the end.
    pub total: Duration,
    /// Tokens of the prompt, as the engine counts them; 0 when it does not say.
    pub prompt_tokens: u64,
    /// The headers.
    pub headers: HeaderMap,
}

/// A client of one server; connections are kept and reused.
#[derive(Clone, Debug)]
pub struct OpenAi {
    url: String,
    inner: Client<HttpConnector, Full<Bytes>>,
}

impl OpenAi {
    /// A client of the server at this address.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            url: format!("http://{server}{CHAT}"),
            inner: Client::builder(TokioExecutor::new()).build(connector),
        }
    }

    /// Asks and reads the whole stream.
    ///
    /// # Errors
    /// When the answer is not 200, breaks off, or is not whole within the time.
    pub async fn chat(&self, chat: Chat<'_>) -> Result<Turn> {
        let body = json!({
            "model": chat.model, "messages": chat.messages, "max_tokens": chat.max_tokens, "stream": true,
            "stream_options": {"include_usage": true},
        });
        let mut request = Request::post(&self.url).header("content-type", "application/json");
        if chat.explain {
            request = request.header("x-kthena-explain", "1");
        }
        let request = request.body(Full::new(Bytes::from(body.to_string())))?;
        tokio::time::timeout(chat.within, self.exchange(request))
            .await
            .with_context(|| format!("no whole answer within {:?}", chat.within))?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Turn> {
        let sent = Instant::now();
        let answer = self.inner.request(request).await.context("no answer")?;
        let (head, body) = answer.into_parts();
        if !head.status.is_success() {
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            bail!("{}: {}", head.status, String::from_utf8_lossy(&body));
        }
        let stream = read(body, sent).await?;
        Ok(Turn {
            text: stream.text,
            first_token: stream.first_token.context("an answer without text")?,
            total: sent.elapsed(),
            prompt_tokens: stream.prompt_tokens,
            headers: head.headers,
        })
    }
}

/// What has been read of a stream.
#[derive(Debug, Default)]
struct Stream {
    unread: Vec<u8>,
    text: String,
    first_token: Option<Duration>,
    prompt_tokens: u64,
    done: bool,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Delta,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
}

async fn read(mut body: Incoming, sent: Instant) -> Result<Stream> {
    let mut stream = Stream::default();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the answer broke off")?.into_data() {
            stream.push(&data, sent)?;
        }
    }
    if !stream.done {
        bail!("the answer ended without its end mark, after {:?}", stream.text);
    }
    Ok(stream)
}

impl Stream {
    fn push(&mut self, data: &[u8], sent: Instant) -> Result<()> {
        self.unread.extend_from_slice(data);
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=end).collect();
            self.line(line.trim_ascii(), sent)?;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8], sent: Instant) -> Result<()> {
        let Some(data) = line.strip_prefix(b"data:") else {
            return Ok(());
        };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(data)
            .with_context(|| format!("not a chunk of an answer: {}", String::from_utf8_lossy(data)))?;
        let pieces = chunk.choices.into_iter().filter_map(|choice| choice.delta.content);
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            self.first_token.get_or_insert_with(|| sent.elapsed());
            self.text.push_str(&piece);
        }
        if let Some(usage) = chunk.usage {
            self.prompt_tokens = usage.prompt_tokens;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Behaviour, Scripted};

    const EVENTS: [&str; 4] = [
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"Once\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\" upon\"}}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":7}}\n\n",
        "data: [DONE]\n\n",
    ];

    async fn ask(behaviour: Behaviour) -> Result<Turn> {
        let server = Scripted::start(behaviour).await?;
        let chat = Chat {
            model: "m",
            messages: &[Message::new("user", "tell me a story")],
            max_tokens: 2,
            explain: false,
            within: Duration::from_secs(10),
        };
        OpenAi::new(server.address()).chat(chat).await
    }

    fn streamed(events: &[&str]) -> Behaviour {
        // Cut in the middle of events, as a network does.
        let all = events.concat();
        let pieces = all.as_bytes().chunks(25);
        let pieces = pieces
            .map(|piece| String::from_utf8_lossy(piece).into_owned())
            .collect();
        Behaviour::Stream(pieces, Duration::from_millis(5))
    }

    #[tokio::test]
    async fn the_first_token_is_the_first_text_and_not_the_head_of_the_stream() {
        let turn = ask(streamed(&EVENTS)).await.unwrap();
        assert_eq!((turn.text.as_str(), turn.prompt_tokens), ("Once upon", 7));
        // The first text ends in the fifth piece, of which the server sends one every 5 ms.
        assert!(turn.first_token >= Duration::from_millis(15), "{:?}", turn.first_token);
        assert!(turn.first_token < turn.total);
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_an_error_and_silence_are_no_answers() {
        let broken = ask(streamed(&EVENTS[..3])).await.unwrap_err();
        assert!(format!("{broken:#}").contains("end mark"), "{broken:#}");
        let refused = ask(Behaviour::Answer(503, "no endpoint".to_owned())).await.unwrap_err();
        assert!(
            format!("{refused:#}").contains("503 Service Unavailable: no endpoint"),
            "{refused:#}"
        );
        assert!(ask(Behaviour::Reset).await.is_err());
    }
}
