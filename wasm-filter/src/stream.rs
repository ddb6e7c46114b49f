//! One request: the host's events in, effects carried out on the host, around one exchange.
//!
//! What must always hold: semantics are the exchange's; here is only what a proxy-wasm host needs. The body stays with the
//! host: it is read in windows, as each of them is whole or the body ends, and only its first bytes are kept. The host can put other bytes in place of
//! the beginning of a body and nowhere else, so that a change costs a copy of what stands before its end. What a client sent
//! under the name of a control header goes no further.

use kthena_scheduler::exchange::{
    CONTROL_HEADERS, Dispatch, Effect, Exchange, Header, Input, LocalReply, Record, RequestHead, ResponseHead, header,
};
use kthena_scheduler::explain::Explanation;
use kthena_scheduler::request::splice;
use kthena_scheduler::time::Time;

use crate::config::Usage;
use crate::host::{Flow, Host, Level};
use crate::over::{FACTS, Moments};
use crate::state::State;

/// Bytes of a body that are read at a time: each reading is a call of the host and one of it back into the VM.
const WINDOW: usize = 64 << 10;

/// Bytes of its beginning that are kept, where the model's name usually is.
const START: usize = 1 << 10;

/// What the host's record of an answer says of the endpoint that gave it.
const SERVED: [&str; 2] = ["upstream", "address"];

/// One request as the host tells it.
#[derive(Debug, Default)]
pub struct Conversation {
    exchange: Exchange,
    progress: Progress,
    /// Bytes of the body that have come.
    come: usize,
    /// Bytes of it that were read.
    read: usize,
    /// The first of them.
    start: Vec<u8>,
    /// Control headers that the client sent.
    forged: Vec<&'static str>,
    /// The client told the length of the body.
    has_length: bool,
    /// When what came.
    pub(crate) moments: Moments,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Nothing of it has come.
    #[default]
    New,
    /// The head is held, of the body nothing has come.
    Held,
    /// The body is coming.
    Reading,
    /// It is whole, and waits for state until this moment.
    Waiting(Time),
    /// It is not ours.
    Passing,
    /// It has gone on.
    Sent,
    /// It was answered by us.
    Answered,
    /// It is settled.
    Over,
}

// === impl Conversation ===

