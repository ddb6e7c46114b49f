//! The messages of ext_proc as this server reads and writes them.
//!
//! They are those of `envoy-types`, and are made of them, but where a body is, or much: there the bytes of a request are a slice of the
//! message that was received, and those that go back are written from where they lie ([`Body`]). Names and values that we write are
//! declared as bytes, which on the wire is what text is. A field that is not read is not declared, which to protobuf is the same as one
//! it does not know. What must always hold: names, numbers and types are those of
//! `envoy/service/ext_proc/v3/external_processor.proto`; the test below reads ours as theirs, and theirs as ours.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::ProcessingMode;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpHeaders, HttpTrailers, ProtocolConfiguration, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use prost::encoding::{self, DecodeContext, WireType, check_wire_type, decode_varint, skip_field};
use prost::{DecodeError, Message, Oneof};

use crate::wire::body::Body;
use crate::wire::fields::{Fields, Metadata};
use crate::wire::frames::Outgoing;

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

/// The only message that is read by hand: its bytes stay where they were received.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct HttpBody {
    pub(super) body: Body,
    pub(super) end_of_stream: bool,
}

/// What Envoy is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProcessingResponse {
    pub(super) dynamic_metadata: Option<Fields>,
    pub(super) mode_override: Option<ProcessingMode>,
    pub(crate) response: Option<Reply>,
}

/// The message of Envoy's that is answered, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Reply {
    RequestHeaders(PartResponse),
    ResponseHeaders(PartResponse),
    RequestBody(PartResponse),
    ResponseBody(PartResponse),
    RequestTrailers(TrailersResponse),
    ResponseTrailers(TrailersResponse),
    Immediate(ImmediateResponse),
}

