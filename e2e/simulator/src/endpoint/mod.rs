//! One simulated model server: an engine in real time, its faults, and what it serves.
//!
//! Requests call the engine directly, under a short lock; one task for each endpoint sleeps until the current step ends,
//! so hundreds of streams cost one timer. Dying replaces the engine: a new incarnation starts with an empty cache and
//! counters at zero, and what belonged to the old one is ignored. A hang stops the clock and nothing else, so that
//! everything goes on where it stood.

mod faults;
mod listener;
mod ticket;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::engine::stats::Stats;
use crate::engine::{Engine, Event, Load, QueueFull, SequenceId, Submission};
use crate::settings::ModelServer;
pub use faults::Fault;
pub(crate) use faults::{Failing, Faults};
pub(crate) use listener::{Listener, Reach};
pub(crate) use ticket::Progress;
use ticket::Ticket;

/// A consistent picture of an endpoint, for its metrics.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// How full the engine is.
    pub(crate) load: Load,
    /// What it has counted.
    pub(crate) stats: Stats,
    /// When this incarnation started.
    pub(crate) started: SystemTime,
}

#[derive(Debug)]
struct Life {
    incarnation: u64,
    engine: Engine,
    /// The engine's time zero.
    epoch: Instant,
    /// Set while the clock stands still.
    stopped_at: Option<Duration>,
    started: SystemTime,
    tickets: HashMap<SequenceId, Arc<Ticket>>,
    events: Vec<Event>,
}

impl Life {
    fn new(server: &ModelServer, incarnation: u64) -> Self {
        Self {
            incarnation,
            engine: Engine::new(server.engine.clone()),
            epoch: Instant::now(),
            stopped_at: None,
            started: SystemTime::now(),
            tickets: HashMap::new(),
            events: Vec::new(),
        }
    }

    fn now(&self) -> Duration {
        self.stopped_at.unwrap_or_else(|| self.epoch.elapsed())
    }

    fn advance(&mut self) {
        let now = self.now();
        self.engine.advance(now, &mut self.events);
        self.deliver();
    }

    fn deliver(&mut self) {
        for event in self.events.drain(..) {
            if event.finished.is_some() {
                if let Some(ticket) = self.tickets.remove(&event.id) {
                    ticket.update(&event);
                }
            } else if let Some(ticket) = self.tickets.get(&event.id) {
                ticket.update(&event);
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        match self.stopped_at {
            Some(_) => None,
            None => self.engine.next_event().map(|at| self.epoch + at),
        }
    }
}

/// One model server at one address.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The same as a header value.
    pub(crate) address_header: HeaderValue,
    /// What it serves.
    pub(crate) server: Arc<ModelServer>,
    life: Mutex<Life>,
    faults: Mutex<Faults>,
    hung: watch::Sender<bool>,
    wake: Notify,
}

impl Endpoint {
    /// An idle endpoint; nothing listens yet.
    pub(crate) fn new(address: SocketAddr, server: Arc<ModelServer>) -> Arc<Self> {
        Arc::new(Self {
            address,
            address_header: HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("")),
            life: Mutex::new(Life::new(&server, 1)),
            server,
            faults: Mutex::new(Faults::default()),
            hung: watch::Sender::new(false),
            wake: Notify::new(),
        })
    }

