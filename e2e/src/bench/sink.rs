//! A receiver of traces that keeps none: it answers every export with success, so that tracing costs `kthena-ext-proc` what it costs.
//!
//! Any gRPC call over HTTP/2 with prior knowledge gets an empty message and status 0. What arrives is counted, so that a benchmark can
//! tell whether spans were exported at all.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A gRPC message of no bytes: no compression, length 0.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// A running receiver; it stops listening when dropped.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    bytes: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Sink {
    /// Starts a receiver on a free loopback port.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr()?;
        let bytes = Arc::new(AtomicU64::new(0));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&bytes)));
        Ok(Self {
            address,
            bytes,
            accepting,
        })
    }

    /// Where spans are sent.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, bytes: Arc<AtomicU64>) {
    while let Ok((connection, _)) = listener.accept().await {
        let bytes = Arc::clone(&bytes);
        tokio::spawn(async move {
            let serve = service_fn(|request| answer(request, Arc::clone(&bytes)));
            // A client that goes away has nothing more to send.
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(connection), serve)
                .await;
        });
    }
}

type Frames = tokio_stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>;

async fn answer(request: Request<Incoming>, bytes: Arc<AtomicU64>) -> Result<Response<StreamBody<Frames>>> {
    let body = request.into_body().collect().await?.to_bytes();
    bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let frames = [
        Ok(Frame::data(Bytes::from_static(EMPTY_MESSAGE))),
        Ok(Frame::trailers(trailers)),
    ];
    Ok(Response::builder()
        .header("content-type", "application/grpc")
        .body(StreamBody::new(tokio_stream::iter(frames)))?)
}
