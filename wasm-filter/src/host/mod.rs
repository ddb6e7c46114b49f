//! What the filter needs of its host, and nothing of how the host says it.
//!
//! The one interface between the filter and proxy-wasm: `envoy` carries it out on the real host, [`fake`] in tests. What
//! must always hold: no type of the SDK appears in it, so that another host costs one file. Calls about a request refer to
//! the request whose event is being handled, or to the one named by [`Host::enter`].

#[cfg(target_family = "wasm")]
pub mod envoy;
#[cfg(not(target_family = "wasm"))]
pub mod fake;

/// How loud a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever follows decisions.
    Debug,
    /// What happens now and then.
    Info,
    /// What an operator should look at.
    Warn,
    /// What keeps the filter from its work.
    Error,
}

/// What becomes of a request after one of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It goes on.
    Continue,
    /// It stays until the filter lets it go, or the rest of its body arrives.
    Pause,
}

/// Identifies a metric that the host keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricId(pub u32);

/// What a metric of the host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down; VMs that share a name share the sum.
    Gauge,
}

/// The host of one VM.
pub trait Host {
    /// Nanoseconds since the Unix epoch.
    fn now(&self) -> u64;
    /// Writes a line to the host's log.
    fn log(&self, level: Level, line: &str);
    /// Whether lines of this level are written at all.
    fn logs(&self, level: Level) -> bool;
    /// Asks for a tick every so many milliseconds.
    fn tick_every(&self, ms: u64);
    /// Makes the calls that follow refer to this context.
    fn enter(&self, context: u32);

    /// All headers of the request, names in lower case, pseudo headers included.
    fn request_headers(&self) -> Vec<(String, Vec<u8>)>;
    /// Sets a header of the request; `None` removes it.
    fn set_request_header(&self, name: &str, value: Option<&str>);
    /// Bytes of the request body as far as it is buffered.
    fn request_body(&self, from: usize, length: usize) -> Vec<u8>;
    /// Puts `bytes` in place of the first `length` bytes of the buffered request body.
    fn replace_request_start(&self, length: usize, bytes: &[u8]);
    /// Lets the host match the route anew.
    fn clear_route(&self);
    /// Lets a held request go on, outside of its own events.
    fn resume(&self);
    /// Answers the request.
    fn respond(&self, status: u16, headers: &[(&str, &str)], body: &[u8]);
    /// A header of the answer.
    fn response_header(&self, name: &str) -> Option<String>;
    /// Sets a header of the answer.
    fn set_response_header(&self, name: &str, value: &str);
    /// Bytes of the piece of the answer that is passing.
    fn response_body(&self, from: usize, length: usize) -> Vec<u8>;
    /// What the host knows under this path, raw.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;
    /// Leaves a fact about the request for the host's access log and other filters.
    fn set_fact(&self, name: &str, value: &str);
    /// Facts of this name are text, from which the host's expressions can make numbers; others are bytes to them. Said
    /// in the plugin's own context.
    fn declare_text(&self, name: &str);

    /// Opens a stream to the state service of this cluster; `None` when there is no such cluster or connection.
    fn open_stream(&self, cluster: &str) -> Option<u32>;
    /// Sends a message on a stream; whether the host took it.
    fn send(&self, stream: u32, message: &[u8]) -> bool;
    /// Ends a stream.
    fn close_stream(&self, stream: u32);

    /// What all VMs of the host share under this key.
    fn shared(&self, key: &str) -> Option<Vec<u8>>;
    /// Replaces it.
    fn share(&self, key: &str, value: &[u8]);
    /// Adds one to what is shared under this key, and returns the result.
    fn count_shared(&self, key: &str) -> u64;

    /// Declares a metric.
    fn define(&self, kind: MetricKind, name: &str) -> MetricId;
    /// Moves a metric.
    fn add(&self, metric: MetricId, by: i64);
}
