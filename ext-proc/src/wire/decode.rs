//! Envoy's messages as events. Bodies and headers are moved out of the message, never copied.

use envoy_types::pb::envoy::config::core::v3::HeaderMap;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::HttpHeaders;

use kthena_scheduler::exchange::RequestHead;

use crate::wire::body::Body;
use crate::wire::fields::Metadata;
use crate::wire::message::{ProcessingRequest, RequestPart};
use crate::wire::modes::{BodyMode, Modes};

/// One message of Envoy.
#[derive(Debug)]
pub enum Event {
    /// The request's head.
    RequestHeaders {
        /// The head.
        head: RequestHead,
        /// No body follows.
        end: bool,
    },
    /// Bytes of the request body.
    RequestBody {
        /// The bytes.
        body: Body,
        /// The last of them.
        end: bool,
    },
    /// The request ended with trailers.
    RequestTrailers,
    /// The answer's head.
    ResponseHeaders {
        /// Status code; 0 when Envoy did not say.
        status: u16,
        /// Content type, possibly empty.
        content_type: String,
        /// The `ip:port` that served.
        served: Option<String>,
        /// No body follows.
        end: bool,
    },
    /// Bytes of the answer.
    ResponseBody {
        /// The bytes.
        body: Body,
        /// The last of them.
        end: bool,
    },
    /// The answer ended with trailers.
    ResponseTrailers,
    /// Nothing that we know.
    Other,
}

/// Reads a message; the modes are there on the first of a stream.
pub fn decode(message: ProcessingRequest) -> (Event, Option<Modes>) {
    let modes = message.protocol_config.as_ref().map(|config| Modes {
        request: body_mode(config.request_body_mode),
        response: body_mode(config.response_body_mode),
    });
    let metadata = message.metadata_context;
    let event = match message.request {
        Some(RequestPart::RequestHeaders(headers)) => {
            let end = headers.end_of_stream;
            Event::RequestHeaders {
                head: request_head(headers),
                end,
            }
        }
        Some(RequestPart::RequestBody(body)) => Event::RequestBody {
            body: body.body,
            end: body.end_of_stream,
        },
        Some(RequestPart::RequestTrailers(_)) => Event::RequestTrailers,
        Some(RequestPart::ResponseHeaders(headers)) => response_head(headers, metadata.as_ref()),
        Some(RequestPart::ResponseBody(body)) => Event::ResponseBody {
            body: body.body,
            end: body.end_of_stream,
        },
        Some(RequestPart::ResponseTrailers(_)) => Event::ResponseTrailers,
        None => Event::Other,
    };
    (event, modes)
}

fn body_mode(mode: i32) -> BodyMode {
    match BodySendMode::try_from(mode) {
        Ok(BodySendMode::Buffered) => BodyMode::Buffered,
        Ok(BodySendMode::Streamed) => BodyMode::Streamed,
        Ok(BodySendMode::FullDuplexStreamed) => BodyMode::FullDuplex,
        Ok(BodySendMode::BufferedPartial) => BodyMode::Partial,
        _ => BodyMode::None,
    }
}

/// Envoy fills `raw_value`; older hosts fill `value`.
fn fields(map: Option<HeaderMap>) -> impl Iterator<Item = (String, Vec<u8>)> {
    map.unwrap_or_default().headers.into_iter().map(|h| {
        (
            h.key,
            if h.raw_value.is_empty() {
                h.value.into_bytes()
            } else {
                h.raw_value
            },
        )
    })
}

fn text(value: Vec<u8>) -> String {
    String::from_utf8(value).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn request_head(headers: HttpHeaders) -> RequestHead {
    let mut head = RequestHead::default();
    for (name, value) in fields(headers.headers) {
        match name.as_str() {
            ":method" => head.method = text(value),
            ":path" => head.path = text(value),
            ":authority" => head.authority = text(value),
            _ if name.starts_with(':') => {}
            _ => head.headers.push((name, value)),
        }
    }
    head
}

fn response_head(headers: HttpHeaders, metadata: Option<&Metadata>) -> Event {
    let end = headers.end_of_stream;
    let (mut status, mut content_type) = (0, String::new());
    for (name, value) in fields(headers.headers) {
        match name.as_str() {
            ":status" => status = text(value).parse().unwrap_or(0),
            "content-type" => content_type = text(value),
            _ => {}
        }
    }
    let served = metadata.and_then(served_in);
    Event::ResponseHeaders {
        status,
        content_type,
        served,
        end,
    }
}

/// The endpoint that served, as the host writes it beside the one we asked for (endpoint picker protocol).
pub(super) fn served_in(metadata: &Metadata) -> Option<String> {
    let served = metadata
        .fields("envoy.lb")?
        .text("x-gateway-destination-endpoint-served")?;
    (!served.is_empty()).then(|| served.to_owned())
}
