//! One request as a state machine: events of the host in, effects for the host out.
//!
//! What must always hold, whatever the order, number and cut of inputs: no panic; a held request gets exactly one of
//! dispatch, pass or reply, at the latest when its wait is over; a lease is opened once, at dispatch, and settled once;
//! after [`Effect::Settle`] nothing more comes. Inputs that do not fit the phase are ignored: hosts differ in what they
//! send, and a doubled end of stream is a known habit of one. The body's bytes are read as they pass and never kept.
//! It fails by answering the client: see [`Failure`].

mod call;
mod decide;
mod effect;
mod failure;
mod input;
mod models;
mod record;
mod settings;
#[cfg(test)]
mod tests;

pub use call::{CallId, CallKind};
pub use effect::{Dispatch, Effect, Header, LocalReply, Stage};
pub use failure::{Failure, Row};
pub use input::{Input, RequestHead, ResponseHead};
pub use record::Record;
pub use settings::{Settings, WhenNoState, WhenSaturated};

use std::borrow::Cow;
use std::sync::Arc;

use crate::lease::{Lease, Ticket, Trail};
use crate::load::Fleet;
use crate::pick::Scratch;
use crate::prefix::PrefixIndex;
use crate::prefix::chain::DEFAULT_BLOCK_BYTES;
use crate::request::{ApiForm, BodyScan, RequestFacts, Route, classify, model_in_path};
use crate::response::{Usage, UsageFilter, UsageScan};
use crate::snapshot::Snapshot;
use crate::time::Time;

/// Headers that only we may set: removed from what a client sends.
pub const CONTROL_HEADERS: [&str; 6] = [
    header::DESTINATION,
    header::CLUSTER,
    header::EXPLAIN,
    header::MAX_RETRIES,
    header::TRY_TIMEOUT,
    header::RETRY_ON,
];

/// Header names, lower case.
pub mod header {
    /// The ordered endpoints (endpoint picker protocol).
    pub const DESTINATION: &str = "x-gateway-destination-endpoint";
    /// The Envoy cluster that the route follows.
    pub const CLUSTER: &str = "x-kthena-cluster";
    /// A client asks for an explanation.
    pub const EXPLAIN: &str = "x-kthena-explain";
    /// The explanation, on the answer.
    pub const EXPLANATION: &str = "x-kthena-explanation";
    /// Envoy: retries after the first try.
    pub const MAX_RETRIES: &str = "x-envoy-max-retries";
    /// Envoy: timeout of one try, milliseconds.
    pub const TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
    /// Envoy: what is retried. Never set by us: the route says so.
    pub const RETRY_ON: &str = "x-envoy-retry-on";
    /// A client names the model, where bodies are not read.
    pub const MODEL: &str = "x-gateway-model-name";
    /// The path, as a host of HTTP/2 names it.
    pub const PATH: &str = ":path";
    /// Identifies the request in logs and seeds its random choices.
    pub const REQUEST_ID: &str = "x-request-id";
}

/// What a decision reads.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// The newest configuration; `None` = none yet.
    pub snapshot: Option<&'a Arc<Snapshot>>,
    /// Loads.
    pub fleet: &'a Fleet,
    /// Residency.
    pub index: &'a PrefixIndex,
}

/// What a step is taken in.
#[derive(Debug)]
pub struct Context<'a> {
    /// Now.
    pub now: Time,
    /// Uniform random bits, used where a request brings no identifier to seed from.
    pub random: u64,
    /// Settings of the operator.
    pub settings: &'a Settings,
    /// What a decision reads.
    pub world: World<'a>,
    /// Vectors to decide in, reused between requests.
    pub scratch: &'a mut Scratch,
    /// Whether the shell has room to hold another request that waits for state.
    pub may_wait: bool,
}

