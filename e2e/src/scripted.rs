//! A model server that does what a test tells it, and remembers what it was asked.
//!
//! It is no engine: the fleet in `e2e/simulator` is. It is for tests of what Envoy does with one answer, one reset, one silence.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What to do with a request, once its body has been read.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answer with this status and JSON body.
    Answer(u16, String),
    /// Answer 200 with an event stream of these pieces, this long apart.
    Stream(Vec<String>, Duration),
    /// Close the connection without an answer.
    Reset,
    /// Never answer.
    Hang,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// Length of the body in bytes.
    pub body_length: usize,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    seen: Vec<Seen>,
}

/// A running scripted server; it stops listening when dropped.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Scripted {
    /// Starts a server on a free loopback port.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(behaviour: Behaviour) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            behaviour,
            seen: Vec::new(),
        }));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            accepting,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does with the next requests.
    pub fn behave(&self, behaviour: Behaviour) {
        lock(&self.state).behaviour = behaviour;
    }

    /// Takes the requests that have arrived since the last call.
    #[must_use]
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut lock(&self.state).seen)
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((connection, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let serve = service_fn(|request| answer(request, Arc::clone(&state)));
            let connection = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(connection), serve)
                .await;
            // A scripted reset ends here, and so does a peer that goes away: both are what the test is about.
            drop(connection);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<BoxBody<Bytes, std::convert::Infallible>>> {
    let (head, body) = request.into_parts();
    let body_length = body.collect().await?.to_bytes().len();
    let behaviour = {
        let mut state = lock(&state);
        state.seen.push(Seen {
            path: head.uri.to_string(),
            headers: head.headers,
            body_length,
        });
        state.behaviour.clone()
    };
    match behaviour {
        Behaviour::Answer(status, body) => {
            let body = http_body_util::Full::new(Bytes::from(body)).boxed();
            Ok(Response::builder()
                .status(status)
                .header("content-type", "application/json")
                .body(body)?)
        }
        Behaviour::Stream(pieces, gap) => {
            let (send, receive) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                for piece in pieces {
                    if send.send(Ok(Frame::data(Bytes::from(piece)))).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(gap).await;
                }
            });
            let body =
                http_body_util::BodyExt::boxed(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receive)));
            Ok(Response::builder()
                .header("content-type", "text/event-stream")
                .body(body)?)
        }
        Behaviour::Reset => anyhow::bail!("told to reset"),
        Behaviour::Hang => std::future::pending().await,
    }
}
