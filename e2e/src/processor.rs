//! An ext_proc server asked directly, as Envoy asks. What it answers has to be a decision: anything else fails the story that asks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a story's helper fails by panicking"
)]

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
};
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::openai::CHAT;

/// Patience for what takes milliseconds, on a machine that does much else.
const WITHIN: Duration = Duration::from_secs(20);

/// A request that one ext_proc server has decided. Its stream is open until this is dropped.
#[derive(Debug)]
pub struct Decided {
    /// The first of the endpoints.
    pub endpoint: String,
    /// Names the request to whoever tells of its end.
    pub lease: String,
    _stream: (mpsc::Sender<ProcessingRequest>, Streaming<ProcessingResponse>),
}

impl AsRef<str> for Decided {
    /// The endpoint.
    fn as_ref(&self) -> &str {
        &self.endpoint
    }
}

/// Asks an ext_proc server about a chat, as an Envoy would that sends request bodies in this mode and no response body.
///
/// # Panics
/// When it does not decide in time.
pub async fn ask(at: SocketAddr, mode: BodySendMode, body: &[u8]) -> Decided {
    let header = |key: &str, value: &str| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let head = HttpHeaders {
        headers: Some(HeaderMap {
            headers: vec![
                header(":method", "POST"),
                header(":path", CHAT),
                header(":authority", "a"),
            ],
        }),
        ..HttpHeaders::default()
    };
    let body = HttpBody {
        body: body.to_vec(),
        end_of_stream: true,
        ..HttpBody::default()
    };
    let modes = ProtocolConfiguration {
        request_body_mode: mode as i32,
        response_body_mode: BodySendMode::None as i32,
        ..ProtocolConfiguration::default()
    };
    let (send, requests) = mpsc::channel(2);
    let first = ProcessingRequest {
        request: Some(Request::RequestHeaders(head)),
        protocol_config: Some(modes),
        ..ProcessingRequest::default()
    };
    let second = ProcessingRequest {
        request: Some(Request::RequestBody(body)),
        ..ProcessingRequest::default()
    };
    send.send(first).await.unwrap();
    send.send(second).await.unwrap();
    let mut client = ExternalProcessorClient::connect(format!("http://{at}")).await.unwrap();
    let mut replies = client
        .process(ReceiverStream::new(requests))
        .await
        .unwrap()
        .into_inner();
    let decision = async {
        loop {
            let reply = replies.message().await.unwrap().expect("a decision");
            if let Some(metadata) = reply.dynamic_metadata {
                return metadata;
            }
        }
    };
    let metadata = tokio::time::timeout(WITHIN, decision)
        .await
        .expect("a decision in time");
    let list = text(&metadata, "envoy.lb", "x-gateway-destination-endpoint");
    Decided {
        endpoint: list.split(',').next().unwrap().to_owned(),
        lease: text(&metadata, "kthena", "lease"),
        _stream: (send, replies),
    }
}

/// A text in dynamic metadata.
fn text(metadata: &Struct, namespace: &str, key: &str) -> String {
    let Some(Kind::StructValue(fields)) = &metadata.fields[namespace].kind else {
        panic!("{metadata:?}");
    };
    let Some(Kind::StringValue(text)) = &fields.fields[key].kind else {
        panic!("{metadata:?}");
    };
    text.clone()
}