/// One request.
#[derive(Debug, Default)]
pub struct Exchange {
    phase: Phase,
    record: Record,
    calls: call::Calls,
    lease: Option<Lease>,
    trail: Option<Trail>,
    /// Headers owed to the answer.
    response_headers: Vec<Header>,
    /// Usage was asked of the engine by us: its chunk is withheld.
    injected: bool,
    /// The answer's body does not come here.
    unseen: bool,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Start,
    /// The body is being read.
    Reading(Box<Reading>),
    /// All is read; there is no state to decide on.
    Waiting(Box<Asked>, Time),
    /// All is read; calls are open.
    Calling(Box<Asked>),
    /// The request goes on; its answer is awaited, or being read.
    Sent(Option<Answer>),
    /// Not ours, or answered by us.
    Left,
    /// Settled.
    Done,
}

#[derive(Debug)]
struct Reading {
    head: RequestHead,
    form: ApiForm,
    scan: BodyScan,
}

/// A complete request.
#[derive(Debug)]
struct Asked {
    head: RequestHead,
    what: What,
}

#[derive(Debug)]
enum What {
    Infer(Box<RequestFacts>),
    ByHead(Named),
    ListModels,
    GetModel(String),
}

/// What the head alone says.
#[derive(Debug)]
struct Named {
    model: Box<str>,
    /// The path named it: the head holds the path without it, which is the one to send.
    in_path: bool,
}

#[derive(Debug)]
enum Answer {
    Scan(Box<UsageScan>),
    Filter(Box<UsageFilter>),
}

// === impl Exchange ===

impl Exchange {
    /// A request of which nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known of the request.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What the engine counted, as far as the answer has come.
    pub fn usage(&self) -> Usage {
        match &self.phase {
            Phase::Sent(Some(Answer::Scan(scan))) => scan.usage(),
            Phase::Sent(Some(Answer::Filter(filter))) => filter.usage(),
            _ => self.record.usage,
        }
    }

    /// The host does not show the answer's body: what we asked of the engine could not be withheld from the client, so
    /// nothing is asked.
    pub fn answer_unseen(&mut self) {
        self.unseen = true;
    }

    /// Takes over the lease, for a host whose stream ends before the answer does: from here on the shell settles by
    /// another signal. `None` when nothing is in flight.
    pub fn hand_over(&mut self) -> Option<Ticket> {
        let lease = self.lease.take()?;
        self.phase = Phase::Done;
        Some(Ticket {
            lease: Some(lease),
            trail: self.trail.take(),
        })
    }

    /// What a settled request had placed, for a correction that comes after its end.
    pub fn take_trail(&mut self) -> Option<Trail> {
        self.trail.take()
    }

    /// Takes one event and appends what is to be done.
    pub fn step(&mut self, cx: &mut Context<'_>, input: Input<'_>, effects: &mut Vec<Effect>) {
        match input {
            Input::Request { head, end } => self.on_request(cx, head, end, effects),
            Input::RequestBody(chunk) => self.on_body(cx, chunk, effects),
            Input::RequestEnd => self.on_request_end(cx, effects),
            Input::Response(head) => self.on_response(cx, &head, effects),
            Input::ResponseBody(chunk) => self.on_answer(chunk, effects),
            Input::ResponseEnd => self.on_response_end(effects),
            Input::Reply { id, answered: _ } => {
                if self.calls.close(id) {
                    self.resume_called(cx, effects);
                }
            }
            Input::Wake => self.on_wake(cx, effects),
            Input::Abort => self.settle(effects),
        }
    }

