//! What a shell tells an exchange.

use crate::exchange::call::CallId;

/// The head of a request as the host received it.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The method, upper case.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `:authority`, or the Host header.
    pub authority: String,
    /// All other headers that the host showed us, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// The status code.
    pub status: u16,
    /// The content type, as sent.
    pub content_type: &'a str,
    /// The `ip:port` that served, where the host says so.
    pub served: Option<&'a str>,
}

/// One event of a request's life.
#[derive(Debug)]
pub enum Input<'a> {
    /// The request's head; `end` when no body follows.
    Request {
        /// The head.
        head: RequestHead,
        /// No body follows.
        end: bool,
    },
    /// Bytes of the request body, in order, cut anywhere.
    RequestBody(&'a [u8]),
    /// The request is complete.
    RequestEnd,
    /// The answer's head.
    Response(ResponseHead<'a>),
    /// Bytes of the answer's body, where the host shows them.
    ResponseBody(&'a [u8]),
    /// The answer is complete.
    ResponseEnd,
    /// A call was answered, or failed.
    Reply {
        /// Which.
        id: CallId,
        /// Whether it was answered.
        answered: bool,
    },
    /// The moment asked for by `WakeAt` has come, or new state has arrived.
    Wake,
    /// The request is over without an answer's end: the client has gone, the upstream was reset, the stream broke.
    Abort,
}

impl RequestHead {
    /// The first value of a header by its lower-case name; `None` when it is absent or not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(n, _)| n == name)?;
        std::str::from_utf8(value).ok()
    }

    /// The path without its query.
    pub fn path_only(&self) -> &str {
        self.path.split(['?', '#']).next().unwrap_or_default()
    }
}
