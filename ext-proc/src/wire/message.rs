//! The messages of ext_proc as this server reads and writes them.
//!
//! They are those of `envoy-types`, and are made of them, but where a body is, or much: there the bytes of a request are a slice of the
//! message that was received, and those that go back are written from where they lie ([`Body`]). Names and values that we write are
//! declared as bytes, which on the wire is what text is. A field that is not read is not declared, which to protobuf is the same as one
//! it does not know. What must always hold: names, numbers and types are those of
//! `envoy/service/ext_proc/v3/external_processor.proto`; the test below reads ours as theirs, and theirs as ours.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpHeaders, HttpTrailers, ProtocolConfiguration, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use prost::{Message, Oneof};

use crate::wire::body::Body;
use crate::wire::fields::{Fields, Metadata};

/// What Envoy sends.
#[derive(Clone, PartialEq, Message)]
pub struct ProcessingRequest {
    #[prost(message, optional, tag = "8")]
    pub(super) metadata_context: Option<Metadata>,
    #[prost(message, optional, tag = "11")]
    pub(super) protocol_config: Option<ProtocolConfiguration>,
    #[prost(oneof = "RequestPart", tags = "2, 3, 4, 5, 6, 7")]
    pub(super) request: Option<RequestPart>,
}

/// The part of a request or an answer that a message brings.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum RequestPart {
    #[prost(message, tag = "2")]
    RequestHeaders(HttpHeaders),
    #[prost(message, tag = "3")]
    ResponseHeaders(HttpHeaders),
    #[prost(message, tag = "4")]
    RequestBody(HttpBody),
    #[prost(message, tag = "5")]
    ResponseBody(HttpBody),
    #[prost(message, tag = "6")]
    RequestTrailers(HttpTrailers),
    #[prost(message, tag = "7")]
    ResponseTrailers(HttpTrailers),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HttpBody {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) body: Bytes,
    #[prost(bool, tag = "2")]
    pub(super) end_of_stream: bool,
}

/// What Envoy is told.
#[derive(Clone, PartialEq, Message)]
pub struct ProcessingResponse {
    #[prost(message, optional, tag = "8")]
    pub(super) dynamic_metadata: Option<Fields>,
    #[prost(message, optional, tag = "9")]
    pub(super) mode_override: Option<ProcessingMode>,
    #[prost(oneof = "Reply", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub(crate) response: Option<Reply>,
}

/// The message of Envoy's that is answered, and how.
#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Reply {
    #[prost(message, tag = "1")]
    RequestHeaders(PartResponse),
    #[prost(message, tag = "2")]
    ResponseHeaders(PartResponse),
    #[prost(message, tag = "3")]
    RequestBody(PartResponse),
    #[prost(message, tag = "4")]
    ResponseBody(PartResponse),
    #[prost(message, tag = "5")]
    RequestTrailers(TrailersResponse),
    #[prost(message, tag = "6")]
    ResponseTrailers(TrailersResponse),
    #[prost(message, tag = "7")]
    Immediate(ImmediateResponse),
}

