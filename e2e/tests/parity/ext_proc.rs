//! The corpus through the ext_proc server: its own gRPC service, called without a socket, one stream a request, and every reply carried out
//! as Envoy would. Its clock stands still.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use bytes::Buf as _;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Part;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Reply;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HeaderMutation, HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration, body_mutation::Mutation,
};
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use kthena_ext_proc::decisions::Decisions;
use kthena_ext_proc::metrics::Metrics;
use kthena_ext_proc::state::{Clock, Controller as Source, Credentials, Sizes, State, Subscription, Timing};
use kthena_ext_proc::stream::{self, Shared};
use kthena_ext_proc::telemetry::Tracing;
use kthena_ext_proc::wire::{Pieces, Sent};
use kthena_scheduler::exchange::{Settings, WhenSaturated};
use kthena_scheduler::lease::LeaseTable;
use kthena_scheduler::time::Time;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::body::Body;
use tonic::client::GrpcService;

use crate::controller::{Controller, Subscribed};
use crate::outcome::{Outcome, Seen};
use crate::picture::Picture;
use crate::request::{End, Request};
use crate::{INDEX_BYTES, MAX_ENDPOINTS, SOON};

/// Later than anything in a picture is old.
const NOW: Time = Time::from_millis(1_000_000_000);

/// The largest message either way.
const LARGEST: usize = 64 << 20;

/// What becomes of the requests, in order, when the host sends bodies in this mode.
pub(crate) async fn run(picture: &Picture, requests: &[Request], mode: BodySendMode) -> Vec<Outcome> {
    let shared = shared(picture);
    let service = stream::service(Arc::clone(&shared));
    let in_one = |frame: Frame<Pieces>| frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
    let answer = move |request| {
        let body = |replies: Sent<_>| Body::new(replies.map_frame(in_one));
        ready(Ok::<_, Infallible>(service.answer(request).map(body)))
    };
    let mut client = ExternalProcessorClient::new(tower::service_fn(answer))
        .max_decoding_message_size(LARGEST)
        .max_encoding_message_size(LARGEST);
    let mut outcomes = Vec::new();
    let mut open = Vec::new();
    let mut waiting = Vec::new();
    for request in requests.iter().take_while(|request| request.early) {
        let mut talk = Talk::start(&mut client, request, mode).await;
        talk.hear_all_there_is().await;
        waiting.push(talk);
    }
    let held = waiting.iter().filter(|talk| !talk.owed.is_empty()).count();
    assert_eq!(shared.metrics.readings().held.load(Relaxed), held);
    let _subscription = match picture.has_state() {
        true => Some(subscribe(&shared.state, picture).await),
        false => None,
    };
    let mut waiting = waiting.into_iter();
    for request in requests {
        let mut talk = match waiting.next() {
            Some(talk) => talk,
            None => Talk::start(&mut client, request, mode).await,
        };
        let seen = tokio::time::timeout(SOON, talk.listen()).await;
        let seen = seen.unwrap_or_else(|_| panic!("{}: it hangs", request.name));
        outcomes.push(Outcome::of(&request.head(), &request.body.bytes(), seen));
        open.extend(request.stays.then_some(talk));
    }
    outcomes
}

/// What the streams of a server share that has no state yet.
fn shared(picture: &Picture) -> Arc<Shared> {
    let sizes = Sizes {
        max_endpoints: MAX_ENDPOINTS,
        prefix_index_bytes: INDEX_BYTES,
        outbox: 10_000,
    };
    let state = State::with_clock(&sizes, Clock::stopped(NOW));
    let leases = Arc::new(LeaseTable::new(1_000, 1_000));
    let operator = &picture.settings;
    let settings = Settings {
        hosts: operator.hosts.clone(),
        max_body_bytes: operator.max_body_bytes,
        state_wait_ms: operator.state_wait_ms,
        when_saturated: match operator.reject_when_saturated {
            true => WhenSaturated::Reject,
            false => WhenSaturated::Serve,
        },
        explain: operator.explain,
        ..Settings::default()
    };
    Arc::new(Shared {
        metrics: Arc::new(Metrics::new(Arc::clone(&state), Arc::clone(&leases), 100)),
        state: Arc::clone(&state),
        settings,
        leases,
        decisions: Arc::new(Decisions::new(1, false)),
        tracing: Tracing::off(),
        max_held: 100,
    })
}

/// Gives it the state of a picture, as long as what is returned lives: the controller, the stream to it, the task that listens.
async fn subscribe(state: &Arc<State>, picture: &Picture) -> (Controller, Subscribed, watch::Sender<bool>) {
    let mut controller = Controller::start();
    let source = Source::new(&format!("http://{}", controller.address), Credentials::default()).unwrap();
    let (settlements, _) = mpsc::channel(1);
    let subscription = Subscription::new(Arc::clone(state), source, Timing::default(), settlements);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(subscription.run(stopped));
    let subscribed = controller.tell(picture.update()).await;
    assert!(state.snapshot().is_some());
    (controller, subscribed, stop)
}