    /// Runs the engine: one timer, for the end of its current step.
    pub(crate) async fn drive(self: Arc<Self>) {
        loop {
            let next = {
                let mut life = self.life.lock();
                life.advance();
                life.next_wake()
            };
            match next {
                None => self.wake.notified().await,
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    () = self.wake.notified() => {}
                },
            }
        }
    }

    /// Hands sequences to the engine.
    pub(crate) fn submit(self: &Arc<Self>, submissions: Vec<Submission>) -> Result<Vec<Generation>, QueueFull> {
        let mut life = self.life.lock();
        let was_idle = life.engine.next_event().is_none();
        let now = life.now();
        let life = &mut *life;
        let submitted = life.engine.submit(now, submissions, &mut life.events);
        let generations = submitted.map(|ids| {
            let with_ticket = |id| {
                let ticket = Arc::<Ticket>::default();
                life.tickets.insert(id, ticket.clone());
                Generation {
                    endpoint: self.clone(),
                    incarnation: life.incarnation,
                    id,
                    ticket,
                }
            };
            ids.into_iter().map(with_ticket).collect()
        });
        life.deliver();
        if was_idle && life.engine.next_event().is_some() {
            self.wake.notify_one();
        }
        generations
    }

    fn abort(&self, incarnation: u64, id: SequenceId) {
        let mut life = self.life.lock();
        if life.incarnation == incarnation {
            life.engine.abort(id);
            life.tickets.remove(&id);
        }
    }

    /// The engine as of now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut life = self.life.lock();
        life.advance();
        Snapshot {
            load: life.engine.load(),
            stats: life.engine.stats().clone(),
            started: life.started,
        }
    }

    /// How often it has died, plus one.
    pub(crate) fn incarnation(&self) -> u64 {
        self.life.lock().incarnation
    }

    /// Returns at once unless the endpoint hangs; then, when it no longer does.
    pub(crate) async fn until_answering(&self) {
        if *self.hung.borrow() {
            // The sender lives as long as `self`, so waiting cannot fail.
            let _ = self.hung.subscribe().wait_for(|hung| !hung).await;
        }
    }

    /// The delay and the error status that await the next `POST`.
    pub(crate) fn next_fault(&self) -> (Duration, Option<u16>) {
        let mut faults = self.faults.lock();
        (faults.delay, faults.failing.as_mut().and_then(Failing::next))
    }

    /// The metrics that stand still, if they do.
    pub(crate) fn frozen_metrics(&self) -> Option<Bytes> {
        self.faults.lock().frozen_metrics.clone()
    }

    /// Switches on a fault that is not of reach.
    pub(crate) fn inflict(&self, fault: &Fault, metrics: impl FnOnce() -> Bytes) {
        match fault {
            Fault::Hang => self.set_hung(true),
            Fault::Slow { factor, delay_ms } => {
                self.life.lock().engine.slow_down(*factor);
                self.faults.lock().delay = Duration::from_millis(*delay_ms);
            }
            Fault::Error { status, share } => self.faults.lock().failing = Some(Failing::new(*status, *share)),
            Fault::FrozenMetrics => {
                let text = metrics();
                self.faults.lock().frozen_metrics = Some(text);
            }
            Fault::Refuse | Fault::Die => {}
        }
    }

    /// Switches off all faults that are not of reach.
    pub(crate) fn heal(&self) {
        *self.faults.lock() = Faults::default();
        self.life.lock().engine.slow_down(1.0);
        self.set_hung(false);
    }

    /// Loses the engine with everything in it.
    pub(crate) fn die(&self) {
        {
            let mut life = self.life.lock();
            let incarnation = life.incarnation + 1;
            *life = Life::new(&self.server, incarnation);
        }
        self.heal();
    }

    fn set_hung(&self, hung: bool) {
        {
            let mut life = self.life.lock();
            match (hung, life.stopped_at) {
                (true, None) => {
                    life.advance();
                    life.stopped_at = Some(life.now());
                }
                (false, Some(at)) => {
                    life.epoch = Instant::now() - at;
                    life.stopped_at = None;
                }
                _ => {}
            }
        }
        self.hung.send_replace(hung);
        self.wake.notify_one();
    }
}

/// A sequence under way. Dropping it before its end frees what it holds in the engine, at once.
#[derive(Debug)]
pub(crate) struct Generation {
    endpoint: Arc<Endpoint>,
    incarnation: u64,
    id: SequenceId,
    ticket: Arc<Ticket>,
}

impl Generation {
    /// Ready when more than `seen` tokens are there, or the sequence has ended.
    pub(crate) fn poll_progress(&self, seen: u32, context: &mut Context<'_>) -> Poll<Progress> {
        self.ticket.poll(seen, context)
    }

    /// Waits for the end.
    pub(crate) async fn finished(&self) -> Progress {
        std::future::poll_fn(|context| self.poll_progress(u32::MAX, context)).await
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ticket.is_finished() {
            self.endpoint.abort(self.incarnation, self.id);
        }
    }
}