/// `HeadersResponse` and `BodyResponse`, which have the same form.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct PartResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) response: Option<CommonResponse>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct CommonResponse {
    #[prost(message, optional, tag = "2")]
    pub(crate) header_mutation: Option<HeaderMutation>,
    #[prost(message, optional, tag = "3")]
    pub(crate) body_mutation: Option<BodyMutation>,
    #[prost(bool, tag = "5")]
    pub(super) clear_route_cache: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeaderMutation {
    #[prost(message, repeated, tag = "1")]
    pub(crate) set_headers: Vec<HeaderValueOption>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) remove_headers: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<HeaderValue>,
    #[prost(enumeration = "HeaderAppendAction", tag = "3")]
    pub(super) append_action: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HeaderValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) key: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) raw_value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ImmediateResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<HttpStatus>,
    #[prost(message, optional, tag = "2")]
    pub(super) headers: Option<HeaderMutation>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) body: Bytes,
    #[prost(string, tag = "5")]
    pub(super) details: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BodyMutation {
    #[prost(oneof = "Mutation", tags = "1, 3")]
    pub(crate) mutation: Option<Mutation>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Mutation {
    #[prost(message, tag = "1")]
    Body(Body),
    #[prost(message, tag = "3")]
    StreamedResponse(StreamedBodyResponse),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StreamedBodyResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) body: Option<Body>,
    #[prost(bool, tag = "2")]
    pub(crate) end_of_stream: bool,
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3 as envoy;
    use envoy_types::pb::envoy::service::ext_proc::v3 as theirs;
    use envoy_types::pb::google::protobuf::Struct;

    use super::*;

    fn read(theirs: &theirs::ProcessingRequest) -> ProcessingRequest {
        ProcessingRequest::decode(theirs.encode_to_vec().as_slice()).unwrap()
    }

    fn told(response: Reply) -> theirs::ProcessingResponse {
        let ours = ProcessingResponse {
            response: Some(response),
            dynamic_metadata: Some(Fields::default()),
            mode_override: Some(ProcessingMode {
                request_trailer_mode: 2,
                ..ProcessingMode::default()
            }),
        };
        theirs::ProcessingResponse::decode(ours.encode_to_vec().as_slice()).unwrap()
    }

    fn their_header() -> envoy::HeaderValue {
        envoy::HeaderValue {
            key: "a".into(),
            raw_value: b"b".to_vec(),
            ..envoy::HeaderValue::default()
        }
    }

    fn headers() -> HttpHeaders {
        HttpHeaders {
            headers: Some(envoy::HeaderMap {
                headers: vec![their_header()],
            }),
            end_of_stream: true,
            ..HttpHeaders::default()
        }
    }

    fn header_mutations() -> (HeaderMutation, theirs::HeaderMutation) {
        let append_action = HeaderAppendAction::OverwriteIfExistsOrAdd as i32;
        let ours = HeaderMutation {
            set_headers: vec![HeaderValueOption {
                header: Some(HeaderValue {
                    key: Bytes::from_static(b"a"),
                    raw_value: Bytes::from_static(b"b"),
                }),
                append_action,
            }],
            remove_headers: vec![Bytes::from_static(b"x")],
        };
        let theirs = theirs::HeaderMutation {
            set_headers: vec![envoy::HeaderValueOption {
                header: Some(their_header()),
                append_action,
                ..envoy::HeaderValueOption::default()
            }],
            remove_headers: vec!["x".into()],
        };
        (ours, theirs)
    }

    #[test]
    fn what_envoy_sends_is_read_as_it_is_meant() {
        use theirs::processing_request::Request;
        let body = theirs::HttpBody {
            body: b"bytes".to_vec(),
            end_of_stream: true,
            ..theirs::HttpBody::default()
        };
        let ours = HttpBody {
            body: Bytes::from_static(b"bytes"),
            end_of_stream: true,
        };
        let trailers = HttpTrailers::default();
        let parts = [
            (
                Request::RequestHeaders(headers()),
                RequestPart::RequestHeaders(headers()),
            ),
            (
                Request::ResponseHeaders(headers()),
                RequestPart::ResponseHeaders(headers()),
            ),
            (
                Request::RequestBody(body.clone()),
                RequestPart::RequestBody(ours.clone()),
            ),
            (Request::ResponseBody(body), RequestPart::ResponseBody(ours)),
            (
                Request::RequestTrailers(trailers.clone()),
                RequestPart::RequestTrailers(trailers.clone()),
            ),
            (
                Request::ResponseTrailers(trailers.clone()),
                RequestPart::ResponseTrailers(trailers),
            ),
        ];
        for (theirs, ours) in parts {
            let message = theirs::ProcessingRequest {
                metadata_context: Some(envoy::Metadata::default()),
                protocol_config: Some(ProtocolConfiguration {
                    request_body_mode: 2,
                    response_body_mode: 4,
                    ..ProtocolConfiguration::default()
                }),
                observability_mode: true,
                request: Some(theirs),
                ..theirs::ProcessingRequest::default()
            };
            let expected = ProcessingRequest {
                metadata_context: Some(Metadata::default()),
                protocol_config: message.protocol_config,
                request: Some(ours),
            };
            assert_eq!(read(&message), expected);
        }
    }

    #[test]
    fn what_we_say_is_what_envoy_reads() {
        use theirs::processing_response::Response;
        let mut body = Body::from(b"by".to_vec());
        body.push(Bytes::from_static(b"tes"));
        let mutations = [
            (
                Mutation::Body(body.clone()),
                theirs::body_mutation::Mutation::Body(b"bytes".to_vec()),
            ),
            (
                Mutation::StreamedResponse(StreamedBodyResponse {
                    body: Some(body),
                    end_of_stream: true,
                }),
                theirs::body_mutation::Mutation::StreamedResponse(theirs::StreamedBodyResponse {
                    body: b"bytes".to_vec(),
                    end_of_stream: true,
                    ..theirs::StreamedBodyResponse::default()
                }),
            ),
        ];
        for (ours, theirs) in mutations {
            let (mutation, their_mutation) = header_mutations();
            let part = PartResponse {
                response: Some(CommonResponse {
                    header_mutation: Some(mutation),
                    body_mutation: Some(BodyMutation { mutation: Some(ours) }),
                    clear_route_cache: true,
                }),
            };
            let response = Some(theirs::CommonResponse {
                header_mutation: Some(their_mutation),
                body_mutation: Some(theirs::BodyMutation { mutation: Some(theirs) }),
                clear_route_cache: true,
                ..theirs::CommonResponse::default()
            });
            let head = theirs::HeadersResponse {
                response: response.clone(),
            };
            let body = theirs::BodyResponse { response };
            for (ours, theirs) in [
                (
                    Reply::RequestHeaders(part.clone()),
                    Response::RequestHeaders(head.clone()),
                ),
                (Reply::ResponseHeaders(part.clone()), Response::ResponseHeaders(head)),
                (Reply::RequestBody(part.clone()), Response::RequestBody(body.clone())),
                (Reply::ResponseBody(part), Response::ResponseBody(body)),
            ] {
                let read = told(ours);
                assert_eq!(read.response, Some(theirs));
                assert_eq!(read.dynamic_metadata, Some(Struct::default()));
                assert_eq!(read.mode_override.map(|mode| mode.request_trailer_mode), Some(2));
            }
        }
        let trailers = TrailersResponse::default();
        let (headers, their_headers) = header_mutations();
        let status = Some(HttpStatus { code: 429 });
        let immediate = ImmediateResponse {
            status,
            headers: Some(headers),
            body: Bytes::from_static(b"no"),
            details: "d".into(),
        };
        let their_immediate = theirs::ImmediateResponse {
            status,
            headers: Some(their_headers),
            body: b"no".to_vec(),
            details: "d".into(),
            ..theirs::ImmediateResponse::default()
        };
        for (ours, theirs) in [
            (
                Reply::RequestTrailers(trailers.clone()),
                Response::RequestTrailers(trailers.clone()),
            ),
            (
                Reply::ResponseTrailers(trailers.clone()),
                Response::ResponseTrailers(trailers),
            ),
            (
                Reply::Immediate(immediate),
                Response::ImmediateResponse(their_immediate),
            ),
        ] {
            assert_eq!(told(ours).response, Some(theirs));
        }
    }
}
