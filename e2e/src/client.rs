//! A plain HTTP client for tests and tools: one request, one whole answer, one deadline.
//!
//! It follows no redirect, retries nothing and adds no header but `host`, so that a test sees what Envoy said and nothing else. Traffic
//! that is measured or streamed has clients of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// One request to send.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
    /// The body; empty for none.
    pub body: Bytes,
    /// Time for the whole answer.
    pub within: Duration,
}

impl Ask {
    /// `GET path`, to be answered within 10 s.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            within: Duration::from_secs(10),
        }
    }

    /// `POST path` with a JSON body, to be answered within 10 s.
    #[must_use]
    pub fn post(path: &str, body: impl Into<Bytes>) -> Self {
        let ask = Self {
            method: Method::POST,
            body: body.into(),
            ..Self::get(path)
        };
        ask.header("content-type", "application/json")
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is something else; the error shows it.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("status {}, body is not JSON: {:?}", self.status, self.text()))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// One header as text; empty when absent.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        self.headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default()
    }
}

/// A client of one server; connections are kept and reused.
#[derive(Clone, Debug)]
pub struct Client {
    server: SocketAddr,
    inner: HyperClient<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client that speaks HTTP/1.1.
    #[must_use]
    pub fn http1(server: SocketAddr) -> Self {
        Self::of(server, false)
    }

    /// A client that speaks HTTP/2 from the first byte (prior knowledge).
    #[must_use]
    pub fn http2(server: SocketAddr) -> Self {
        Self::of(server, true)
    }

    fn of(server: SocketAddr, http2: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let inner = HyperClient::builder(TokioExecutor::new())
            .http2_only(http2)
            .build(connector);
        Self { server, inner }
    }

    /// Sends the request and reads the whole answer.
    ///
    /// # Errors
    /// When the connection fails or the answer is not complete within the time.
    pub async fn send(&self, ask: Ask) -> Result<Answer> {
        let what = format!("{} http://{}{}", ask.method, self.server, ask.path);
        let mut request = Request::builder()
            .method(ask.method)
            .uri(format!("http://{}{}", self.server, ask.path));
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(ask.body)).with_context(|| what.clone())?;
        let exchange = async {
            let (head, body) = self.inner.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        tokio::time::timeout(ask.within, exchange)
            .await
            .with_context(|| format!("{what}: no whole answer within {:?}", ask.within))?
            .context(what)
    }
}
