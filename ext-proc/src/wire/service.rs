//! The two gRPC services that Envoy calls, `envoy.service.ext_proc.v3.ExternalProcessor` and
//! `envoy.service.accesslog.v3.AccessLogService`, over our own messages.
//!
//! Each has one method, in which messages stream in and replies out, framed by [`frames`](super::frames). tonic serves it, with every
//! other service, by its path. A method that does not exist is answered with `UNIMPLEMENTED`; compression is not offered.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http_body::Body as HttpBody;
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, StdError};
use tonic::server::NamedService;

use crate::wire::frames::{Messages, Outgoing, Sent};
use crate::wire::log::{Logs, Noted};
use crate::wire::message::{ProcessingRequest, ProcessingResponse};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// A service with one method.
pub trait Method: Clone + Send + 'static {
    /// The service's name.
    const SERVICE: &'static str;
    /// The path of its method.
    const PATH: &'static str;
    /// What Envoy sends.
    type In: Message + Default + 'static;
    /// What it is told.
    type Out: Outgoing + 'static;
}

/// `ExternalProcessor/Process`.
#[derive(Clone, Copy, Debug)]
pub struct Process;

/// `AccessLogService/StreamAccessLogs`, whose only reply is sent at the end.
#[derive(Clone, Copy, Debug)]
pub struct StreamAccessLogs;

/// The service: `start` makes of every stream of messages one of replies.
#[derive(Clone, Debug)]
pub struct Streams<M, F> {
    start: F,
    max_message_bytes: usize,
    method: PhantomData<M>,
}

impl Method for Process {
    const SERVICE: &'static str = "envoy.service.ext_proc.v3.ExternalProcessor";
    const PATH: &'static str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
    type In = ProcessingRequest;
    type Out = ProcessingResponse;
}

impl Method for StreamAccessLogs {
    const SERVICE: &'static str = "envoy.service.accesslog.v3.AccessLogService";
    const PATH: &'static str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
    type In = Logs;
    type Out = Noted;
}

// === impl Streams ===

impl<M, F> Streams<M, F> {
    /// A service that ends streams on which a message is larger than `max_message_bytes`.
    pub fn new(start: F, max_message_bytes: usize) -> Self {
        Self {
            start,
            max_message_bytes,
            method: PhantomData,
        }
    }
}

impl<M: Method, F> NamedService for Streams<M, F> {
    const NAME: &'static str = M::SERVICE;
}

impl<M, F, S, B> Service<http::Request<B>> for Streams<M, F>
where
    M: Method,
    F: Fn(Messages<M::In>) -> S,
    S: tokio_stream::Stream<Item = Result<M::Out, Status>> + Unpin + Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != M::PATH {
            return ready(Ok(Status::unimplemented("no such method").into_http()));
        }
        let messages = Messages::new(request.into_body(), self.max_message_bytes);
        let replies = Sent::new((self.start)(messages));
        let mut response = http::Response::new(Body::new(replies));
        response.headers_mut().insert(CONTENT_TYPE, GRPC);
        ready(Ok(response))
    }
}