    fn on_request(&mut self, cx: &mut Context<'_>, head: RequestHead, end: bool, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Start) {
            return;
        }
        if !cx.settings.routes_host(&head.authority) {
            return self.pass(effects);
        }
        if cx.settings.by_head {
            return self.on_head(cx, head, effects);
        }
        match classify(&head.method, &head.path) {
            Route::Pass => self.pass(effects),
            Route::ListModels => self.ask(
                cx,
                Asked {
                    what: What::ListModels,
                    head,
                },
                effects,
            ),
            Route::GetModel(name) => {
                let what = What::GetModel(name.into_owned());
                self.ask(cx, Asked { what, head }, effects);
            }
            Route::Infer(form) => {
                self.record.form = Some(form);
                if let Err(failure) = readable(cx.settings, &head) {
                    return self.refuse(&failure, effects);
                }
                let block = cx.world.snapshot.map_or(DEFAULT_BLOCK_BYTES, |s| s.block_bytes);
                let scan = BodyScan::new(form, block);
                self.phase = Phase::Reading(Box::new(Reading { head, form, scan }));
                effects.push(Effect::Hold);
                if end {
                    self.on_request_end(cx, effects);
                }
            }
        }
    }

    /// A request of which only the head is read.
    fn on_head(&mut self, cx: &mut Context<'_>, mut head: RequestHead, effects: &mut Vec<Effect>) {
        let named = model_in_path(&head.path).map(|named| (named.model.into_owned(), named.path.to_owned()));
        let in_path = named.is_some();
        let model = match named {
            Some((model, path)) => {
                head.path = path;
                Some(model)
            }
            None => head.header(header::MODEL).map(str::to_owned),
        };
        let what = match classify(&head.method, &head.path) {
            Route::Pass => return self.pass(effects),
            Route::ListModels => What::ListModels,
            Route::GetModel(name) => What::GetModel(name.into_owned()),
            Route::Infer(form) => {
                self.record.form = Some(form);
                let bytes = match length(cx.settings, &head) {
                    Ok(bytes) => bytes.unwrap_or(0),
                    Err(failure) => return self.refuse(&failure, effects),
                };
                let Some(model) = model.filter(|model| !model.trim().is_empty()) else {
                    return self.refuse(&Failure::ModelNotNamed, effects);
                };
                self.record.model = Some(model.as_str().into());
                self.record.prompt_tokens = bytes.div_ceil(4);
                let model = model.into();
                What::ByHead(Named { model, in_path })
            }
        };
        self.ask(cx, Asked { head, what }, effects);
    }

    fn on_body(&mut self, cx: &mut Context<'_>, chunk: &[u8], effects: &mut Vec<Effect>) {
        let Phase::Reading(reading) = &mut self.phase else {
            return;
        };
        let limit = cx.settings.max_body_bytes;
        let room = limit.saturating_sub(reading.scan.bytes());
        // What is wrong first is told, however the host cuts a body: one part of it may be wrong and all of it too large.
        let within = usize::try_from(room).map_or(chunk, |room| &chunk[..room.min(chunk.len())]);
        if let Err(error) = reading.scan.feed(within) {
            self.refuse(&Failure::Body(error), effects);
        } else if within.len() < chunk.len() {
            self.refuse(&Failure::BodyTooLarge { limit }, effects);
        }
    }

    fn on_request_end(&mut self, cx: &mut Context<'_>, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Reading(_)) {
            return;
        }
        let Phase::Reading(reading) = std::mem::take(&mut self.phase) else {
            return;
        };
        let Reading { head, form, scan } = *reading;
        match scan.finish() {
            Ok(facts) => {
                self.record.form = Some(form);
                self.record.model = Some(facts.model.name.clone());
                self.record.stream = facts.stream;
                self.record.prompt_tokens = facts.prompt.token_ids.unwrap_or(facts.prompt.text_bytes.div_ceil(4));
                self.ask(
                    cx,
                    Asked {
                        head,
                        what: What::Infer(Box::new(facts)),
                    },
                    effects,
                );
            }
            Err(error) => self.refuse(&Failure::Body(error), effects),
        }
    }

    /// The request is complete: decide, or hold it until that is possible.
    fn ask(&mut self, cx: &mut Context<'_>, asked: Asked, effects: &mut Vec<Effect>) {
        if cx.world.snapshot.is_some() {
            return self.call_or_decide(cx, asked, effects);
        }
        if cx.settings.state_wait_ms == 0 || !cx.may_wait {
            return self.without_state(cx, effects);
        }
        let until = cx.now.after(cx.settings.state_wait_ms);
        self.phase = Phase::Waiting(Box::new(asked), until);
        effects.push(Effect::Hold);
        effects.push(Effect::WakeAt(until));
    }

    fn call_or_decide(&mut self, cx: &mut Context<'_>, asked: Asked, effects: &mut Vec<Effect>) {
        let questions = questions(cx.settings);
        if questions.is_empty() {
            return self.decide(cx, asked, effects);
        }
        for (kind, wait_ms) in questions {
            let deadline = cx.now.after(wait_ms);
            let id = self.calls.open(deadline);
            effects.push(Effect::Call { id, kind, deadline });
        }
        self.phase = Phase::Calling(Box::new(asked));
        effects.push(Effect::Hold);
        effects.extend(self.calls.next_deadline().map(Effect::WakeAt));
    }

    /// Goes on once no call is open any more; a call that failed or timed out is done without.
    fn resume_called(&mut self, cx: &mut Context<'_>, effects: &mut Vec<Effect>) {
        if !self.calls.is_empty() || !matches!(self.phase, Phase::Calling(_)) {
            effects.extend(self.calls.next_deadline().map(Effect::WakeAt));
            return;
        }
        if let Phase::Calling(asked) = std::mem::take(&mut self.phase) {
            self.decide(cx, *asked, effects);
        }
    }

    fn on_wake(&mut self, cx: &mut Context<'_>, effects: &mut Vec<Effect>) {
        match std::mem::take(&mut self.phase) {
            Phase::Waiting(asked, until) => {
                if cx.world.snapshot.is_some() {
                    self.call_or_decide(cx, *asked, effects);
                } else if cx.now >= until {
                    self.without_state(cx, effects);
                } else {
                    self.phase = Phase::Waiting(asked, until);
                    effects.push(Effect::WakeAt(until));
                }
            }
            phase @ Phase::Calling(_) => {
                self.phase = phase;
                effects.extend(self.calls.overdue(cx.now).into_iter().map(Effect::Cancel));
                self.resume_called(cx, effects);
            }
            phase => self.phase = phase,
        }
    }

    fn on_response(&mut self, cx: &mut Context<'_>, head: &ResponseHead<'_>, effects: &mut Vec<Effect>) {
        let (Phase::Sent(None) | Phase::Left) = self.phase else {
            return;
        };
        self.record.status = Some(head.status);
        let headers = std::mem::take(&mut self.response_headers);
        if !headers.is_empty() {
            effects.push(Effect::ResponseHeaders(headers));
        }
        if !matches!(self.phase, Phase::Sent(_)) {
            return;
        }
        if let Some(served) = head.served {
            self.record.served = Some(served.into());
            if let Some(relocation) = self.trail.take().and_then(|trail| trail.served(served, cx.world.index)) {
                effects.push(Effect::Relocated(Box::new(relocation)));
            }
        }
        let form = self.record.form.unwrap_or(ApiForm::Other);
        let sse = head.content_type.starts_with("text/event-stream");
        self.phase = Phase::Sent(Some(if self.injected && sse {
            Answer::Filter(Box::new(UsageFilter::new(form)))
        } else {
            Answer::Scan(Box::new(UsageScan::new(form, sse)))
        }));
    }

    fn on_answer(&mut self, chunk: &[u8], effects: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Sent(Some(Answer::Scan(scan))) => scan.feed(chunk),
            Phase::Sent(Some(Answer::Filter(filter))) => {
                // A chunk that goes on as it came needs no effect.
                match filter.feed(chunk) {
                    Cow::Borrowed(same) if same.len() == chunk.len() => {}
                    changed => effects.push(Effect::ReplaceChunk(changed.into_owned())),
                }
            }
            _ => {}
        }
    }

    fn on_response_end(&mut self, effects: &mut Vec<Effect>) {
        match std::mem::take(&mut self.phase) {
            Phase::Sent(Some(Answer::Filter(filter))) => {
                let (rest, usage) = filter.finish();
                self.record.usage = usage;
                if !rest.is_empty() {
                    effects.push(Effect::ReplaceChunk(rest));
                }
                self.record.complete = true;
            }
            Phase::Sent(Some(Answer::Scan(scan))) => {
                self.record.usage = scan.finish();
                self.record.complete = true;
            }
            Phase::Sent(None) | Phase::Left => self.record.complete = true,
            // An end of the answer before a request was sent is no end at all.
            phase => {
                self.phase = phase;
                return;
            }
        }
        self.phase = Phase::Left;
        self.settle(effects);
    }

    /// There is no state, and no time or room to wait for it.
    fn without_state(&mut self, cx: &Context<'_>, effects: &mut Vec<Effect>) {
        match cx.settings.when_no_state {
            WhenNoState::Reject => self.refuse(&Failure::NoState, effects),
            WhenNoState::Pass => {
                self.record.error_type = Some(Failure::NoState.row().error_type);
                self.pass(effects);
            }
        }
    }

    fn pass(&mut self, effects: &mut Vec<Effect>) {
        self.phase = Phase::Left;
        effects.push(Effect::Pass);
    }

    fn refuse(&mut self, failure: &Failure, effects: &mut Vec<Effect>) {
        self.record.error_type = Some(failure.row().error_type);
        self.respond(failure.reply(self.record.form.unwrap_or(ApiForm::Other)), effects);
    }

    fn respond(&mut self, mut reply: LocalReply, effects: &mut Vec<Effect>) {
        self.record.status = Some(reply.status);
        self.record.complete = true;
        reply.headers.append(&mut self.response_headers);
        self.phase = Phase::Left;
        effects.push(Effect::Respond(Box::new(reply)));
    }

    fn settle(&mut self, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Done) {
            return;
        }
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Sent(Some(Answer::Scan(scan))) => self.record.usage = scan.finish(),
            Phase::Sent(Some(Answer::Filter(filter))) => self.record.usage = filter.usage(),
            _ => {}
        }
        effects.extend(self.calls.drain().map(Effect::Cancel));
        self.lease = None;
        effects.push(Effect::Settle);
    }
}

