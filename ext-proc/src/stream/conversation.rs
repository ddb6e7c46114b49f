//! One ext_proc stream without its transport: Envoy's events in, replies out, around one exchange.
//!
//! What must always hold: semantics are the exchange's; here is only the order of replies that each body mode demands. The
//! request body is kept while it is held, because what goes on may have to come from us: whole in buffered mode when bytes
//! change, always in full duplex; the exchange's bound on it is the bound here. Events after the end of the request body
//! are ignored: an Envoy repeats the last chunk of large bodies.

use kthena_scheduler::exchange::{
    Context, Dispatch, Effect, Exchange, Header, Input, LocalReply, RequestHead, ResponseHead, header,
};
use kthena_scheduler::explain::Explanation;
use kthena_scheduler::lease::Relocation;
use kthena_scheduler::prefix::Key;
use kthena_scheduler::snapshot::EndpointId;
use kthena_scheduler::time::Time;

use crate::wire::{Body, BodyMode, Change, Direction, Event, Modes, Replies, To};

/// What a conversation tells beside its replies.
#[derive(Debug)]
pub enum News {
    /// The exchange wants to be woken then, or when new state comes.
    WakeAt(Time),
    /// The request was dispatched: prefix keys that were new at the picked endpoint.
    Dispatched {
        /// The picked endpoint.
        endpoint: EndpointId,
        /// The keys, in the prompt's order.
        placed: Vec<Key>,
        /// Why, where it was made, as one line of JSON.
        explanation: Option<String>,
    },
    /// Another endpoint served than the one picked.
    Relocated(Relocation),
    /// The request is settled.
    Settled,
}

/// One request as Envoy tells it.
#[derive(Debug, Default)]
pub struct Conversation {
    exchange: Exchange,
    modes: Modes,
    /// The request body, as far as it came and is still ours to send on.
    body: Body,
    /// The message that waits for its reply.
    owed: Option<To>,
    request: Progress,
    /// Facts for the access log that the shell wants in the metadata.
    facts: Vec<(&'static str, String)>,
    /// Headers that the shell wants on the request.
    headers: Vec<Header>,
    /// A client sent a header under a name of ours.
    forged: bool,
    /// The access log counts the request: it will know more than the stream does.
    counted_by_log: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    /// The body is coming.
    #[default]
    Open,
    /// The body is complete; `trailers` when trailers ended it.
    Ended { trailers: bool },
    /// The request is not ours: what still comes of it goes on as it is.
    Passing,
    /// The request has gone on, whole.
    Sent,
    /// Answered by us.
    Answered,
}

// === impl Conversation ===

impl Conversation {
    /// The exchange, for its record and its lease.
    pub fn exchange(&mut self) -> &mut Exchange {
        &mut self.exchange
    }

    /// The body modes of the stream.
    pub fn modes(&self) -> Modes {
        self.modes
    }

    /// Adds a fact for the access log, and so for whoever reads it.
    pub fn add_fact(&mut self, name: &'static str, value: String) {
        self.facts.push((name, value));
    }

    /// Adds a header to the request, where it goes on.
    pub fn add_header(&mut self, header: Header) {
        self.headers.push(header);
    }

    /// Takes the modes that Envoy says in its first message.
    pub fn learn_modes(&mut self, modes: Modes) {
        self.modes = modes;
        if modes.response == BodyMode::None {
            self.exchange.answer_unseen();
        }
    }

    /// From here on the access log counts the request, though its status is known here.
    pub fn leave_count_to_log(&mut self) {
        self.counted_by_log = true;
    }

    /// Whether it was left to the access log to count the request.
    pub fn is_counted_by_log(&self) -> bool {
        self.counted_by_log
    }

    /// Takes one event.
    pub fn on_event(&mut self, cx: &mut Context<'_>, event: Event, replies: &mut Replies, news: &mut Vec<News>) {
        match event {
            Event::RequestHeaders { head, end } => self.on_request_headers(cx, head, end, replies, news),
            Event::RequestBody { body, end } => self.on_request_body(cx, body, end, replies, news),
            Event::RequestTrailers => self.on_request_trailers(cx, replies, news),
            Event::ResponseHeaders {
                status,
                content_type,
                served,
                end,
            } => {
                let head = ResponseHead {
                    status,
                    content_type: &content_type,
                    served: served.as_deref(),
                };
                self.on_response_headers(cx, head, end, replies, news);
            }
            Event::ResponseBody { body, end } => self.on_response_body(cx, body, end, replies, news),
            Event::ResponseTrailers => {
                let rest = self.answer_ended(cx, news);
                if self.modes.response == BodyMode::FullDuplex && !rest.is_empty() {
                    replies.stream(Direction::Response, rest.into(), false);
                }
                replies.trailers(Direction::Response);
            }
            Event::Other => {}
        }
    }

