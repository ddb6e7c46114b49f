//! A host without a proxy: it plays one request after the other to a plugin and remembers what the plugin did.
//!
//! It behaves as Envoy does where the filter can tell: bytes are taken from the start of a buffer, calls refer to the
//! context that was entered, a local answer ends the request. Time stands still until a test moves it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::{Host, Level, MetricId, MetricKind};

/// Status, headers and body of an answer.
pub type Answer = (u16, Vec<(String, String)>, Vec<u8>);

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Its headers, as they stand now.
    pub headers: BTreeMap<String, Vec<u8>>,
    /// Its body, as far as it came and as it stands now.
    pub body: Vec<u8>,
    /// An answer by the plugin.
    pub answer: Option<Answer>,
    /// Headers of the model server's answer, as they stand now.
    pub response_headers: BTreeMap<String, String>,
    /// The piece of the answer that passes.
    pub piece: Vec<u8>,
    /// The route is to be matched anew.
    pub rerouted: bool,
    /// It was let go outside of its own events.
    pub resumed: bool,
    /// Facts left about it.
    pub facts: BTreeMap<String, String>,
    /// What the host knows of it, by path joined with dots.
    pub properties: HashMap<String, Vec<u8>>,
}

#[derive(Debug, Default)]
struct Inner {
    nanoseconds: u64,
    context: u32,
    requests: HashMap<u32, Request>,
    log: Vec<(Level, String)>,
    no_controller: bool,
    streams: u32,
    open: Option<u32>,
    sent: Vec<Vec<u8>>,
    shared: HashMap<String, Vec<u8>>,
    metrics: Vec<(MetricKind, String, i64)>,
    tick_ms: u64,
}

/// A handle on the host; clones are of the same one.
#[derive(Clone, Debug, Default)]
pub struct Fake(Rc<RefCell<Inner>>);

impl Fake {
    /// A host at some moment.
    pub fn new() -> Self {
        let fake = Self::default();
        fake.0.borrow_mut().nanoseconds = 1_800_000_000_000_000_000;
        fake
    }

    /// Lets time pass.
    pub fn pass(&self, ms: u64) {
        self.0.borrow_mut().nanoseconds += ms * 1_000_000;
    }

    /// Begins a request with these headers, and makes it the one that calls refer to.
    pub fn begin(&self, id: u32, headers: &[(&str, &str)]) {
        let mut inner = self.0.borrow_mut();
        inner.context = id;
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect();
        inner.requests.insert(
            id,
            Request {
                headers,
                ..Request::default()
            },
        );
    }

    /// Changes a request, and makes it the one that calls refer to.
    pub fn change(&self, id: u32, change: impl FnOnce(&mut Request)) {
        let mut inner = self.0.borrow_mut();
        inner.context = id;
        change(inner.requests.entry(id).or_default());
    }

    /// What became of a request.
    pub fn request(&self, id: u32) -> Request {
        self.0.borrow().requests.get(&id).cloned().unwrap_or_default()
    }

    /// From now on there is no controller, or there is one again.
    pub fn set_controller(&self, is_there: bool) {
        self.0.borrow_mut().no_controller = !is_there;
    }

    /// The stream that is open.
    pub fn stream(&self) -> Option<u32> {
        self.0.borrow().open
    }

    /// Takes the messages sent to the controller.
    pub fn take_sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.0.borrow_mut().sent)
    }

    /// Lines of the log at this level.
    pub fn log(&self, level: Level) -> Vec<String> {
        let inner = self.0.borrow();
        let lines = inner.log.iter().filter(|(of, _)| *of == level);
        lines.map(|(_, line)| line.clone()).collect()
    }

    /// The value of a metric; 0 when it was never moved.
    pub fn metric(&self, name: &str) -> i64 {
        let inner = self.0.borrow();
        let found = inner.metrics.iter().find(|(_, known, _)| known == name);
        found.map_or(0, |(_, _, value)| *value)
    }

    /// The period of ticks that was asked for, milliseconds.
    pub fn tick_ms(&self) -> u64 {
        self.0.borrow().tick_ms
    }

    fn current<T: Default>(&self, use_it: impl FnOnce(&mut Request) -> T) -> T {
        let mut inner = self.0.borrow_mut();
        let context = inner.context;
        inner.requests.get_mut(&context).map(use_it).unwrap_or_default()
    }
}