/// `HeadersResponse` and `BodyResponse`, which have the same form.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PartResponse {
    pub(crate) response: Option<CommonResponse>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CommonResponse {
    pub(crate) header_mutation: Option<HeaderMutation>,
    pub(crate) body_mutation: Option<Mutation>,
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

/// `BodyMutation`, which is one of these.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mutation {
    Body(Body),
    StreamedResponse(StreamedBodyResponse),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StreamedBodyResponse {
    pub(crate) body: Body,
    pub(crate) end_of_stream: bool,
}

// === impl HttpBody ===

impl Message for HttpBody {
    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        message: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => {
                check_wire_type(WireType::LengthDelimited, wire_type)?;
                let len = usize::try_from(decode_varint(message)?).unwrap_or(usize::MAX);
                self.body = Body::take_from(message, len);
                // Fails: one byte is announced, none follows.
                let is_cut = self.body.len() < len;
                if is_cut {
                    skip_field(wire_type, tag, &mut [1].as_slice(), context)
                } else {
                    Ok(())
                }
            }
            2 => encoding::bool::merge(wire_type, &mut self.end_of_stream, message, context),
            _ => skip_field(wire_type, tag, message, context),
        }
    }

    fn encode_raw(&self, message: &mut impl BufMut) {
        encoding::encode_key(1, WireType::LengthDelimited, message);
        encoding::encode_varint(self.body.len() as u64, message);
        self.body.slices().iter().for_each(|slice| message.put_slice(slice));
        write_flag(2, self.end_of_stream, message);
    }

    fn encoded_len(&self) -> usize {
        field_len(self.body.len()) + flag_len(self.end_of_stream)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

// === impl ProcessingResponse ===

/// A body is the last thing in its message, whatever the numbers of the fields are: protobuf lets fields come in any order. So the
/// bytes that are to be written before it are known, and it can follow from where it lies.
impl Outgoing for ProcessingResponse {
    fn write(self, head: &mut BytesMut) -> Body {
        if let Some(metadata) = &self.dynamic_metadata {
            encoding::message::encode(8, metadata, head);
        }
        if let Some(modes) = &self.mode_override {
            encoding::message::encode(9, modes, head);
        }
        match self.response {
            Some(Reply::RequestHeaders(part)) => part.write(1, head),
            Some(Reply::ResponseHeaders(part)) => part.write(2, head),
            Some(Reply::RequestBody(part)) => part.write(3, head),
            Some(Reply::ResponseBody(part)) => part.write(4, head),
            Some(Reply::RequestTrailers(trailers)) => only(5, &trailers, head),
            Some(Reply::ResponseTrailers(trailers)) => only(6, &trailers, head),
            Some(Reply::Immediate(immediate)) => only(7, &immediate, head),
            None => Body::default(),
        }
    }
}

fn only(tag: u32, message: &impl Message, head: &mut BytesMut) -> Body {
    encoding::message::encode(tag, message, head);
    Body::default()
}

/// Begins a field of so many bytes.
fn begin(tag: u32, len: usize, head: &mut BytesMut) {
    encoding::encode_key(tag, WireType::LengthDelimited, head);
    encoding::encode_varint(len as u64, head);
}

/// The length of a field of so many bytes. All of our tags take one byte.
fn field_len(len: usize) -> usize {
    1 + encoding::encoded_len_varint(len as u64) + len
}

/// The length of a flag, which is not written where it is not set.
fn flag_len(flag: bool) -> usize {
    if flag { 2 } else { 0 }
}

fn write_flag(tag: u32, flag: bool, head: &mut impl BufMut) {
    if flag {
        encoding::bool::encode(tag, &flag, head);
    }
}

impl PartResponse {
    fn write(self, tag: u32, head: &mut BytesMut) -> Body {
        let Some(common) = self.response else {
            begin(tag, 0, head);
            return Body::default();
        };
        let len = common.len();
        begin(tag, field_len(len), head);
        begin(1, len, head);
        common.write(head)
    }
}

impl CommonResponse {
    fn len(&self) -> usize {
        let headers = self
            .header_mutation
            .as_ref()
            .map_or(0, |headers| field_len(headers.encoded_len()));
        let body = self
            .body_mutation
            .as_ref()
            .map_or(0, |mutation| field_len(mutation.len()));
        headers + body + flag_len(self.clear_route_cache)
    }

    fn write(self, head: &mut BytesMut) -> Body {
        if let Some(headers) = &self.header_mutation {
            encoding::message::encode(2, headers, head);
        }
        write_flag(5, self.clear_route_cache, head);
        let Some(mutation) = self.body_mutation else {
            return Body::default();
        };
        begin(3, mutation.len(), head);
        mutation.write(head)
    }
}

impl Mutation {
    fn len(&self) -> usize {
        match self {
            Self::Body(body) => field_len(body.len()),
            Self::StreamedResponse(streamed) => field_len(streamed.len()),
        }
    }

    fn write(self, head: &mut BytesMut) -> Body {
        let body = match self {
            Self::Body(body) => body,
            Self::StreamedResponse(streamed) => {
                begin(3, streamed.len(), head);
                write_flag(2, streamed.end_of_stream, head);
                streamed.body
            }
        };
        begin(1, body.len(), head);
        body
    }
}

impl StreamedBodyResponse {
    fn len(&self) -> usize {
        field_len(self.body.len()) + flag_len(self.end_of_stream)
    }
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
        let mut written = BytesMut::new();
        let body = ours.write(&mut written);
        written.extend_from_slice(&body.into_bytes());
        theirs::ProcessingResponse::decode(written).unwrap()
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
            body: Bytes::from_static(b"bytes").into(),
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
            let written = read(&message).encode_to_vec();
            let expected = ProcessingRequest {
                metadata_context: Some(Metadata::default()),
                protocol_config: message.protocol_config,
                request: Some(ours),
            };
            assert_eq!(read(&message), expected);
            assert_eq!(
                ProcessingRequest::decode(written.as_slice()),
                Ok(expected),
                "written as read"
            );
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
                    body,
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
                    body_mutation: Some(ours),
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
