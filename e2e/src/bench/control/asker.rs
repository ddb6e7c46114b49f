//! Asks an ext_proc server as Envoy does, and hears where a request would go. The request goes nowhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HttpBody, HttpHeaders, ProcessingRequest, ProtocolConfiguration,
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::system::story::CHAT;

/// The header with the endpoints that a request is to go to.
const DESTINATION: &str = "x-gateway-destination-endpoint";

/// An answer takes a millisecond, or something is wrong.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// An ext_proc server that is asked over one connection.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    client: ExternalProcessorClient<Channel>,
    /// No two requests are drawn alike.
    asked: Arc<AtomicU64>,
}

impl Asker {
    /// Connects.
    pub(super) async fn connect(address: SocketAddr) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await;
        let channel = channel.with_context(|| format!("no ext_proc server answers at {address}"))?;
        Ok(Self {
            client: ExternalProcessorClient::new(channel),
            asked: Arc::default(),
        })
    }

    /// Where a request for this model would go: all endpoints that it names, at most five. None when it is answered 503.
    pub(super) async fn destinations(&self, model: &str) -> Result<Vec<Ipv4Addr>> {
        let heard = timeout(ANSWERED_WITHIN, self.ask(model)).await;
        heard.with_context(|| format!("an ext_proc server does not answer within {ANSWERED_WITHIN:?}"))?
    }

    async fn ask(&self, model: &str) -> Result<Vec<Ipv4Addr>> {
        let (say, messages) = mpsc::unbounded_channel();
        let number = self.asked.fetch_add(1, Relaxed);
        for message in question(model, number) {
            say.send(message)?;
        }
        let mut client = self.client.clone();
        // The stream stays open until all is heard, as Envoy's does.
        let mut replies = client
            .process(UnboundedReceiverStream::new(messages))
            .await?
            .into_inner();
        while let Some(reply) = replies.message().await? {
            match reply.response {
                Some(Reply::RequestHeaders(_)) => {}
                Some(Reply::RequestBody(part)) => return named(part.response.unwrap_or_default()),
                Some(Reply::ImmediateResponse(answer)) => {
                    let status = answer.status.map_or(0, |status| status.code);
                    let body = String::from_utf8_lossy(&answer.body).into_owned();
                    anyhow::ensure!(status == 503, "a request is answered {status}: {body}");
                    return Ok(Vec::new());
                }
                other => bail!("an ext_proc server says what nobody asked: {other:?}"),
            }
        }
        bail!("an ext_proc server ended the stream without an answer")
    }
}

/// The addresses in the header of destinations.
fn named(common: CommonResponse) -> Result<Vec<Ipv4Addr>> {
    let mutation = common.header_mutation.unwrap_or_default();
    let mut set = mutation.set_headers.into_iter().filter_map(|option| option.header);
    let header = set.find(|header| header.key == DESTINATION);
    let list = header.context("a request goes on without a destination")?.raw_value;
    let list = String::from_utf8(list)?;
    let addresses = list.split(',').map(|endpoint| {
        let address: SocketAddr = endpoint
            .trim()
            .parse()
            .with_context(|| format!("{endpoint} is no endpoint"))?;
        match address {
            SocketAddr::V4(address) => Ok(*address.ip()),
            SocketAddr::V6(address) => bail!("the fleet has no {address}"),
        }
    });
    addresses.collect()
}

/// Envoy's messages about a request with a body that it has read whole.
fn question(model: &str, number: u64) -> [ProcessingRequest; 2] {
    let id = format!("bench-{number}");
    let pairs = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "llm"),
        (":path", CHAT),
        ("content-type", "application/json"),
        ("x-request-id", &id),
    ];
    let header = |(name, value): (&str, &str)| HeaderValue {
        key: name.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let head = HttpHeaders {
        headers: Some(HeaderMap {
            headers: pairs.into_iter().map(header).collect(),
        }),
        ..HttpHeaders::default()
    };
    let text = json!({"model": model, "messages": [{"role": "user", "content": "Who is there?"}]});
    let body = HttpBody {
        body: text.to_string().into_bytes(),
        end_of_stream: true,
        ..HttpBody::default()
    };
    let message = |part, protocol_config| ProcessingRequest {
        request: Some(part),
        protocol_config,
        ..ProcessingRequest::default()
    };
    let modes = ProtocolConfiguration {
        request_body_mode: BodySendMode::Buffered.into(),
        response_body_mode: BodySendMode::None.into(),
        ..ProtocolConfiguration::default()
    };
    [
        message(Part::RequestHeaders(head), Some(modes)),
        message(Part::RequestBody(body), None),
    ]
}
