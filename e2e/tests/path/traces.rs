//! One trace from the client to the model server: the span of a request is a child of the client's, and the model server is told it as
//! its parent. Spans arrive at a receiver of OTLP.

use kthena_e2e::client::Ask;
use kthena_e2e::system::fleet::Group;
use kthena_e2e::system::manifests::model_route;
use kthena_e2e::system::{Options, System};
use opentelemetry_proto::tonic::common::v1::any_value::Value;

use crate::spans::{Receiver, attribute, hex};
use crate::{last_received, question, send, start};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";

/// A system whose ext_proc servers send their spans to the receiver.
async fn traced() -> (System, Receiver) {
    let (receiver, at) = Receiver::listen().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn the_span_of_a_request_stands_between_the_clients_and_the_model_servers() {
    let (system, receiver) = traced().await;
    // A client that wants no trace gets none, and its header goes on as it came.
    assert_eq!(send(&system, with_parent(question("llama"), "00")).await.status, 200);
    let passed = last_received(&system).await.header("traceparent").to_owned();
    assert_eq!(passed, format!("00-{TRACE}-{CLIENT}-00"));

    assert_eq!(send(&system, with_parent(question("llama"), "01")).await.status, 200);
    let span = receiver.find(|_| true).await;
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
    assert_eq!(receiver.all().await.len(), 1, "the other one was not traced");
}
