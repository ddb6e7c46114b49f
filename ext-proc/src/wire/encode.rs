//! Envoy's replies.
//!
//! What must always hold: a message gets the reply that its body mode expects and no other; what a client sent under the
//! name of a control header goes no further; pieces in full duplex stay below 64 KiB.

use std::collections::VecDeque;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::{
    ProcessingMode, processing_mode::HeaderSendMode,
};
use envoy_types::pb::envoy::service::ext_proc::v3::TrailersResponse;
use envoy_types::pb::envoy::r#type::v3::HttpStatus;

use kthena_scheduler::exchange::{CONTROL_HEADERS, Header, LocalReply, header};

use crate::wire::body::Body;
use crate::wire::fields::Fields;
use crate::wire::message::{
    CommonResponse, HeaderMutation, HeaderValue, HeaderValueOption, ImmediateResponse, Mutation, PartResponse,
    ProcessingResponse, Reply, StreamedBodyResponse,
};

/// Envoy refuses pieces of 64 KiB and more in full duplex.
const LARGEST_PIECE: usize = 62_000;

/// The replies that wait to be sent, in order.
#[derive(Debug, Default)]
pub struct Replies(VecDeque<ProcessingResponse>);

/// How a request goes on.
#[derive(Debug, Default)]
pub struct Change {
    /// Headers to set.
    pub headers: Vec<Header>,
    /// The body in place of the buffered one.
    pub body: Option<Body>,
    /// Whether the route must be matched again.
    pub reroute: bool,
    /// The destination list, for the load balancer.
    pub destinations: Option<String>,
    /// Facts for the access log.
    pub facts: Vec<(&'static str, String)>,
}

/// Which of Envoy's messages a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The head of the request.
    RequestHeaders,
    /// The buffered body of the request.
    RequestBody,
}

/// One direction of a full-duplex or streamed body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards the model server.
    Request,
    /// Towards the client.
    Response,
}

// === impl Replies ===

impl Replies {
    /// The next to send.
    pub fn pop(&mut self) -> Option<ProcessingResponse> {
        self.0.pop_front()
    }

    /// The head goes on as it is, the body is awaited.
    pub fn continue_headers(&mut self) {
        self.push(Reply::RequestHeaders(PartResponse::default()), None);
    }

    /// The buffered body goes on as it is.
    pub fn continue_body(&mut self) {
        self.push(Reply::RequestBody(PartResponse::default()), None);
    }

    /// The request goes on, changed.
    pub fn change(&mut self, to: To, change: Change) {
        // Envoy holds the body that we send against the length that the head tells, and an engine may refuse a body
        // without a length.
        let length = change.body.as_ref().map(|body| Header {
            name: "content-length",
            value: body.len().to_string(),
        });
        let set_headers = set(change.headers.into_iter().chain(length));
        let common = CommonResponse {
            header_mutation: Some(HeaderMutation {
                remove_headers: removed(&set_headers),
                set_headers,
            }),
            body_mutation: change.body.map(Mutation::Body),
            clear_route_cache: change.reroute,
        };
        let part = PartResponse { response: Some(common) };
        let response = match to {
            To::RequestHeaders => Reply::RequestHeaders(part),
            To::RequestBody => Reply::RequestBody(part),
        };
        self.push(response, metadata(change.destinations, change.facts));
    }

    /// The request is not ours: only control headers are removed. Its body need not come to us, where Envoy is
    /// configured to listen to that.
    pub fn pass(&mut self, reroute: bool) {
        self.change(
            To::RequestHeaders,
            Change {
                reroute,
                ..Change::default()
            },
        );
        if let Some(reply) = self.0.back_mut() {
            reply.mode_override = Some(ProcessingMode {
                response_header_mode: HeaderSendMode::Skip as i32,
                request_trailer_mode: HeaderSendMode::Skip as i32,
                response_trailer_mode: HeaderSendMode::Skip as i32,
                ..ProcessingMode::default()
            });
        }
    }

    /// Bytes that go on in full duplex, cut into pieces that Envoy takes.
    pub fn stream(&mut self, direction: Direction, mut body: Body, end: bool) {
        loop {
            let piece = body.split_to(LARGEST_PIECE);
            self.piece(direction, piece, end && body.is_empty());
            if body.is_empty() {
                return;
            }
        }
    }

    fn piece(&mut self, direction: Direction, body: Body, end_of_stream: bool) {
        let streamed = StreamedBodyResponse { body, end_of_stream };
        self.body(direction, Some(Mutation::StreamedResponse(streamed)));
    }

    /// The answer to one chunk in streamed mode; `None` lets it go on as it is.
    pub fn chunk(&mut self, replaced: Option<Body>) {
        self.body(Direction::Response, replaced.map(Mutation::Body));
    }

    fn body(&mut self, direction: Direction, mutation: Option<Mutation>) {
        let response = mutation.map(|mutation| CommonResponse {
            body_mutation: Some(mutation),
            ..CommonResponse::default()
        });
        let part = PartResponse { response };
        self.push(
            match direction {
                Direction::Request => Reply::RequestBody(part),
                Direction::Response => Reply::ResponseBody(part),
            },
            None,
        );
    }