impl Conversation {
    /// What is known of the request.
    pub fn record(&self) -> &Record {
        self.exchange.record()
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether it is one of those that are counted.
    pub(crate) fn is_ours(&self) -> bool {
        match self.progress {
            Progress::Passing => false,
            Progress::Answered => true,
            _ => self.exchange.record().form.is_some(),
        }
    }

    /// The head has come; `end` when no body follows.
    pub fn on_request_headers(&mut self, state: &mut State, host: &impl Host, end: bool) -> Flow {
        if state.usage == Usage::Envoy {
            self.exchange.answer_unseen();
        }
        let head = self.head(host);
        self.progress = Progress::Held;
        let effects = self.step(state, Input::Request { head, end });
        self.carry_out(effects, state, host)
    }

    fn head(&mut self, host: &impl Host) -> RequestHead {
        let mut head = RequestHead::default();
        for (name, value) in host.request_headers() {
            match name.as_str() {
                ":method" => head.method = text(value),
                ":path" => head.path = text(value),
                ":authority" => head.authority = text(value),
                _ if name.starts_with(':') => {}
                _ => {
                    self.forged.extend(CONTROL_HEADERS.iter().find(|known| **known == name));
                    self.has_length |= name == "content-length";
                    head.headers.push((name, value));
                }
            }
        }
        head
    }

    /// Of the body so many bytes have come in all; `end` when that is the whole.
    pub fn on_request_body(&mut self, state: &mut State, host: &impl Host, bytes: usize, end: bool) -> Flow {
        match self.progress {
            Progress::Held | Progress::Reading => self.progress = Progress::Reading,
            Progress::Waiting(_) | Progress::Answered => return Flow::Pause,
            _ => return Flow::Continue,
        }
        self.come = bytes;
        self.read_on(state, host, end)
    }

    /// Notes that so many bytes of the body have come, where those are too few to read on, as more follow.
    pub(crate) fn awaits_more(&mut self, bytes: usize, end: bool) -> bool {
        let is_coming = matches!(self.progress, Progress::Held | Progress::Reading);
        let awaits = is_coming && !end && bytes.saturating_sub(self.read) < WINDOW;
        if awaits {
            self.progress = Progress::Reading;
            self.come = bytes;
        }
        awaits
    }

    /// Reads what has come of the body; `end` when that is the whole.
    fn read_on(&mut self, state: &mut State, host: &impl Host, end: bool) -> Flow {
        while self.read < self.come {
            let window = host.request_body(self.read, WINDOW.min(self.come - self.read));
            if window.is_empty() {
                break;
            }
            if self.read == 0 {
                self.start = window[..window.len().min(START)].to_vec();
            }
            self.read += window.len();
            let effects = self.step(state, Input::RequestBody(&window));
            if !effects.is_empty() {
                return self.carry_out(effects, state, host);
            }
        }
        if end {
            self.on_request_end(state, host)
        } else {
            Flow::Pause
        }
    }

    /// The request ended with trailers.
    pub fn on_request_trailers(&mut self, state: &mut State, host: &impl Host) -> Flow {
        match self.progress {
            Progress::Held | Progress::Reading => self.read_on(state, host, true),
            Progress::Waiting(_) | Progress::Answered => Flow::Pause,
            _ => Flow::Continue,
        }
    }

    fn on_request_end(&mut self, state: &mut State, host: &impl Host) -> Flow {
        let effects = self.step(state, Input::RequestEnd);
        self.carry_out(effects, state, host)
    }

    /// New state has come, or the time to wait for it is over. [`Flow::Continue`] = it is to be let go.
    pub fn on_wake(&mut self, state: &mut State, host: &impl Host) -> Flow {
        if !matches!(self.progress, Progress::Waiting(_)) {
            return Flow::Pause;
        }
        let effects = self.step(state, Input::Wake);
        self.carry_out(effects, state, host)
    }

    /// Answers a request whose body the host does not show while the head is held.
    pub fn refuse_unheld(&mut self, host: &impl Host) {
        self.progress = Progress::Answered;
        respond(host, &unheld());
    }

    /// The head of the answer has come; `end` when no body follows.
    pub fn on_response_headers(&mut self, state: &mut State, host: &impl Host, end: bool) {
        if self.progress != Progress::Sent {
            return;
        }
        let status = host.response_header(":status").and_then(|status| status.parse().ok());
        let content_type = match state.usage {
            Usage::Answer if self.may_be_stream() => host.response_header("content-type").unwrap_or_default(),
            Usage::Answer | Usage::Envoy => String::new(),
        };
        let served = host.property(&SERVED).and_then(|bytes| String::from_utf8(bytes).ok());
        let head = ResponseHead {
            status: status.unwrap_or(0),
            content_type: &content_type,
            served: served.as_deref().filter(|address| !address.is_empty()),
        };
        let effects = self.step(state, Input::Response(head));
        self.carry_out(effects, state, host);
        if end {
            self.on_response_end(state, host);
        }
    }

    /// Whether a stream was asked for, or may have been: the body was not read.
    fn may_be_stream(&self) -> bool {
        self.exchange.record().stream || self.read == 0
    }

    /// So many bytes of the answer pass; `end` when they are the last.
    pub fn on_response_body(&mut self, state: &mut State, host: &impl Host, bytes: usize, end: bool) {
        if self.progress != Progress::Sent {
            return;
        }
        if bytes > 0 && state.usage == Usage::Answer {
            let piece = host.response_body(0, bytes);
            self.step(state, Input::ResponseBody(&piece));
        }
        if end {
            self.on_response_end(state, host);
        }
    }

    /// The answer is complete.
    pub fn on_response_end(&mut self, state: &mut State, host: &impl Host) {
        if self.progress != Progress::Sent {
            return;
        }
        let effects = self.step(state, Input::ResponseEnd);
        self.carry_out(effects, state, host);
    }

    /// An entry of the access log is about to be written, the last one or one in between.
    pub fn on_log(&self, host: &impl Host) {
        let usage = self.exchange.usage();
        let counts = [usage.input_tokens, usage.output_tokens, usage.cached_tokens];
        for (name, count) in FACTS.iter().zip(counts) {
            if let Some(count) = count {
                host.set_fact(name, &count.to_string());
            }
        }
    }

    /// The request is over, however it ended.
    pub fn on_done(&mut self, state: &mut State, host: &impl Host) {
        let effects = self.step(state, Input::Abort);
        self.carry_out(effects, state, host);
        self.progress = Progress::Over;
    }

    fn step(&mut self, state: &mut State, input: Input<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.exchange.step(&mut state.context(), input, &mut effects);
        effects
    }

    fn carry_out(&mut self, effects: Vec<Effect>, state: &mut State, host: &impl Host) -> Flow {
        let mut flow = Flow::Pause;
        for effect in effects {
            match effect {
                Effect::Pass => {
                    self.pass(host);
                    flow = Flow::Continue;
                }
                Effect::Dispatch(dispatch) => {
                    self.dispatch(*dispatch, state, host);
                    flow = Flow::Continue;
                }
                Effect::Respond(reply) => {
                    self.progress = Progress::Answered;
                    if let Some(error_type) = self.exchange.record().error_type {
                        host.set_fact("kthena.error_type", error_type);
                        self.tell(host);
                    }
                    respond(host, &reply);
                }
                Effect::WakeAt(at) => self.progress = Progress::Waiting(at),
                Effect::ResponseHeaders(headers) => {
                    for Header { name, value } in &headers {
                        host.set_response_header(name, value);
                    }
                }
                Effect::Relocated(relocation) => state.subscriber.relocated(&relocation),
                Effect::Settle => {
                    if self.progress == Progress::Sent {
                        state.subscriber.count_changed();
                    }
                    self.progress = Progress::Over;
                }
                // The host goes on holding what was not let go; no chunk is replaced, since no usage is asked for by us.
                Effect::Hold | Effect::ReplaceChunk(_) => {}
                // Nothing calls out yet.
                Effect::Call { .. } | Effect::Cancel(_) => {}
            }
        }
        flow
    }

    /// The request is not ours: only control headers are removed.
    fn pass(&mut self, host: &impl Host) {
        self.progress = Progress::Passing;
        let reroute = self.forged.contains(&header::CLUSTER);
        for name in self.forged.drain(..) {
            host.set_request_header(name, None);
        }
        if reroute {
            host.clear_route();
        }
    }

    fn dispatch(&mut self, dispatch: Dispatch, state: &mut State, host: &impl Host) {
        self.progress = Progress::Sent;
        for name in &self.forged {
            if !dispatch.headers.iter().any(|set| set.name == *name) {
                host.set_request_header(name, None);
            }
        }
        for Header { name, value } in &dispatch.headers {
            host.set_request_header(name, Some(value));
        }
        self.rewrite(&dispatch, host);
        host.clear_route();
        if let Some(first) = dispatch.stages.first().and_then(|stage| stage.endpoints.first()) {
            state.subscriber.placed(first.id, &dispatch.placed);
        }
        state.subscriber.count_changed();
        self.tell(host);
        self.log(&dispatch, host);
    }

    /// Puts the changed beginning of the body in place of the one that came.
    fn rewrite(&self, dispatch: &Dispatch, host: &impl Host) {
        let Some(last) = dispatch.splices.last() else { return };
        let end = usize::try_from(last.range.end).unwrap_or(usize::MAX).min(self.read);
        let mut start = match self.start.get(..end) {
            Some(start) => start.to_vec(),
            None => host.request_body(0, end),
        };
        splice::apply(&mut start, &dispatch.splices);
        host.replace_request_start(end, &start);
        if self.has_length && start.len() != end {
            let length = self.read - end + start.len();
            host.set_request_header("content-length", Some(&length.to_string()));
        }
    }

    /// What the access log says of the decision, or of how far it came, under Kthena's names.
    fn tell(&self, host: &impl Host) {
        let record = self.exchange.record();
        let fact = |name, value: Option<&str>| {
            if let Some(value) = value {
                host.set_fact(name, value);
            }
        };
        fact("kthena.model_name", record.known_model());
        fact("kthena.model_route", record.route.as_ref().map(|route| &*route.name));
        fact(
            "kthena.model_server",
            record.server.as_ref().map(|server| &*server.name),
        );
        fact("kthena.upstream_model", record.upstream_model.as_deref());
        fact(
            "kthena.selected_pod",
            record.selected.as_ref().map(|endpoint| &*endpoint.pod),
        );
    }

    /// A line of the log for whoever follows decisions.
    fn log(&self, dispatch: &Dispatch, host: &impl Host) {
        if host.logs(Level::Debug) {
            let why = dispatch.explanation.as_ref().map(Explanation::to_header);
            let line = format!(
                "kthena: {} goes to {} {}",
                self.exchange.record().known_model().unwrap_or_default(),
                dispatch.destinations(),
                why.unwrap_or_default()
            );
            host.log(Level::Debug, &line);
        }
    }
}

fn text(value: Vec<u8>) -> String {
    String::from_utf8(value).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn respond(host: &impl Host, reply: &LocalReply) {
    let json = [("content-type", "application/json")];
    let own = reply.headers.iter().map(|header| (header.name, header.value.as_str()));
    let headers: Vec<_> = json.into_iter().chain(own).collect();
    // By this the host tells an answer of ours from its own.
    host.set_fact("kthena.answered", reply.details);
    host.respond(reply.status, &headers, &reply.body);
}

fn unheld() -> LocalReply {
    let message = "the wasm filter is misconfigured: the model name is in the body, and this host does not show the body \
                   while the head is held; set allow_on_headers_stop_iteration: true in the filter's PluginConfig";
    let body =
        format!(r#"{{"error":{{"message":"{message}","type":"server_error","param":null,"code":"misconfigured"}}}}"#);
    LocalReply {
        status: 500,
        headers: Vec::new(),
        body: body.into_bytes(),
        details: "misconfigured",
    }
}
