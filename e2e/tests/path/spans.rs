//! A receiver of OTLP that keeps what it is sent.

use std::net::SocketAddr;
use std::sync::Arc;

use kthena_e2e::process::wait_until;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::SOON;

/// Keeps all spans that it is sent.
#[derive(Clone, Default)]
pub(crate) struct Receiver(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request
            .into_inner()
            .resource_spans
            .into_iter()
            .flat_map(|spans| spans.scope_spans);
        self.0.lock().await.extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    /// A receiver, and where it listens.
    pub(crate) async fn listen() -> (Self, SocketAddr) {
        let receiver = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(receiver.clone());
        let serving = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        (receiver, at)
    }

    /// All spans so far.
    #[allow(
        dead_code,
        reason = "one of the suites that have this file does not ask how many there are"
    )]
    pub(crate) async fn all(&self) -> Vec<Span> {
        self.0.lock().await.clone()
    }

    /// The first span that arrives and is one of these.
    pub(crate) async fn find(&self, is_it: impl Fn(&Span) -> bool) -> Span {
        let mut found = None;
        wait_until("a span", SOON, async || {
            found = self.0.lock().await.iter().find(|span| is_it(span)).cloned();
            found.is_some()
        })
        .await
        .unwrap();
        found.unwrap()
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn attribute(span: &Span, key: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.clone()?.value
}