/// What is asked before a decision, and how long the answer may take in milliseconds.
#[cfg(not(test))]
fn questions(_: &Settings) -> Vec<(CallKind, u64)> {
    Vec::new()
}

#[cfg(test)]
fn questions(settings: &Settings) -> Vec<(CallKind, u64)> {
    (1..=u64::from(settings.probes))
        .map(|n| (CallKind::Probe, 100 * n))
        .collect()
}

/// What the head alone tells of a body that we could not read.
fn readable(settings: &Settings, head: &RequestHead) -> Result<(), Failure> {
    if let Some(encoding) = head
        .header("content-encoding")
        .filter(|e| !e.is_empty() && !e.eq_ignore_ascii_case("identity"))
    {
        return Err(Failure::ContentEncoding(encoding.to_owned()));
    }
    // Whatever else it is called is looked at: many clients name a JSON body badly.
    let kind = head.header("content-type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind
        .get(..10)
        .is_some_and(|start| start.eq_ignore_ascii_case("multipart/"))
    {
        return Err(Failure::Multipart(kind.to_owned()));
    }
    length(settings, head).map(|_| ())
}

/// The length that the head says the body has; refused when that is above the bound.
fn length(settings: &Settings, head: &RequestHead) -> Result<Option<u64>, Failure> {
    let length = head
        .header("content-length")
        .and_then(|length| length.parse::<u64>().ok());
    match length.filter(|length| *length > settings.max_body_bytes) {
        Some(_) => Err(Failure::BodyTooLarge {
            limit: settings.max_body_bytes,
        }),
        None => Ok(length),
    }
}

/// The part of a record that only an answer can fill.
impl Record {
    /// What an access-log entry tells about usage, where the stream itself did not see it.
    pub fn learn_usage(&mut self, usage: Usage) {
        self.usage.input_tokens = self.usage.input_tokens.or(usage.input_tokens);
        self.usage.output_tokens = self.usage.output_tokens.or(usage.output_tokens);
        self.usage.cached_tokens = self.usage.cached_tokens.or(usage.cached_tokens);
    }
}