    /// Wakes the exchange.
    pub fn on_wake(&mut self, cx: &mut Context<'_>, replies: &mut Replies, news: &mut Vec<News>) {
        let effects = self.step(cx, Input::Wake);
        self.carry_out(effects, replies, news);
    }

    /// The stream is over.
    pub fn on_end(&mut self, cx: &mut Context<'_>, news: &mut Vec<News>) {
        for effect in self.step(cx, Input::Abort) {
            if matches!(effect, Effect::Settle) {
                news.push(News::Settled);
            }
        }
    }

    fn step(&mut self, cx: &mut Context<'_>, input: Input<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.exchange.step(cx, input, &mut effects);
        effects
    }

    fn on_request_headers(
        &mut self,
        cx: &mut Context<'_>,
        head: RequestHead,
        end: bool,
        replies: &mut Replies,
        news: &mut Vec<News>,
    ) {
        self.forged = head.headers.iter().any(|(name, _)| name == header::CLUSTER);
        self.owed = Some(To::RequestHeaders);
        if end {
            self.request = Progress::Ended { trailers: false };
        }
        let effects = self.step(cx, Input::Request { head, end });
        self.carry_out(effects, replies, news);
        if self.owed.is_none() || end {
            return;
        }
        match self.modes.request {
            BodyMode::Buffered => {
                self.owed = None;
                replies.continue_headers();
            }
            // The head waits for the decision.
            BodyMode::FullDuplex => {}
            BodyMode::None | BodyMode::Streamed | BodyMode::Partial => {
                self.owed = None;
                self.request = Progress::Answered;
                replies.respond(misconfigured(), std::mem::take(&mut self.facts));
            }
        }
    }

    fn on_request_body(
        &mut self,
        cx: &mut Context<'_>,
        body: Body,
        end: bool,
        replies: &mut Replies,
        news: &mut Vec<News>,
    ) {
        match self.request {
            Progress::Open => {}
            Progress::Passing => return self.pass_body(body, end, replies),
            Progress::Ended { .. } | Progress::Sent | Progress::Answered => return,
        }
        // A buffered body is whole, though trailers may still follow.
        let end = end || self.modes.request == BodyMode::Buffered;
        if self.modes.request != BodyMode::FullDuplex {
            self.owed = Some(To::RequestBody);
        }
        let mut effects = Vec::new();
        for slice in body.into_slices() {
            if effects.is_empty() {
                self.exchange.step(cx, Input::RequestBody(&slice), &mut effects);
            }
            self.body.push(slice);
        }
        if end && effects.is_empty() {
            self.request = Progress::Ended { trailers: false };
            effects = self.step(cx, Input::RequestEnd);
        }
        self.carry_out(effects, replies, news);
    }

    fn on_request_trailers(&mut self, cx: &mut Context<'_>, replies: &mut Replies, news: &mut Vec<News>) {
        match self.request {
            Progress::Open => {
                self.request = Progress::Ended { trailers: true };
                let effects = self.step(cx, Input::RequestEnd);
                self.carry_out(effects, replies, news);
            }
            _ => replies.trailers(Direction::Request),
        }
    }

    fn on_response_headers(
        &mut self,
        cx: &mut Context<'_>,
        head: ResponseHead<'_>,
        end: bool,
        replies: &mut Replies,
        news: &mut Vec<News>,
    ) {
        let mut headers = Vec::new();
        for effect in self.step(cx, Input::Response(head)) {
            match effect {
                Effect::ResponseHeaders(set) => headers = set,
                Effect::Relocated(relocation) => news.push(News::Relocated(*relocation)),
                _ => {}
            }
        }
        replies.response_headers(headers, !self.counted_by_log);
        if end {
            self.answer_ended(cx, news);
        }
    }

    fn on_response_body(
        &mut self,
        cx: &mut Context<'_>,
        body: Body,
        end: bool,
        replies: &mut Replies,
        news: &mut Vec<News>,
    ) {
        let mut replaced = None;
        let body = body.into_bytes();
        for effect in self.step(cx, Input::ResponseBody(&body)) {
            if let Effect::ReplaceChunk(bytes) = effect {
                replaced = Some(Body::from(bytes));
            }
        }
        if end {
            let rest = self.answer_ended(cx, news);
            if !rest.is_empty() {
                replaced.get_or_insert_with(|| body.clone().into()).push(rest.into());
            }
        }
        if self.modes.response == BodyMode::FullDuplex {
            replies.stream(Direction::Response, replaced.unwrap_or_else(|| body.into()), end);
        } else {
            replies.chunk(replaced);
        }
    }

