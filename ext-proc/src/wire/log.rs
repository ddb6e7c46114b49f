//! Envoy's access-log entries as facts about a finished request.

use bytes::BytesMut;
use envoy_types::pb::envoy::config::core::v3::{Address, address, socket_address::PortSpecifier};
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use prost::Message;

use kthena_scheduler::response::Usage;

use crate::wire::body::Body;
use crate::wire::decode::served_in;
use crate::wire::fields::{Fields, Metadata};
use crate::wire::frames::Outgoing;

/// `StreamAccessLogsMessage`, as far as it is read.
#[derive(Clone, PartialEq, Message)]
pub struct Logs {
    #[prost(message, optional, tag = "2")]
    http_logs: Option<Entries>,
}

#[derive(Clone, PartialEq, Message)]
struct Entries {
    #[prost(message, repeated, tag = "1")]
    log_entry: Vec<Entry>,
}

/// `HTTPAccessLogEntry`.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(message, optional, tag = "1")]
    common_properties: Option<Common>,
    #[prost(message, optional, tag = "3")]
    request: Option<Asked>,
    #[prost(message, optional, tag = "4")]
    response: Option<Answered>,
}

/// `AccessLogCommon`.
#[derive(Clone, PartialEq, Message)]
struct Common {
    #[prost(message, optional, tag = "9")]
    time_to_first_upstream_rx_byte: Option<Duration>,
    #[prost(message, optional, tag = "12")]
    time_to_last_downstream_tx_byte: Option<Duration>,
    #[prost(message, optional, tag = "13")]
    upstream_remote_address: Option<Address>,
    #[prost(message, optional, tag = "17")]
    metadata: Option<Metadata>,
}

/// `HTTPRequestProperties`.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(string, tag = "5")]
    path: String,
}

/// `HTTPResponseProperties`.
#[derive(Clone, PartialEq, Message)]
struct Answered {
    #[prost(message, optional, tag = "1")]
    response_code: Option<UInt32Value>,
    #[prost(string, tag = "6")]
    response_code_details: String,
}

/// `StreamAccessLogsResponse`, which says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Noted {}

impl Outgoing for Noted {
    fn write(self, _: &mut BytesMut) -> Body {
        Body::default()
    }
}

/// What one entry tells. Strings are empty where the entry did not say.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    /// Facts that we put into the request's dynamic metadata when it was decided.
    pub facts: Facts,
    /// The path without query.
    pub path: String,
    /// Status that the client saw.
    pub status: u16,
    /// Envoy's word for how the answer came about.
    pub details: String,
    /// `ip:port` that served.
    pub served: Option<String>,
    /// Tokens as the engine counted them, where metadata filters read them.
    pub usage: Usage,
    /// From the first byte of the request to the last of the answer, seconds.
    pub duration_s: Option<f64>,
    /// From the first byte of the request to the first of the answer, seconds.
    pub first_byte_s: Option<f64>,
}

/// Our own facts, as they came back.
#[derive(Clone, Debug, Default)]
pub struct Facts(Option<Fields>);

impl Facts {
    /// One of them.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.text(name)
    }
}

/// Anthropic's form counts what was read from the cache, or written to it, apart from the input; the other forms never say so.
fn used(usage: Option<&Fields>) -> Usage {
    let tokens = |name| usage?.count(name);
    let apart = |name| tokens(name).unwrap_or_default();
    let apart = apart("cache_read_tokens").saturating_add(apart("cache_creation_tokens"));
    Usage {
        input_tokens: tokens("input_tokens").map(|input| input.saturating_add(apart)),
        output_tokens: tokens("output_tokens"),
        cached_tokens: tokens("cached_tokens"),
    }
}

fn seconds(duration: Option<&Duration>) -> Option<f64> {
    duration.map(|d| d.seconds as f64 + f64::from(d.nanos) / 1e9)
}

fn address(address: Option<&Address>) -> Option<String> {
    let Some(address::Address::SocketAddress(socket)) = &address?.address else {
        return None;
    };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return None;
    };
    Some(if socket.address.contains(':') {
        format!("[{}]:{port}", socket.address)
    } else {
        format!("{}:{port}", socket.address)
    })
}

impl Logs {
    /// The finished requests that the message tells of.
    pub fn finished(self) -> impl Iterator<Item = Finished> {
        let entries = self.http_logs.unwrap_or_default().log_entry;
        entries.into_iter().map(finished)
    }
}

