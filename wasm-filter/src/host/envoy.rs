//! The host's interface on proxy-wasm ABI 0.2.1.
//!
//! What must always hold: what the host refuses is left undone and reported by value where the filter can act on it; the
//! SDK itself panics on answers that the ABI does not foresee, so calls are made only where the ABI allows them.

use std::time::{Duration, UNIX_EPOCH};

use prost::Message as _;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, LogLevel, MapType, MetricType};

use super::{Host, Level, MetricId, MetricKind};

const SERVICE: &str = "kthena.state.v1.State";
const METHOD: &str = "Subscribe";
/// Tries to change a shared counter that other workers change at the same time.
const COUNT_TRIES: u32 = 100;

/// Envoy, or another host of proxy-wasm.
#[derive(Clone, Copy, Debug, Default)]
pub struct Envoy;

/// Envoy's `DeclarePropertyArguments`, as far as it is needed.
#[derive(Clone, PartialEq, prost::Message)]
struct Declaration {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    kind: i32,
}

/// Its `WasmType.String`.
const TEXT: i32 = 1;

impl Host for Envoy {
    fn now(&self) -> u64 {
        let now = hostcalls::get_current_time().unwrap_or(UNIX_EPOCH);
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn log(&self, level: Level, line: &str) {
        let level = match level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        // A line that cannot be written has nowhere else to go.
        let _ = hostcalls::log(level, line);
    }

    fn logs(&self, level: Level) -> bool {
        let least = hostcalls::get_log_level().unwrap_or(LogLevel::Info) as u32;
        let own = match level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        least <= own as u32
    }

    fn tick_every(&self, ms: u64) {
        let _ = hostcalls::set_tick_period(Duration::from_millis(ms));
    }

    fn enter(&self, context: u32) {
        let _ = hostcalls::set_effective_context(context);
    }

    fn request_headers(&self) -> Vec<(String, Vec<u8>)> {
        hostcalls::get_map_bytes(MapType::HttpRequestHeaders).unwrap_or_default()
    }

    fn set_request_header(&self, name: &str, value: Option<&str>) {
        let _ = hostcalls::set_map_value(MapType::HttpRequestHeaders, name, value);
    }

    fn request_body(&self, from: usize, length: usize) -> Vec<u8> {
        let bytes = hostcalls::get_buffer(BufferType::HttpRequestBody, from, length);
        bytes.ok().flatten().unwrap_or_default()
    }

    fn replace_request_start(&self, length: usize, bytes: &[u8]) {
        let _ = hostcalls::set_buffer(BufferType::HttpRequestBody, 0, length, bytes);
    }

    fn clear_route(&self) {
        let _ = hostcalls::call_foreign_function("clear_route_cache", None);
    }

    fn resume(&self) {
        let _ = hostcalls::resume_http_request();
    }

    fn respond(&self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let _ = hostcalls::send_http_response(u32::from(status), headers.to_vec(), Some(body));
    }

    fn response_header(&self, name: &str) -> Option<String> {
        let value = hostcalls::get_map_value_bytes(MapType::HttpResponseHeaders, name);
        String::from_utf8(value.ok().flatten()?).ok()
    }

    fn set_response_header(&self, name: &str, value: &str) {
        let _ = hostcalls::set_map_value(MapType::HttpResponseHeaders, name, Some(value));
    }

    fn response_body(&self, from: usize, length: usize) -> Vec<u8> {
        let bytes = hostcalls::get_buffer(BufferType::HttpResponseBody, from, length);
        bytes.ok().flatten().unwrap_or_default()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        hostcalls::get_property(path.to_vec()).ok().flatten()
    }

    fn set_fact(&self, name: &str, value: &str) {
        let _ = hostcalls::set_property(vec![name], Some(value.as_bytes()));
    }

    fn declare_text(&self, name: &str) {
        let declared = Declaration {
            name: name.to_owned(),
            kind: TEXT,
        };
        // A host that cannot do that has no such expressions.
        let _ = hostcalls::call_foreign_function("declare_property", Some(&declared.encode_to_vec()));
    }

    fn open_stream(&self, cluster: &str) -> Option<u32> {
        hostcalls::open_grpc_stream(cluster, SERVICE, METHOD, Vec::new()).ok()
    }

    fn send(&self, stream: u32, message: &[u8]) -> bool {
        hostcalls::send_grpc_stream_message(stream, Some(message), false).is_ok()
    }

    fn close_stream(&self, stream: u32) {
        let _ = hostcalls::cancel_grpc_stream(stream);
    }

    fn shared(&self, key: &str) -> Option<Vec<u8>> {
        hostcalls::get_shared_data(key).ok()?.0
    }

    fn share(&self, key: &str, value: &[u8]) {
        let _ = hostcalls::set_shared_data(key, Some(value), None);
    }

    fn count_shared(&self, key: &str) -> u64 {
        for _ in 0..COUNT_TRIES {
            let (value, version) = hostcalls::get_shared_data(key).unwrap_or_default();
            let before = value.and_then(|value| Some(u64::from_le_bytes(value.try_into().ok()?)));
            let next = before.unwrap_or(0).wrapping_add(1);
            if hostcalls::set_shared_data(key, Some(&next.to_le_bytes()), version).is_ok() {
                return next;
            }
        }
        0
    }

    fn define(&self, kind: MetricKind, name: &str) -> MetricId {
        let kind = match kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
        };
        MetricId(hostcalls::define_metric(kind, name).unwrap_or_default())
    }

    fn add(&self, metric: MetricId, by: i64) {
        let _ = hostcalls::increment_metric(metric.0, by);
    }
}