    /// Ends the answer; returns bytes that were withheld and belong to the client after all.
    fn answer_ended(&mut self, cx: &mut Context<'_>, news: &mut Vec<News>) -> Vec<u8> {
        let mut rest = Vec::new();
        for effect in self.step(cx, Input::ResponseEnd) {
            match effect {
                Effect::ReplaceChunk(bytes) => rest = bytes,
                Effect::Settle => news.push(News::Settled),
                _ => {}
            }
        }
        rest
    }

    fn carry_out(&mut self, effects: Vec<Effect>, replies: &mut Replies, news: &mut Vec<News>) {
        for effect in effects {
            match effect {
                Effect::Pass => self.pass(replies),
                Effect::Dispatch(dispatch) => self.dispatch(*dispatch, replies, news),
                Effect::Respond(reply) => self.respond(*reply, replies),
                Effect::WakeAt(at) => news.push(News::WakeAt(at)),
                Effect::Settle => news.push(News::Settled),
                Effect::Relocated(relocation) => news.push(News::Relocated(*relocation)),
                // The reply that is owed is not sent: that is how a request is held.
                Effect::Hold | Effect::ResponseHeaders(_) | Effect::ReplaceChunk(_) => {}
                // Nothing calls out yet.
                Effect::Call { .. } | Effect::Cancel(_) => {}
            }
        }
    }

    fn pass(&mut self, replies: &mut Replies) {
        self.request = Progress::Passing;
        self.owed = None;
        replies.pass(self.forged);
    }

    fn pass_body(&mut self, body: Body, end: bool, replies: &mut Replies) {
        if end {
            self.request = Progress::Sent;
        }
        match self.modes.request {
            BodyMode::FullDuplex => replies.stream(Direction::Request, body, end),
            _ => replies.continue_body(),
        }
    }

    fn respond(&mut self, reply: LocalReply, replies: &mut Replies) {
        self.request = Progress::Answered;
        self.owed = None;
        self.body = Body::default();
        if let Some(error_type) = self.exchange.record().error_type {
            self.facts.push(("error_type", error_type.to_owned()));
            self.record_facts();
        }
        replies.respond(reply, std::mem::take(&mut self.facts));
    }

    fn dispatch(&mut self, mut dispatch: Dispatch, replies: &mut Replies, news: &mut Vec<News>) {
        let Some(to) = self.owed.take() else { return };
        let trailers = self.request == Progress::Ended { trailers: true };
        self.request = Progress::Sent;
        let mut body = std::mem::take(&mut self.body);
        let rewritten = !dispatch.splices.is_empty();
        body.splice(std::mem::take(&mut dispatch.splices));
        let destinations = dispatch.destinations();
        let explanation = dispatch.explanation.as_ref().map(Explanation::to_header);
        if let Some(explanation) = explanation.as_ref().filter(|_| dispatch.asked_to_explain) {
            self.facts.push(("explanation", explanation.clone()));
        }
        self.record_facts();
        let mut headers = std::mem::take(&mut dispatch.headers);
        headers.append(&mut self.headers);
        let full_duplex = self.modes.request == BodyMode::FullDuplex;
        let change = Change {
            headers,
            body: (rewritten && !full_duplex).then(|| std::mem::take(&mut body)),
            reroute: true,
            destinations: Some(destinations),
            facts: std::mem::take(&mut self.facts),
        };
        replies.change(to, change);
        if full_duplex {
            replies.stream(Direction::Request, body, !trailers);
            if trailers {
                replies.trailers(Direction::Request);
            }
        }
        if let Some(endpoint) = dispatch.stages.first().and_then(|stage| stage.endpoints.first()) {
            let endpoint = endpoint.id;
            news.push(News::Dispatched {
                endpoint,
                placed: dispatch.placed,
                explanation,
            });
        }
    }

    /// What the access log says of the decision, or of how far it came, under Kthena's names.
    fn record_facts(&mut self) {
        let record = self.exchange.record();
        let facts = &mut self.facts;
        let mut fact = |name, value: Option<&str>| facts.extend(value.map(|value| (name, value.to_owned())));
        fact("model_name", record.known_model());
        fact("model_route", record.route.as_ref().map(|route| &*route.name));
        fact("upstream_model", record.upstream_model.as_deref());
        fact("selected_pod", record.selected.as_ref().map(|endpoint| &*endpoint.pod));
        let server = record.server.as_ref().map(|server| &*server.name);
        fact("model_server", server);
        fact("backend_name", server);
        fact("backend_type", server.map(|_| "model_server"));
    }
}

fn misconfigured() -> LocalReply {
    let message = "ext_proc is misconfigured: request_body_mode must be BUFFERED or FULL_DUPLEX_STREAMED, \
                   as the model name is in the body";
    let body =
        format!(r#"{{"error":{{"message":"{message}","type":"server_error","param":null,"code":"misconfigured"}}}}"#);
    LocalReply {
        status: 500,
        headers: Vec::new(),
        body: body.into_bytes(),
        details: "misconfigured",
    }
}
