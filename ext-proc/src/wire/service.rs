//! The two gRPC services that Envoy calls, `envoy.service.ext_proc.v3.ExternalProcessor` and
//! `envoy.service.accesslog.v3.AccessLogService`, over our own messages.
//!
//! Each has one method, in which messages stream in and replies out, framed by [`frames`](super::frames). A method that does not exist is
//! answered with `UNIMPLEMENTED`; compression is not offered.

use std::marker::PhantomData;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http_body::Body as HttpBody;
use prost::Message;
use tokio_stream::Stream;
use tonic::Status;
use tonic::codegen::StdError;

use crate::wire::frames::{Messages, Outgoing, Sent};
use crate::wire::log::{Logs, Noted};
use crate::wire::message::{ProcessingRequest, ProcessingResponse};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// A service with one method.
pub trait Method: Clone + Send + 'static {
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
    const PATH: &'static str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
    type In = ProcessingRequest;
    type Out = ProcessingResponse;
}

impl Method for StreamAccessLogs {
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

    /// Answers a request for the method with a stream.
    pub fn answer<S, B>(&self, request: http::Request<B>) -> http::Response<Sent<S>>
    where
        M: Method,
        F: Fn(Messages<M::In>) -> S,
        S: Stream<Item = Result<M::Out, Status>> + Unpin,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError>,
    {
        let messages = Messages::new(request.into_body(), self.max_message_bytes);
        let mut response = http::Response::new(Sent::new((self.start)(messages)));
        response.headers_mut().insert(CONTENT_TYPE, GRPC);
        response
    }
}
