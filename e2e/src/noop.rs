//! An ext_proc server that decides nothing: the baseline that the benchmark compares with, and the stand-in with which the Envoy
//! configuration is tested on its own.
//!
//! In every body mode it does the least that the protocol allows: one reply a message, no task, no channel. With a [`Decision`] it also
//! names a cluster and endpoints, as the real server does, and it keeps the access-log entries that Envoy sends, so that a test can see
//! what travels in them. It must never look into a body.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::data::accesslog::v3::HttpAccessLogEntry;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::{
    AccessLogService, AccessLogServiceServer,
};
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::envoy::service::accesslog::v3::{StreamAccessLogsMessage, StreamAccessLogsResponse};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody, ImmediateResponse,
    ProcessingRequest, ProcessingResponse, StreamedBodyResponse, TrailersResponse, body_mutation, processing_request,
    processing_response,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{Struct, Value, value};
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Access-log entries kept for a test to read; older ones go first.
const KEPT_ENTRIES: usize = 1024;

/// Pieces of a streamed body must stay below 64 KiB, or Envoy refuses them.
const LARGEST_PIECE: usize = 62_000;

/// Bytes of one gRPC message: above the largest body that a test sends.
const LARGEST_MESSAGE: usize = 64 << 20;

/// HTTP/2 flow-control windows in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// What the server says about every request; the default says nothing.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// The Envoy cluster, put in `x-kthena-cluster`.
    pub cluster: Option<String>,
    /// The endpoints in order, put in the header and the `envoy.lb` metadata `x-gateway-destination-endpoint`.
    pub endpoints: Vec<SocketAddr>,
    /// Further request headers, such as `x-envoy-max-retries`.
    pub headers: Vec<(String, String)>,
    /// String values for the `kthena` metadata namespace.
    pub metadata: BTreeMap<String, String>,
    /// Answer the client with this status and body in place of routing.
    pub reply: Option<(u16, String)>,
    /// End the gRPC stream with the decision, so that Envoy needs nothing more of this server for the request.
    pub ends_stream: bool,
    /// Send a buffered body back unchanged, as a server must that changes something in it.
    pub returns_body: bool,
}

impl Decision {
    fn is_empty(&self) -> bool {
        self.cluster.is_none() && self.endpoints.is_empty() && self.headers.is_empty() && self.metadata.is_empty()
    }
}

/// The server's state; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Noop {
    decision: Arc<Mutex<Arc<Decision>>>,
    entries: Arc<Mutex<VecDeque<HttpAccessLogEntry>>>,
}

impl Noop {
    /// A server that gives this decision on every request.
    #[must_use]
    pub fn new(decision: Decision) -> Self {
        let noop = Self::default();
        noop.decide(decision);
        noop
    }

    /// Changes the decision for the requests that start from now on.
    pub fn decide(&self, decision: Decision) {
        *self.decision.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(decision);
    }

    /// The access-log entries received so far, oldest first.
    #[must_use]
    pub fn entries(&self) -> Vec<HttpAccessLogEntry> {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    /// Serves on the listener until the future is dropped.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve(self, listener: TcpListener) -> Result<(), tonic::transport::Error> {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<ExternalProcessorServer<Self>>().await;
        let processor = ExternalProcessorServer::new(self.clone()).max_decoding_message_size(LARGEST_MESSAGE);
        let access_log = AccessLogServiceServer::new(self).max_decoding_message_size(LARGEST_MESSAGE);
        tonic::transport::Server::builder()
            // Large enough that a body of half a megabyte arrives without waiting for window updates.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .add_service(health_service)
            .add_service(processor)
            .add_service(access_log)
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
            .await
    }
}

#[tonic::async_trait]
impl ExternalProcessor for Noop {
    type ProcessStream = Exchange;

    async fn process(&self, request: Request<Streaming<ProcessingRequest>>) -> Result<Response<Exchange>, Status> {
        let decision = Arc::clone(&self.decision.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Response::new(Exchange {
            messages: request.into_inner(),
            decision,
            full_duplex: FullDuplex::default(),
            replies: VecDeque::new(),
            ended: false,
        }))
    }
}

#[tonic::async_trait]
impl AccessLogService for Noop {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            let Some(LogEntries::HttpLogs(logs)) = message.log_entries else {
                continue;
            };
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.extend(logs.log_entry);
            let surplus = entries.len().saturating_sub(KEPT_ENTRIES);
            entries.drain(..surplus);
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct FullDuplex {
    request: bool,
    response: bool,
}

/// One ext_proc stream: each message is answered as it is read, without a task or a channel between.
#[derive(Debug)]
pub struct Exchange {
    messages: Streaming<ProcessingRequest>,
    decision: Arc<Decision>,
    full_duplex: FullDuplex,
    replies: VecDeque<ProcessingResponse>,
    ended: bool,
}

impl Stream for Exchange {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return Poll::Ready(Some(Ok(reply)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match Pin::new(&mut self.messages).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(Some(Ok(message))) => self.answer(message),
            }
        }
    }
}