/// One stream.
struct Talk {
    say: mpsc::UnboundedSender<ProcessingRequest>,
    replies: Streaming<ProcessingResponse>,
    request: Request,
    mode: BodySendMode,
    seen: Seen,
    /// Parts of the request that have not been answered.
    owed: Vec<&'static str>,
}

impl Talk {
    /// Opens a stream, and says the whole request on it.
    async fn start<T>(client: &mut ExternalProcessorClient<T>, request: &Request, mode: BodySendMode) -> Self
    where
        T: GrpcService<Body>,
        T::Error: Into<tonic::codegen::StdError>,
        T::ResponseBody: tonic::codegen::Body<Data = bytes::Bytes> + Send + 'static,
        <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
    {
        let (say, messages) = mpsc::unbounded_channel();
        for message in messages_of(request, mode) {
            say.send(message).unwrap();
        }
        let replies = client.process(UnboundedReceiverStream::new(messages)).await;
        let mut owed = vec!["head"];
        owed.extend((!request.is_head_only()).then_some("body"));
        owed.extend((request.end == End::Trailers).then_some("trailers"));
        Self {
            say,
            replies: replies.unwrap().into_inner(),
            request: request.clone(),
            mode,
            seen: Seen {
                head: Some(request.head()),
                body: match mode {
                    BodySendMode::Buffered => request.body.bytes(),
                    _ => Vec::new(),
                },
                ..Seen::default()
            },
            owed,
        }
    }

    /// Carries out what the server has to say at once.
    async fn hear_all_there_is(&mut self) {
        while !self.owed.is_empty() {
            let said = {
                let mut reply = pin!(self.replies.message());
                poll_fn(|cx| Poll::Ready(reply.as_mut().poll(cx))).await
            };
            let Poll::Ready(reply) = said else { return };
            self.carry_out(reply.unwrap().expect("a stream that stands"));
        }
    }

    /// Carries out what the server says, until the request has gone on or was answered, and then the answer's head.
    async fn listen(&mut self) -> Seen {
        while !self.owed.is_empty() {
            let reply = self.hear().await;
            self.carry_out(reply);
        }
        let sent_on = self.seen.answer.is_none();
        if sent_on && self.seen.facts.contains_key("lease") && self.seen.facts.contains_key("model_server") {
            self.answer().await;
        }
        std::mem::take(&mut self.seen)
    }

    async fn hear(&mut self) -> ProcessingResponse {
        let reply = self.replies.message().await.unwrap();
        reply.unwrap_or_else(|| panic!("{}: the stream ended, {:?} owed", self.request.name, self.owed))
    }

    fn answered(&mut self, part: &str) {
        let place = self.owed.iter().position(|owed| *owed == part);
        let place = place.unwrap_or_else(|| panic!("{}: another reply to the {part}", self.request.name));
        self.owed.remove(place);
    }

    fn carry_out(&mut self, reply: ProcessingResponse) {
        self.read_metadata(reply.dynamic_metadata.as_ref());
        match reply.response.expect("a response") {
            Reply::RequestHeaders(part) => {
                self.answered("head");
                self.change(part.response.unwrap_or_default());
            }
            Reply::RequestBody(part) => {
                let common = part.response.unwrap_or_default();
                let piece = match common.body_mutation.as_ref().and_then(|body| body.mutation.as_ref()) {
                    Some(Mutation::StreamedResponse(piece)) => Some(piece.clone()),
                    _ => None,
                };
                match piece {
                    Some(piece) => {
                        self.seen.body.extend_from_slice(&piece.body);
                        if piece.end_of_stream {
                            self.answered("body");
                        }
                    }
                    None => self.answered("body"),
                }
                self.change(common);
            }
            Reply::RequestTrailers(_) => {
                // In full duplex trailers end the body.
                if self.mode == BodySendMode::FullDuplexStreamed {
                    self.answered("body");
                }
                self.answered("trailers");
            }
            Reply::ImmediateResponse(answer) => {
                let mut headers = BTreeMap::new();
                mutate(&mut headers, &answer.headers.unwrap_or_default());
                let status = u16::try_from(answer.status.unwrap().code).unwrap();
                self.seen.answer = Some((status, headers, answer.body));
                self.seen.head = None;
                self.owed.clear();
            }
            other => panic!("{}: {other:?}", self.request.name),
        }
    }

