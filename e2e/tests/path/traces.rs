//! One trace from the client to the model server: the span of a request is a child of the client's, and the model server is told it as
//! its parent. Spans arrive at a receiver of OTLP.

use std::sync::Arc;

use kthena_e2e::client::Ask;
use kthena_e2e::process::wait_until;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Options, System};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::{SOON, last_received, question, send, start};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// Keeps all spans that it is sent.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<Span>>>);

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
    /// The first span that arrives.
    async fn first(&self) -> Span {
        wait_until("a span", SOON, async || !self.0.lock().await.is_empty())
            .await
            .unwrap();
        self.0.lock().await[0].clone()
    }
}

/// A system whose ext_proc servers send their spans to the receiver.
async fn traced() -> (System, Receiver) {
    let receiver = Receiver::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let service = TraceServiceServer::new(receiver.clone());
    let serving = tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    let system = start(Options {
        groups: vec![Group::instant("llama", "meta/llama", 1)],
        routes: vec![model_route("llama", "llama", "llama")],
        ext_proc_flags: vec![format!("--otlp-endpoint=http://{at}"), "--trace-share=0".to_owned()],
        ..Options::default()
    })
    .await;
    (system, receiver)
}

fn with_parent(ask: Ask, flags: &str) -> Ask {
    ask.header("traceparent", &format!("00-{TRACE}-{CLIENT}-{flags}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.clone()?.value
}

#[tokio::test(flavor = "multi_thread")]
async fn the_span_of_a_request_stands_between_the_clients_and_the_model_servers() {
    let (system, receiver) = traced().await;
    // A client that wants no trace gets none, and its header goes on as it came.
    assert_eq!(send(&system, with_parent(question("llama"), "00")).await.status, 200);
    let passed = last_received(&system).await.header("traceparent").to_owned();
    assert_eq!(passed, format!("00-{TRACE}-{CLIENT}-00"));

    assert_eq!(send(&system, with_parent(question("llama"), "01")).await.status, 200);
    let span = receiver.first().await;
    assert_eq!(
        (hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()),
        (TRACE, CLIENT)
    );
    assert_eq!(
        last_received(&system).await.header("traceparent"),
        format!("00-{TRACE}-{}-01", hex(&span.span_id)),
        "the model server's parent is ours"
    );
    assert_eq!(span.name, "chat llama");
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    for (key, value) in [
        ("gen_ai.request.model", "llama"),
        ("gen_ai.response.model", "meta/llama"),
        ("kthena.model_server", "default/llama"),
        ("kthena.pod", "default/llama-0"),
    ] {
        assert_eq!(
            attribute(&span, key),
            Some(Value::StringValue(value.to_owned())),
            "{key}: {span:?}"
        );
    }
    assert_eq!(receiver.0.lock().await.len(), 1, "the other one was not traced");
}
