//! `ExternalProcessor`: one gRPC stream is one request.
//!
//! Messages are answered as they are read, without a task or a channel between, so that a decision costs one wake-up.
//! What must always hold: when the stream ends, however it ends (answer done, client gone, Envoy gone), the exchange is
//! told and its lease is settled or handed to the access log. A request that waits for state is held by not answering;
//! it is woken by new state or by its deadline, and goes with its client.

pub mod conversation;
#[cfg(test)]
mod stories;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context as Poller, Poll};
use std::time::{Duration, Instant};

use tokio_stream::Stream;
use tonic::Status;

use kthena_scheduler::exchange::{Context, Header, RequestHead, Settings, World};
use kthena_scheduler::lease::{LeaseTable, Ticket};
use kthena_scheduler::pick::Scratch;
use kthena_scheduler::time::Time;

use crate::decisions::Decisions;
use crate::metrics::{Active, Metrics, Request as Counted};
use crate::state::State;
use crate::stream::conversation::{Conversation, News};
use crate::telemetry::{RequestSpan, Tracing};
use crate::wire::{
    BodyMode, Event, Messages, Process, ProcessingRequest, ProcessingResponse, Replies, Streams, decode,
};

/// What all streams share.
#[derive(Debug)]
pub struct Shared {
    /// State from the controller, and what goes back to it.
    pub state: Arc<State>,
    /// Settings of the operator.
    pub settings: Settings,
    /// Requests whose end the access log tells.
    pub leases: Arc<LeaseTable>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Explanations for operators.
    pub decisions: Arc<Decisions>,
    /// Spans.
    pub tracing: Tracing,
    /// Largest number of requests that wait for state at one time.
    pub max_held: usize,
}

impl Shared {
    /// Settles one of our own leases, and corrects what its dispatch made us believe when another endpoint served.
    pub fn settle(&self, number: u64, served: &str) {
        if let Some(ticket) = self.leases.settle(number)
            && !served.is_empty()
            && let Some(relocation) = ticket.trail.and_then(|trail| trail.served(served, self.state.index()))
        {
            self.state.relocated(&relocation);
        }
    }
}

/// The gRPC service. Its bound on one message of Envoy follows from that on a buffered body, which comes in one.
pub fn service(
    shared: Arc<Shared>,
) -> Streams<Process, impl Fn(Messages<ProcessingRequest>) -> Conversing + Clone + Send + Sync + 'static> {
    let bound = usize::try_from(shared.settings.max_body_bytes)
        .unwrap_or(usize::MAX)
        .saturating_add(1 << 20);
    let start = move |messages| {
        shared.metrics.stream_opened();
        Conversing {
            messages,
            conversation: Conversation::default(),
            replies: Replies::default(),
            news: Vec::new(),
            number: None,
            wake: None,
            settled: false,
            active: None,
            begun: Instant::now(),
            span: RequestSpan::default(),
            shared: Arc::clone(&shared),
        }
    };
    // A body that is over the bound still has to arrive, to be answered with 413 and not with a broken stream.
    Streams::new(start, bound.saturating_mul(2))
}

/// One stream.
pub struct Conversing {
    messages: Messages<ProcessingRequest>,
    conversation: Conversation,
    replies: Replies,
    news: Vec<News>,
    /// The lease's number, once the request was seen.
    number: Option<u64>,
    /// Set while the request is held.
    wake: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    settled: bool,
    active: Option<Active>,
    begun: Instant,
    span: RequestSpan,
    shared: Arc<Shared>,
}

thread_local! {
    /// Vectors that decisions on this worker reuse.
    static SCRATCH: std::cell::RefCell<Scratch> = std::cell::RefCell::default();
}

impl Stream for Conversing {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, poller: &mut Poller<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(reply) = self.replies.pop() {
                return Poll::Ready(Some(Ok(reply)));
            }
            if let Some(wake) = &mut self.wake
                && wake.as_mut().poll(poller).is_ready()
            {
                self.release();
                self.act(|conversation, cx, replies, news| conversation.on_wake(cx, replies, news));
                continue;
            }
            match Pin::new(&mut self.messages).poll_next(poller) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(Some(Ok(message))) => self.on_message(message),
            }
        }
    }
}

impl Conversing {
    fn on_message(&mut self, message: ProcessingRequest) {
        let (event, modes) = decode(message);
        if let Some(modes) = modes {
            self.conversation.learn_modes(modes);
        }
        if let Event::RequestHeaders { head, .. } = &event {
            self.trace(head);
            let number = self.shared.leases.number();
            self.number = Some(number);
            let lease = format!("{}/{number}", self.shared.state.origin());
            self.conversation.add_fact("lease", lease);
        }
        if matches!(event, Event::ResponseHeaders { .. }) && self.is_told_by_log() {
            self.conversation.leave_count_to_log();
        }
        self.act(|conversation, cx, replies, news| conversation.on_event(cx, event, replies, news));
    }

