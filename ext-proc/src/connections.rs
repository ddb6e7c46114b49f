//! HTTP/2 on the connections of one thread: which service a stream is for, and how a connection ends.
//!
//! hyper serves it, without tonic's server around it: that takes a body only as single slices of memory, each of which becomes a frame and a call
//! of the kernel, and a prompt of 400 kB comes in 25 slices and goes back in as many. What must always hold: a stream for a path that does not exist is
//! answered with `UNIMPLEMENTED`; a connection that fails takes no other with it; when the process stops, streams that are open are served to their end
//! and no new ones are taken.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;
use tonic::codegen::Service as _;
use tonic::service::Routes;

use crate::wire::log::{Logs, Noted};
use crate::wire::{
    Messages, Method, Pieces, Process, ProcessingRequest, ProcessingResponse, Sent, StreamAccessLogs, Streams,
};

/// Envoy holds few connections and one stream per request.
const MAX_STREAMS: u32 = 100_000;
/// A whole body of the default bound on its way, without waiting for the window.
const STREAM_WINDOW: u32 = 16 << 20;
/// A frame costs a call of the kernel; a body of the usual 16 KiB each would take dozens.
const LARGEST_FRAME: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is served: Envoy's two services, and others beside them.
#[derive(Debug)]
pub(crate) struct Services<F, G> {
    /// Decides.
    pub(crate) process: Streams<Process, F>,
    /// Hears how requests ended.
    pub(crate) logs: Streams<StreamAccessLogs, G>,
    /// Whatever else there is, by its path.
    pub(crate) others: Routes,
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Answer<S, T> {
    Process(Sent<S>),
    Logs(Sent<T>),
    Other(tonic::body::Body),
}

/// Serves connections until the process stops, and those that are open then until their streams have ended.
pub(crate) async fn serve<C, F, G, S, T>(
    connections: impl Stream<Item = io::Result<C>>,
    services: Arc<Services<F, G>>,
    mut stopping: watch::Receiver<bool>,
) where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Messages<ProcessingRequest>) -> S + Send + Sync + 'static,
    G: Fn(Messages<Logs>) -> T + Send + Sync + 'static,
    S: Stream<Item = Result<ProcessingResponse, Status>> + Unpin + Send + 'static,
    T: Stream<Item = Result<Noted, Status>> + Unpin + Send + 'static,
{
    let mut connections = pin!(connections);
    let mut open = JoinSet::new();
    loop {
        let next = tokio::select! {
            next = connections.next() => next,
            _ = open.join_next(), if !open.is_empty() => continue,
            // An error means that the sender is gone, and with it the process.
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        match next {
            Some(Ok(io)) => drop(open.spawn(connection(io, Arc::clone(&services), stopping.clone()))),
            Some(Err(error)) => tracing::debug!(%error, "a connection is gone before it was served"),
            None => break,
        }
    }
    while open.join_next().await.is_some() {}
}

async fn connection<C, V, B>(io: C, services: V, mut stopping: watch::Receiver<bool>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    V: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    V::Future: Send + 'static,
    B: Body<Error = Status> + Send + 'static,
    B::Data: Send,
{
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(LARGEST_FRAME)
        .max_concurrent_streams(MAX_STREAMS)
        .auto_date_header(false);
    let mut served = pin!(http.serve_connection(TokioIo::new(io), services));
    let mut stopped = pin!(async move { drop(stopping.wait_for(|stop| *stop).await) });
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = stopped.as_mut() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection has failed");
    }
}

// === impl Services ===

impl<F, G, S, T> Service<Request<Incoming>> for Services<F, G>
where
    F: Fn(Messages<ProcessingRequest>) -> S,
    G: Fn(Messages<Logs>) -> T,
    S: Stream<Item = Result<ProcessingResponse, Status>> + Unpin + Send + 'static,
    T: Stream<Item = Result<Noted, Status>> + Unpin + Send + 'static,
{
    type Response = Response<Answer<S, T>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        match request.uri().path() {
            Process::PATH => Box::pin(ready(Ok(self.process.answer(request).map(Answer::Process)))),
            StreamAccessLogs::PATH => Box::pin(ready(Ok(self.logs.answer(request).map(Answer::Logs)))),
            _ => {
                let answer = self.others.clone().call(request);
                Box::pin(async move { Ok(answer.await?.map(Answer::Other)) })
            }
        }
    }
}

// === impl Answer ===

impl<S, T> Body for Answer<S, T>
where
    S: Stream<Item = Result<ProcessingResponse, Status>> + Unpin,
    T: Stream<Item = Result<Noted, Status>> + Unpin,
{
    type Data = Pieces;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, poller: &mut Context<'_>) -> Poll<Option<Result<Frame<Pieces>, Status>>> {
        match self.get_mut() {
            Self::Process(replies) => Pin::new(replies).poll_frame(poller),
            Self::Logs(replies) => Pin::new(replies).poll_frame(poller),
            Self::Other(body) => {
                let pieces = |frame: Frame<Bytes>| frame.map_data(Pieces::from);
                Pin::new(body)
                    .poll_frame(poller)
                    .map(|next| next.map(|frame| frame.map(pieces)))
            }
        }
    }
}