    /// Trailers go on as they are.
    pub fn trailers(&mut self, direction: Direction) {
        let trailers = TrailersResponse::default();
        self.push(
            match direction {
                Direction::Request => Reply::RequestTrailers(trailers),
                Direction::Response => Reply::ResponseTrailers(trailers),
            },
            None,
        );
    }

    /// The answer's head goes on with these headers set. Where the stream counts the request, the access log is told
    /// not to.
    pub fn response_headers(&mut self, headers: Vec<Header>, counted_here: bool) {
        let response = (!headers.is_empty()).then(|| CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers: set(headers),
                ..HeaderMutation::default()
            }),
            ..CommonResponse::default()
        });
        self.push(
            Reply::ResponseHeaders(PartResponse { response }),
            metadata(None, counted_here.then(counted).into_iter().collect()),
        );
    }

    /// The request ends with this answer.
    pub fn respond(&mut self, reply: LocalReply, facts: Vec<(&'static str, String)>) {
        let json = Header {
            name: "content-type",
            value: "application/json".to_owned(),
        };
        let immediate = ImmediateResponse {
            status: Some(HttpStatus {
                code: i32::from(reply.status),
            }),
            headers: Some(HeaderMutation {
                set_headers: set(std::iter::once(json).chain(reply.headers)),
                ..HeaderMutation::default()
            }),
            body: reply.body.into(),
            details: format!("kthena_{}", reply.details),
        };
        let facts = facts.into_iter().chain([counted()]).collect();
        self.push(Reply::Immediate(immediate), metadata(None, facts));
    }

    fn push(&mut self, response: Reply, dynamic_metadata: Option<Fields>) {
        self.0.push_back(ProcessingResponse {
            response: Some(response),
            dynamic_metadata,
            ..ProcessingResponse::default()
        });
    }
}

/// Tells the access log that the stream counts the request.
fn counted() -> (&'static str, String) {
    ("counted", "stream".to_owned())
}

fn set(headers: impl IntoIterator<Item = Header>) -> Vec<HeaderValueOption> {
    let option = |Header { name, value }| HeaderValueOption {
        header: Some(HeaderValue {
            key: Bytes::from_static(name.as_bytes()),
            raw_value: value.into(),
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
    };
    headers.into_iter().map(option).collect()
}

/// Control headers that a client may have sent and that we do not set.
fn removed(set: &[HeaderValueOption]) -> Vec<Bytes> {
    let is_set = |name: &str| {
        set.iter()
            .any(|option| option.header.as_ref().is_some_and(|h| h.key == name))
    };
    CONTROL_HEADERS
        .iter()
        .filter(|name| !is_set(name))
        .map(|name| Bytes::from_static(name.as_bytes()))
        .collect()
}

/// Dynamic metadata: the destination list where the load balancer reads it, our own facts beside it.
fn metadata(destinations: Option<String>, facts: Vec<(&'static str, String)>) -> Option<Fields> {
    let lb = destinations.map(|list| ("envoy.lb", Fields::of_texts([(header::DESTINATION, list)])));
    let ours = (!facts.is_empty()).then(|| ("kthena", Fields::of_texts(facts)));
    let namespaces = Fields::of_namespaces(lb.into_iter().chain(ours));
    (!namespaces.is_empty()).then_some(namespaces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(replies: &mut Replies) -> Vec<(usize, bool)> {
        std::iter::from_fn(|| replies.pop())
            .filter_map(|reply| match reply.response? {
                Reply::RequestBody(body) => match body.response?.body_mutation? {
                    Mutation::StreamedResponse(piece) => Some((piece.body.len(), piece.end_of_stream)),
                    _ => None,
                },
                _ => None,
            })
            .collect()
    }

    #[test]
    fn full_duplex_bodies_go_in_pieces_and_end_once() {
        let mut replies = Replies::default();
        replies.stream(Direction::Request, vec![b'x'; 2 * LARGEST_PIECE + 1].into(), true);
        assert_eq!(
            bodies(&mut replies),
            [(LARGEST_PIECE, false), (LARGEST_PIECE, false), (1, true)]
        );
        replies.stream(Direction::Request, Body::default(), true);
        assert_eq!(bodies(&mut replies), [(0, true)]);
    }

    #[test]
    fn a_control_header_is_set_or_removed_never_left() {
        let mut replies = Replies::default();
        let cluster = Header {
            name: header::CLUSTER,
            value: "c".into(),
        };
        replies.change(
            To::RequestHeaders,
            Change {
                headers: vec![cluster],
                ..Change::default()
            },
        );
        let Some(Reply::RequestHeaders(headers)) = replies.pop().and_then(|r| r.response) else {
            panic!()
        };
        let mutation = headers.response.unwrap().header_mutation.unwrap();
        assert_eq!(
            mutation.set_headers.len() + mutation.remove_headers.len(),
            CONTROL_HEADERS.len()
        );
        assert!(!mutation.remove_headers.iter().any(|name| name == header::CLUSTER));
    }
}