    /// Begins the request's span where it is traced, and names it to the model server.
    fn trace(&mut self, head: &RequestHead) {
        if !self.shared.tracing.is_on() || !head.path.starts_with("/v1/") {
            return;
        }
        let random = self.shared.state.random();
        self.span = self
            .shared
            .tracing
            .start(head.header("traceparent"), head.header("tracestate"), random);
        if let Some(value) = self.span.traceparent() {
            let name = "traceparent";
            self.conversation.add_header(Header { name, value });
        }
    }

    /// Lets the conversation take a step in the newest world, and does what it tells.
    fn act(&mut self, step: impl FnOnce(&mut Conversation, &mut Context<'_>, &mut Replies, &mut Vec<News>)) {
        let Self {
            conversation,
            replies,
            news,
            shared,
            ..
        } = self;
        let state = &shared.state;
        let snapshot = state.snapshot();
        let now = state.now();
        let started = Instant::now();
        SCRATCH.with_borrow_mut(|scratch| {
            let mut cx = Context {
                now,
                random: state.random(),
                settings: &shared.settings,
                world: World {
                    snapshot: snapshot.as_ref(),
                    fleet: state.fleet(),
                    index: state.index(),
                },
                scratch,
                may_wait: shared.metrics.readings().held.load(Relaxed) < shared.max_held,
            };
            step(conversation, &mut cx, replies, news);
        });
        let took = started.elapsed();
        for news in std::mem::take(&mut self.news) {
            self.on_news(news, now, took);
        }
    }

    fn on_news(&mut self, news: News, now: Time, took: Duration) {
        match news {
            News::WakeAt(at) => self.hold(Duration::from_millis(at.since(now))),
            News::Dispatched {
                endpoint,
                placed,
                explanation,
            } => {
                if let Some(explanation) = explanation {
                    self.shared.decisions.push(explanation);
                }
                let (shared, record) = (&self.shared, self.conversation.exchange().record());
                self.active = Some(shared.metrics.decided(record, took));
                if shared.metrics.plugins.is_due() {
                    let fleet = shared.state.fleet();
                    SCRATCH.with_borrow(|scratch| shared.metrics.plugins.measure(record, fleet, now, scratch));
                }
                self.shared.state.placed(endpoint, &placed);
            }
            News::Relocated(relocation) => self.shared.state.relocated(&relocation),
            News::Settled => self.settle(),
        }
    }

    fn hold(&mut self, wait: Duration) {
        if self.wake.is_none() {
            self.shared.metrics.readings().held.fetch_add(1, Relaxed);
        }
        let state = Arc::clone(&self.shared.state);
        self.wake = Some(Box::pin(async move {
            let mut changed = state.changed();
            // Looks before it waits: state may have come since the exchange looked. Either way it looks again.
            let ready = changed.wait_for(|_| state.snapshot().is_some());
            let _ = tokio::time::timeout(wait, ready).await;
        }));
    }

    fn release(&mut self) {
        if self.wake.take().is_some() {
            self.shared.metrics.readings().held.fetch_sub(1, Relaxed);
        }
    }

    fn settle(&mut self) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        if let (Some(number), trail @ Some(_)) = (self.number, self.conversation.exchange().take_trail()) {
            self.shared.leases.keep(number, Ticket { lease: None, trail });
        }
        // Where the answer did not pass through us the access log tells of its status and usage, and counts the request.
        let log_counts = self.conversation.is_counted_by_log();
        let record = self.conversation.exchange().record();
        if record.form.is_some() && record.status.is_some() && !log_counts {
            let duration_s = Some(self.begun.elapsed().as_secs_f64());
            self.shared.metrics.request_ended(&Counted {
                duration_s,
                ..Counted::of(record)
            });
        }
    }

    /// Whether the answer goes on after this stream has ended, and somebody will tell of its end.
    fn outlived(&self) -> bool {
        self.conversation.modes().request == BodyMode::FullDuplex && self.is_told_by_log()
    }

    /// Whether the answer's body does not come here, and an access log tells what it said.
    fn is_told_by_log(&self) -> bool {
        self.conversation.modes().response == BodyMode::None
            && self.shared.metrics.readings().log_streams.load(Relaxed) > 0
    }
}

impl Drop for Conversing {
    fn drop(&mut self) {
        self.release();
        if self.outlived()
            && let (Some(number), Some(ticket)) = (self.number, self.conversation.exchange().hand_over())
        {
            self.shared.leases.keep(number, ticket);
        }
        self.act(|conversation, cx, _, news| conversation.on_end(cx, news));
        std::mem::take(&mut self.span).finish(self.conversation.exchange().record());
        self.shared.metrics.stream_closed();
    }
}
