//! The gRPC service `envoy.service.ext_proc.v3.ExternalProcessor`, over our own messages.
//!
//! It is what tonic would generate for the service's only method, less what is not used: compression. A method that does not exist is
//! answered with `UNIMPLEMENTED`.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Service, StdError};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::wire::message::{ProcessingRequest, ProcessingResponse};

const METHOD: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";

/// The service: `start` makes of every stream of messages one of replies.
#[derive(Clone, Debug)]
pub struct ExternalProcessor<F> {
    start: F,
    max_message_bytes: usize,
}

// === impl ExternalProcessor ===

impl<F> ExternalProcessor<F> {
    /// A service that ends streams on which a message is larger than `max_message_bytes`.
    pub fn new(start: F, max_message_bytes: usize) -> Self {
        Self {
            start,
            max_message_bytes,
        }
    }
}

impl<F> NamedService for ExternalProcessor<F> {
    const NAME: &'static str = "envoy.service.ext_proc.v3.ExternalProcessor";
}

impl<F, S, B> Service<http::Request<B>> for ExternalProcessor<F>
where
    F: Fn(Streaming<ProcessingRequest>) -> S + Clone + Send + 'static,
    S: tokio_stream::Stream<Item = Result<ProcessingResponse, Status>> + Send + 'static,
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != METHOD {
            return Box::pin(ready(Ok(Status::unimplemented("no such method").into_http())));
        }
        let (start, bound) = (self.start.clone(), self.max_message_bytes);
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(bound);
            Ok(grpc.streaming(Method(start), request).await)
        })
    }
}

struct Method<F>(F);

impl<F, S> StreamingService<ProcessingRequest> for Method<F>
where
    F: Fn(Streaming<ProcessingRequest>) -> S,
    S: tokio_stream::Stream<Item = Result<ProcessingResponse, Status>> + Send + 'static,
{
    type Response = ProcessingResponse;
    type ResponseStream = S;
    type Future = Ready<Result<Response<S>, Status>>;

    fn call(&mut self, request: Request<Streaming<ProcessingRequest>>) -> Self::Future {
        ready(Ok(Response::new((self.0)(request.into_inner()))))
    }
}