    fn change(&mut self, common: CommonResponse) {
        let head = self.seen.head.as_mut().expect("a request that goes on");
        let before = head.get("x-kthena-cluster").cloned();
        mutate(head, &common.header_mutation.unwrap_or_default());
        // Envoy follows the header of the cluster only when it is told to look at the route again.
        assert!(common.clear_route_cache || head.get("x-kthena-cluster").cloned() == before);
        if self.mode == BodySendMode::FullDuplexStreamed {
            // Envoy does not know the length of what will come.
            head.remove("content-length");
        }
        if let Some(Mutation::Body(body)) = common.body_mutation.and_then(|body| body.mutation) {
            self.seen.body = body;
        }
    }

    fn read_metadata(&mut self, metadata: Option<&Struct>) {
        for (namespace, key, value) in metadata.into_iter().flat_map(strings) {
            match namespace.as_str() {
                "kthena" => drop(self.seen.facts.insert(key, value)),
                // The load balancer reads the list here, so it has to be the header's; that comes in the same reply.
                "envoy.lb" if key == "x-gateway-destination-endpoint" => {
                    self.seen.facts.insert("destinations".to_owned(), value);
                }
                _ => panic!("{}: {namespace} {key}", self.request.name),
            }
        }
    }

    /// The model server answers.
    async fn answer(&mut self) {
        let facts = &self.seen.facts;
        let head = self.seen.head.as_ref().unwrap();
        assert_eq!(facts.get("destinations"), head.get("x-gateway-destination-endpoint"));
        let explanation = facts.get("explanation").cloned();
        let head = headers(&[(":status", "200"), ("content-type", "application/json")]);
        self.say
            .send(ProcessingRequest {
                request: Some(Part::ResponseHeaders(HttpHeaders {
                    headers: Some(head),
                    end_of_stream: !self.request.stays,
                    ..HttpHeaders::default()
                })),
                ..ProcessingRequest::default()
            })
            .unwrap();
        match self.hear().await.response {
            Some(Reply::ResponseHeaders(part)) => {
                let mutation = part.response.unwrap_or_default().header_mutation.unwrap_or_default();
                mutate(&mut self.seen.response_headers, &mutation);
            }
            other => panic!("{}: {other:?}", self.request.name),
        }
        // Hosts that show no answers put it there from the metadata.
        let header = self.seen.response_headers.get("x-kthena-explanation");
        assert_eq!(header, explanation.as_ref());
    }
}

/// Envoy's messages about a request.
fn messages_of(request: &Request, mode: BodySendMode) -> Vec<ProcessingRequest> {
    let head = request.head();
    let pairs: Vec<_> = head
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut parts = vec![Part::RequestHeaders(HttpHeaders {
        headers: Some(headers(&pairs)),
        end_of_stream: request.is_head_only(),
        ..HttpHeaders::default()
    })];
    if !request.is_head_only() {
        let mut pieces = match mode {
            BodySendMode::Buffered => vec![request.body.bytes()],
            _ => request.pieces(),
        };
        if request.end == End::Empty && mode != BodySendMode::Buffered {
            pieces.push(Vec::new());
        }
        let last = pieces.len() - 1;
        parts.extend(pieces.into_iter().enumerate().map(|(number, body)| {
            Part::RequestBody(HttpBody {
                body,
                end_of_stream: number == last && request.end != End::Trailers,
                ..HttpBody::default()
            })
        }));
    }
    if request.end == End::Trailers {
        parts.push(Part::RequestTrailers(HttpTrailers::default()));
    }
    let message = |part| ProcessingRequest {
        request: Some(part),
        ..ProcessingRequest::default()
    };
    let mut messages: Vec<_> = parts.into_iter().map(message).collect();
    messages[0].protocol_config = Some(ProtocolConfiguration {
        request_body_mode: mode.into(),
        response_body_mode: BodySendMode::None.into(),
        ..ProtocolConfiguration::default()
    });
    messages
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&str, &str)| HeaderValue {
        key: (*name).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    HeaderMap {
        headers: pairs.iter().map(header).collect(),
    }
}

fn mutate(head: &mut BTreeMap<String, String>, mutation: &HeaderMutation) {
    for name in &mutation.remove_headers {
        head.remove(name);
    }
    for header in mutation.set_headers.iter().filter_map(|option| option.header.as_ref()) {
        let value = String::from_utf8(header.raw_value.clone()).unwrap();
        head.insert(header.key.clone(), value);
    }
}

/// Namespace, key and value of every string in dynamic metadata.
fn strings(metadata: &Struct) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for (namespace, value) in &metadata.fields {
        let Some(Kind::StructValue(fields)) = &value.kind else {
            continue;
        };
        for (key, value) in &fields.fields {
            if let Some(Kind::StringValue(text)) = &value.kind {
                all.push((namespace.clone(), key.clone(), text.clone()));
            }
        }
    }
    all
}