impl Exchange {
    fn answer(&mut self, message: ProcessingRequest) {
        use processing_request::Request as Message;
        use processing_response::Response as Reply;

        if let Some(protocol) = message.protocol_config {
            let is_full_duplex = |mode: i32| mode == BodySendMode::FullDuplexStreamed as i32;
            self.full_duplex = FullDuplex {
                request: is_full_duplex(protocol.request_body_mode),
                response: is_full_duplex(protocol.response_body_mode),
            };
        }
        match message.request {
            Some(Message::RequestHeaders(headers)) => {
                // With a buffered body the decision goes with the reply to the body, as a real one would.
                let decides = headers.end_of_stream || self.full_duplex.request;
                let response = if decides { self.decided() } else { None };
                self.reply(Reply::RequestHeaders(HeadersResponse { response }), decides);
            }
            Some(Message::RequestBody(body)) if self.full_duplex.request => {
                self.echo(body, Reply::RequestBody);
            }
            Some(Message::RequestBody(body)) => {
                let mut response = self.decided();
                if self.decision.returns_body {
                    let mutation = Some(body_mutation::Mutation::Body(body.body));
                    response.get_or_insert_default().body_mutation = Some(BodyMutation { mutation });
                }
                self.reply(Reply::RequestBody(BodyResponse { response }), true);
            }
            Some(Message::ResponseHeaders(_)) => self.reply(Reply::ResponseHeaders(HeadersResponse::default()), false),
            Some(Message::ResponseBody(body)) if self.full_duplex.response => {
                self.echo(body, Reply::ResponseBody);
            }
            Some(Message::ResponseBody(_)) => self.reply(Reply::ResponseBody(BodyResponse::default()), false),
            Some(Message::RequestTrailers(_)) => self.reply(Reply::RequestTrailers(TrailersResponse::default()), false),
            Some(Message::ResponseTrailers(_)) => {
                self.reply(Reply::ResponseTrailers(TrailersResponse::default()), false);
            }
            None => {}
        }
    }

    /// The body goes back as it came, in pieces that Envoy accepts.
    fn echo(&mut self, body: HttpBody, wrap: fn(BodyResponse) -> processing_response::Response) {
        let pieces = body.body.chunks(LARGEST_PIECE).count().max(1);
        let mut rest = body.body;
        for piece in 1..=pieces {
            let tail = rest.split_off(rest.len().min(LARGEST_PIECE));
            let streamed = StreamedBodyResponse {
                body: std::mem::replace(&mut rest, tail),
                end_of_stream: body.end_of_stream && piece == pieces,
                ..StreamedBodyResponse::default()
            };
            let response = CommonResponse {
                body_mutation: Some(BodyMutation {
                    mutation: Some(body_mutation::Mutation::StreamedResponse(streamed)),
                }),
                ..CommonResponse::default()
            };
            self.reply(
                wrap(BodyResponse {
                    response: Some(response),
                }),
                false,
            );
        }
    }

    fn reply(&mut self, response: processing_response::Response, decides: bool) {
        let immediate = self.decision.reply.as_ref().filter(|_| decides);
        let response = match immediate {
            None => response,
            Some((code, body)) => processing_response::Response::ImmediateResponse(ImmediateResponse {
                status: Some(HttpStatus { code: i32::from(*code) }),
                body: body.clone().into_bytes(),
                details: "kthena_test_reply".to_owned(),
                ..ImmediateResponse::default()
            }),
        };
        let dynamic_metadata = if decides { self.metadata() } else { None };
        self.ended |= decides && self.decision.ends_stream;
        self.replies.push_back(ProcessingResponse {
            response: Some(response),
            dynamic_metadata,
            ..ProcessingResponse::default()
        });
    }

    fn decided(&self) -> Option<CommonResponse> {
        if self.decision.is_empty() {
            return None;
        }
        let mut headers = self.decision.headers.clone();
        if let Some(cluster) = &self.decision.cluster {
            headers.push(("x-kthena-cluster".to_owned(), cluster.clone()));
        }
        if !self.decision.endpoints.is_empty() {
            headers.push(("x-gateway-destination-endpoint".to_owned(), self.endpoint_list()));
        }
        Some(CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers: headers
                    .into_iter()
                    .map(|(name, value)| overwrite(name, value))
                    .collect(),
                remove_headers: Vec::new(),
            }),
            clear_route_cache: self.decision.cluster.is_some(),
            ..CommonResponse::default()
        })
    }

    fn endpoint_list(&self) -> String {
        let endpoints: Vec<String> = self.decision.endpoints.iter().map(ToString::to_string).collect();
        endpoints.join(",")
    }

    fn metadata(&self) -> Option<Struct> {
        let mut namespaces = Vec::new();
        if !self.decision.endpoints.is_empty() {
            let list = [("x-gateway-destination-endpoint".to_owned(), self.endpoint_list())];
            namespaces.push(("envoy.lb".to_owned(), strings(list)));
        }
        if !self.decision.metadata.is_empty() {
            namespaces.push(("kthena".to_owned(), strings(self.decision.metadata.clone())));
        }
        (!namespaces.is_empty()).then(|| Struct {
            fields: namespaces.into_iter().collect(),
        })
    }
}

fn overwrite(key: String, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key,
            value: String::new(),
            raw_value: value.into_bytes(),
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..HeaderValueOption::default()
    }
}

fn strings(values: impl IntoIterator<Item = (String, String)>) -> Value {
    let fields = values
        .into_iter()
        .map(|(key, text)| {
            (
                key,
                Value {
                    kind: Some(value::Kind::StringValue(text)),
                },
            )
        })
        .collect();
    Value {
        kind: Some(value::Kind::StructValue(Struct { fields })),
    }
}