fn finished(entry: Entry) -> Finished {
    let common = entry.common_properties.unwrap_or_default();
    let response = entry.response.unwrap_or_default();
    let request = entry.request.unwrap_or_default();
    let status = response
        .response_code
        .and_then(|code| u16::try_from(code.value).ok())
        .unwrap_or(0);
    let mut metadata = common.metadata.unwrap_or_default();
    let served = served_in(&metadata).or_else(|| address(common.upstream_remote_address.as_ref()));
    Finished {
        usage: used(metadata.fields("kthena.usage")),
        facts: Facts(metadata.take("kthena")),
        path: request.path.split('?').next().unwrap_or_default().to_owned(),
        status,
        details: response.response_code_details,
        served,
        duration_s: seconds(common.time_to_last_downstream_tx_byte.as_ref()),
        first_byte_s: seconds(common.time_to_first_upstream_rx_byte.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::envoy::config::core::v3 as core;
    use envoy_types::pb::envoy::data::accesslog::v3 as data;
    use envoy_types::pb::envoy::service::accesslog::v3 as theirs;
    use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};

    use super::*;

    fn fields(fields: &[(&str, Kind)]) -> Struct {
        let value = |kind: &Kind| Value {
            kind: Some(kind.clone()),
        };
        let fields = fields.iter();
        Struct {
            fields: fields.map(|(name, kind)| ((*name).to_owned(), value(kind))).collect(),
        }
    }

    fn metadata(namespaces: &[(&str, Struct)]) -> core::Metadata {
        let namespaces = namespaces.iter();
        core::Metadata {
            filter_metadata: namespaces
                .map(|(name, fields)| ((*name).to_owned(), fields.clone()))
                .collect(),
            ..core::Metadata::default()
        }
    }

    /// What is read of an entry that Envoy sent.
    fn sent(entry: data::HttpAccessLogEntry) -> Finished {
        let entries = theirs::stream_access_logs_message::HttpAccessLogEntries { log_entry: vec![entry] };
        let message = theirs::StreamAccessLogsMessage {
            identifier: Some(theirs::stream_access_logs_message::Identifier::default()),
            log_entries: Some(theirs::stream_access_logs_message::LogEntries::HttpLogs(entries)),
        };
        let logs = Logs::decode(message.encode_to_vec().as_slice()).unwrap();
        logs.finished().next().unwrap()
    }

    #[test]
    fn an_entry_is_read_as_envoy_writes_it() {
        let text = |text: &str| Kind::StringValue(text.to_owned());
        let socket = core::SocketAddress {
            address: "10.0.0.1".to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(8000)),
            ..core::SocketAddress::default()
        };
        let common = data::AccessLogCommon {
            upstream_remote_address: Some(Address {
                address: Some(address::Address::SocketAddress(socket)),
            }),
            time_to_first_upstream_rx_byte: Some(Duration {
                seconds: 1,
                nanos: 500_000_000,
            }),
            time_to_last_downstream_tx_byte: Some(Duration { seconds: 2, nanos: 0 }),
            metadata: Some(metadata(&[("kthena", fields(&[("lease", text("a/7"))]))])),
            upstream_cluster: "c".to_owned(),
            ..data::AccessLogCommon::default()
        };
        let mut entry = data::HttpAccessLogEntry {
            common_properties: Some(common),
            request: Some(data::HttpRequestProperties {
                path: "/v1/completions?a=b".to_owned(),
                request_headers: HashMap::from([("x".to_owned(), "y".to_owned())]),
                ..data::HttpRequestProperties::default()
            }),
            response: Some(data::HttpResponseProperties {
                response_code: Some(UInt32Value { value: 503 }),
                response_code_details: "via_upstream".to_owned(),
                ..data::HttpResponseProperties::default()
            }),
            ..data::HttpAccessLogEntry::default()
        };
        let finished = sent(entry.clone());
        assert_eq!(finished.facts.get("lease"), Some("a/7"));
        assert_eq!((&*finished.path, finished.status), ("/v1/completions", 503));
        assert_eq!(finished.details, "via_upstream");
        assert_eq!(finished.served.as_deref(), Some("10.0.0.1:8000"));
        assert_eq!((finished.first_byte_s, finished.duration_s), (Some(1.5), Some(2.0)));

        let served = fields(&[("x-gateway-destination-endpoint-served", text("10.0.0.2:8000"))]);
        entry.common_properties.as_mut().unwrap().metadata = Some(metadata(&[("envoy.lb", served)]));
        assert_eq!(
            sent(entry).served.as_deref(),
            Some("10.0.0.2:8000"),
            "the host knows better"
        );
    }

    fn usage(counts: &[(&str, f64)]) -> Usage {
        let counts: Vec<_> = counts
            .iter()
            .map(|(name, count)| (*name, Kind::NumberValue(*count)))
            .collect();
        let common = data::AccessLogCommon {
            metadata: Some(metadata(&[("kthena.usage", fields(&counts))])),
            ..data::AccessLogCommon::default()
        };
        let entry = data::HttpAccessLogEntry {
            common_properties: Some(common),
            ..data::HttpAccessLogEntry::default()
        };
        sent(entry).usage
    }

    #[test]
    fn input_that_is_counted_apart_is_input() {
        let chat = usage(&[
            ("input_tokens", 371.0),
            ("output_tokens", 2.0),
            ("cached_tokens", 256.0),
        ]);
        let messages = usage(&[
            ("input_tokens", 51.0),
            ("output_tokens", 2.0),
            ("cached_tokens", 256.0),
            ("cache_read_tokens", 256.0),
            ("cache_creation_tokens", 64.0),
        ]);
        assert_eq!(chat, messages);
        assert_eq!(chat.input_tokens, Some(371));
        assert_eq!(
            usage(&[("cache_read_tokens", 9.0)]).input_tokens,
            None,
            "unknown stays unknown"
        );
    }
}
