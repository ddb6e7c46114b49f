//! Envoy's access-log entries as facts about a finished request.

use envoy_types::pb::envoy::config::core::v3::{Address, address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::data::accesslog::v3::HttpAccessLogEntry;
use envoy_types::pb::envoy::service::accesslog::v3::{StreamAccessLogsMessage, stream_access_logs_message::LogEntries};
use envoy_types::pb::google::protobuf::{Duration, Struct, value::Kind};

use kthena_scheduler::response::Usage;

use crate::wire::decode::served_in;

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
pub struct Facts(Option<Struct>);

impl Facts {
    /// One of them.
    pub fn get(&self, name: &str) -> Option<&str> {
        text(self.0.as_ref()?, name)
    }
}

fn text<'a>(fields: &'a Struct, name: &str) -> Option<&'a str> {
    match &fields.fields.get(name)?.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

/// Tokens as a metadata filter stored them: a number, or its digits.
fn tokens(fields: Option<&Struct>, name: &str) -> Option<u64> {
    match &fields?.fields.get(name)?.kind {
        Some(Kind::NumberValue(number)) if *number >= 0.0 && number.is_finite() => Some(*number as u64),
        Some(Kind::StringValue(digits)) => digits.parse().ok(),
        _ => None,
    }
}

/// Anthropic's form counts what was read from the cache, or written to it, apart from the input; the other forms never say so.
fn used(usage: Option<&Struct>) -> Usage {
    let apart = |name| tokens(usage, name).unwrap_or_default();
    let apart = apart("cache_read_tokens").saturating_add(apart("cache_creation_tokens"));
    Usage {
        input_tokens: tokens(usage, "input_tokens").map(|input| input.saturating_add(apart)),
        output_tokens: tokens(usage, "output_tokens"),
        cached_tokens: tokens(usage, "cached_tokens"),
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

/// The finished requests that a message tells of.
pub fn entries(message: StreamAccessLogsMessage) -> Vec<Finished> {
    match message.log_entries {
        Some(LogEntries::HttpLogs(logs)) => logs.log_entry.into_iter().map(finished).collect(),
        _ => Vec::new(),
    }
}

fn finished(entry: HttpAccessLogEntry) -> Finished {
    let common = entry.common_properties.unwrap_or_default();
    let response = entry.response.unwrap_or_default();
    let request = entry.request.unwrap_or_default();
    let status = response
        .response_code
        .and_then(|code| u16::try_from(code.value).ok())
        .unwrap_or(0);
    let metadata = common.metadata.unwrap_or_default();
    let usage = metadata.filter_metadata.get("kthena.usage");
    let served = served_in(&metadata).or_else(|| address(common.upstream_remote_address.as_ref()));
    Finished {
        usage: used(usage),
        facts: Facts(metadata.filter_metadata.get("kthena").cloned()),
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
    use envoy_types::pb::google::protobuf::Value;

    use super::*;

    fn usage(counts: &[(&str, f64)]) -> Usage {
        let value = |number| Value {
            kind: Some(Kind::NumberValue(number)),
        };
        let fields = counts.iter().map(|(name, count)| ((*name).to_owned(), value(*count)));
        used(Some(&Struct {
            fields: fields.collect(),
        }))
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