fn window(bytes: &[u8], from: usize, length: usize) -> Vec<u8> {
    let from = from.min(bytes.len());
    bytes[from..from.saturating_add(length).min(bytes.len())].to_vec()
}

impl Host for Fake {
    fn now(&self) -> u64 {
        self.0.borrow().nanoseconds
    }

    fn log(&self, level: Level, line: &str) {
        self.0.borrow_mut().log.push((level, line.to_owned()));
    }

    fn logs(&self, _: Level) -> bool {
        true
    }

    fn tick_every(&self, ms: u64) {
        self.0.borrow_mut().tick_ms = ms;
    }

    fn enter(&self, context: u32) {
        self.0.borrow_mut().context = context;
    }

    fn request_headers(&self) -> Vec<(String, Vec<u8>)> {
        self.current(|request| request.headers.clone()).into_iter().collect()
    }

    fn set_request_header(&self, name: &str, value: Option<&str>) {
        self.current(|request| match value {
            Some(value) => drop(request.headers.insert(name.to_owned(), value.as_bytes().to_vec())),
            None => drop(request.headers.remove(name)),
        });
    }

    fn request_body(&self, from: usize, length: usize) -> Vec<u8> {
        self.current(|request| window(&request.body, from, length))
    }

    fn replace_request_start(&self, length: usize, bytes: &[u8]) {
        self.current(|request| {
            let length = length.min(request.body.len());
            request.body.splice(..length, bytes.iter().copied());
        });
    }

    fn clear_route(&self) {
        self.current(|request| request.rerouted = true);
    }

    fn resume(&self) {
        self.current(|request| request.resumed = true);
    }

    fn respond(&self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let headers = headers.iter().map(owned).collect();
        self.current(|request| request.answer = Some((status, headers, body.to_vec())));
    }

    fn response_header(&self, name: &str) -> Option<String> {
        self.current(|request| request.response_headers.get(name).cloned())
    }

    fn set_response_header(&self, name: &str, value: &str) {
        self.current(|request| {
            request.response_headers.insert(name.to_owned(), value.to_owned());
        });
    }

    fn response_body(&self, from: usize, length: usize) -> Vec<u8> {
        self.current(|request| window(&request.piece, from, length))
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        self.current(|request| request.properties.get(&path.join(".")).cloned())
    }

    fn set_fact(&self, name: &str, value: &str) {
        self.current(|request| {
            request.facts.insert(name.to_owned(), value.to_owned());
        });
    }

    fn declare_text(&self, _: &str) {}

    fn open_stream(&self, _: &str) -> Option<u32> {
        let mut inner = self.0.borrow_mut();
        if inner.no_controller {
            return None;
        }
        inner.streams += 1;
        inner.open = Some(inner.streams);
        inner.open
    }

    fn send(&self, stream: u32, message: &[u8]) -> bool {
        let mut inner = self.0.borrow_mut();
        let open = inner.open == Some(stream);
        if open {
            inner.sent.push(message.to_vec());
        }
        open
    }

    fn close_stream(&self, stream: u32) {
        let mut inner = self.0.borrow_mut();
        if inner.open == Some(stream) {
            inner.open = None;
        }
    }

    fn shared(&self, key: &str) -> Option<Vec<u8>> {
        self.0.borrow().shared.get(key).cloned()
    }

    fn share(&self, key: &str, value: &[u8]) {
        self.0.borrow_mut().shared.insert(key.to_owned(), value.to_vec());
    }

    fn count_shared(&self, key: &str) -> u64 {
        let before = self
            .shared(key)
            .and_then(|value| Some(u64::from_le_bytes(value.try_into().ok()?)));
        let next = before.unwrap_or(0) + 1;
        self.share(key, &next.to_le_bytes());
        next
    }

    fn define(&self, kind: MetricKind, name: &str) -> MetricId {
        let mut inner = self.0.borrow_mut();
        let known = inner.metrics.iter().position(|(_, known, _)| known == name);
        let at = known.unwrap_or(inner.metrics.len());
        if known.is_none() {
            inner.metrics.push((kind, name.to_owned(), 0));
        }
        MetricId(u32::try_from(at).unwrap_or(u32::MAX))
    }

    fn add(&self, metric: MetricId, by: i64) {
        if let Some((_, _, value)) = self.0.borrow_mut().metrics.get_mut(metric.0 as usize) {
            *value += by;
        }
    }
}
