//! One plugin in one VM: all its requests, its stream to the controller, its ticks.
//!
//! Requests live in one table here, and every call out is made here: the SDK answers a call where it was issued, and a
//! request that waits is woken from a tick or by a message of the controller. What must always hold: the VM that serves
//! no requests (an Envoy makes one on its main thread) subscribes to nothing; a controller that is lost loses nothing but
//! freshness; a held request is let go or answered by its deadline; the last good state is left in the host's shared data
//! for other workers and for the next plugin.

use std::sync::Arc;

use ahash::AHashMap;
use kthena_scheduler::snapshot::Snapshot;
use kthena_scheduler::state::proto::{FromFilter, ToFilter};
use kthena_scheduler::state::subscriber::Received;
use kthena_scheduler::time::Time;
use prost::Message as _;
use twox_hash::XxHash3_64;

use crate::config::{Config, Hold, Usage};
use crate::host::{Flow, Host, Level};
use crate::keep;
use crate::link::Link;
use crate::metrics::{Metrics, Reading};
use crate::over;
use crate::state::State;
use crate::stream::{Conversation, Progress};

/// How often a VM that serves requests looks at what is due.
const TICK_MS: u64 = 20;
/// How often a VM that serves none does.
const IDLE_TICK_MS: u64 = 1_000;
/// Time that a controller has to say its state before an older one serves.
const CONTROLLER_FIRST_MS: u64 = 250;
/// Least time between two looks at what is done now and then.
const SLOW_MS: u64 = 1_000;
/// Counts the VMs of a host that decide by the head alone, so that one of them says so.
const HOLD_OFF: &str = "kthena.hold_off";
/// Counts the VMs of a host, so that no two of them name themselves alike.
const VM_COUNTER: &str = "kthena.vms";

/// One plugin in one VM.
#[derive(Debug)]
pub struct Root<H> {
    host: H,
    /// The host's number of the plugin's own context.
    id: u32,
    config: Config,
    state: State,
    link: Link,
    /// Boxed, as each event takes one out and puts it back.
    requests: AHashMap<u32, Box<Conversation>>,
    /// Requests that wait for state, in order of arrival.
    held: Vec<u32>,
    /// The host was seen to show a body while it held the head.
    shows_bodies: bool,
    /// As long as it was not: requests whose head is held, and what the host had counted of them when it came.
    unseen: Vec<(u32, u64)>,
    metrics: Metrics,
    reading: Reading,
    last_told: Time,
    last_kept: Time,
    /// Requests have come here.
    serves: bool,
    /// When the first of them came.
    began: Time,
    /// It was looked at what others have left.
    restored: bool,
    /// The state changed since it was left for the next plugin.
    unsaved: bool,
}

// === impl Root ===

impl<H: Host> Root<H> {
    /// A plugin with this configuration.
    pub fn new(host: H, id: u32, config: Config) -> Self {
        let now = host.now();
        let number = host.count_shared(VM_COUNTER);
        let node = host.property(&["node", "id"]).unwrap_or_default();
        let seed = XxHash3_64::oneshot_with_seed(now ^ number.rotate_left(48), &node);
        let mut state = State::new(&config, format!("wasm-{seed:016x}-{number}"), seed);
        state.set_now(now);
        host.tick_every(IDLE_TICK_MS);
        say_what_is_held(&host, config.hold);
        over::FACTS.iter().for_each(|fact| host.declare_text(fact));
        Self {
            metrics: Metrics::new(&host),
            reading: Reading::default(),
            requests: AHashMap::new(),
            held: Vec::new(),
            shows_bodies: false,
            unseen: Vec::new(),
            link: Link::new(),
            last_told: state.now(),
            last_kept: Time::default(),
            serves: false,
            began: Time::default(),
            restored: false,
            unsaved: false,
            host,
            id,
            config,
            state,
        }
    }

    /// The first request has come.
    fn begin(&mut self) {
        // The stream is opened from the next tick: what is opened in a request's event is answered to that request.
        self.host.tick_every(TICK_MS);
        self.began = self.state.now();
        if self.config.state_wait_ms == 0 {
            self.restore();
        }
    }

    /// Serves what an earlier plugin or another worker has left, when the controller is not there to say it better.
    fn restore(&mut self) {
        self.restored = true;
        match keep::load(&self.host, self.config.shared_state_bytes) {
            Ok(Some(saved)) => {
                let now = self.state.now();
                let (subscriber, index) = self.state.learning();
                if let Some(snapshot) = subscriber.restore(&saved, index, now) {
                    self.state.publish(snapshot);
                    self.host.log(
                        Level::Info,
                        "kthena: serving the state that another worker or plugin left",
                    );
                    self.wake(true);
                }
            }
            Ok(None) => {}
            Err(reason) => {
                let line = format!("kthena: left the shared state aside: {reason}");
                self.host.log(Level::Warn, &line);
            }
        }
    }

    /// What is known of a request.
    pub fn request(&self, id: u32) -> Option<&Conversation> {
        self.requests.get(&id).map(AsRef::as_ref)
    }

    /// The host.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The newest configuration.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.state.snapshot()
    }

    // --- requests

    /// The head of a request has come.
    pub fn on_request_headers(&mut self, id: u32, end: bool) -> Flow {
        self.state.set_now(self.host.now());
        if !std::mem::replace(&mut self.serves, true) {
            self.host.enter(self.id);
            self.begin();
            self.host.enter(id);
        }
        let mut conversation = Box::<Conversation>::default();
        conversation.moments.began = self.state.nanoseconds();
        let flow = conversation.on_request_headers(&mut self.state, &self.host, end);
        if conversation.progress() == Progress::Held && !self.shows_bodies {
            self.unseen.push((id, received(&self.host)));
        }
        self.put(id, conversation, Progress::New);
        flow
    }

    /// So many bytes of a request's body have come in all.
    pub fn on_request_body(&mut self, id: u32, bytes: usize, end: bool) -> Flow {
        if !self.shows_bodies && self.request(id).is_some_and(|known| known.progress() == Progress::Held) {
            self.shows_bodies = true;
            self.unseen = Vec::new();
        }
        if self
            .requests
            .get_mut(&id)
            .is_some_and(|known| known.awaits_more(bytes, end))
        {
            return Flow::Pause;
        }
        self.on_request(id, |conversation, state, host| {
            conversation.on_request_body(state, host, bytes, end)
        })
    }

    /// A request ended with trailers.
    pub fn on_request_trailers(&mut self, id: u32) -> Flow {
        self.on_request(id, |conversation, state, host| {
            conversation.on_request_trailers(state, host)
        })
    }

    fn on_request(&mut self, id: u32, step: impl FnOnce(&mut Conversation, &mut State, &H) -> Flow) -> Flow {
        self.state.set_now(self.host.now());
        let Some(mut conversation) = self.requests.remove(&id) else {
            return Flow::Continue;
        };
        let before = conversation.progress();
        let flow = step(&mut conversation, &mut self.state, &self.host);
        self.put(id, conversation, before);
        flow
    }

    /// Puts a request back into the table, and those that wait or have left where they are counted.
    fn put(&mut self, id: u32, conversation: Box<Conversation>, before: Progress) {
        let progress = conversation.progress();
        let undecided = conversation.record().error_type.is_some();
        self.requests.insert(id, conversation);
        match progress {
            Progress::Passing if undecided => self.note_undecided(),
            Progress::Waiting(_) if !self.held.contains(&id) => self.held.push(id),
            Progress::Sent if before != progress => self.reading.dispatched += 1,
            Progress::Answered if before != progress => self.reading.answered += 1,
            _ => {}
        }
        self.state.held = self.held.len();
    }

    /// A request has gone on without a decision, as there was no state.
    fn note_undecided(&mut self) {
        if self.reading.undecided == 0 {
            self.host.log(
                Level::Warn,
                "kthena: there is no state: requests go on undecided, as when_no_state says",
            );
        }
        self.reading.undecided += 1;
    }

    /// The head of an answer has come.
    pub fn on_response_headers(&mut self, id: u32, end: bool) {
        self.state.set_now(self.host.now());
        if let Some(conversation) = self.requests.get_mut(&id) {
            conversation.moments.answered.get_or_insert(self.state.nanoseconds());
            conversation.on_response_headers(&mut self.state, &self.host, end);
        }
    }

    /// So many bytes of an answer pass.
    pub fn on_response_body(&mut self, id: u32, bytes: usize, end: bool) {
        if let Some(conversation) = self.requests.get_mut(&id) {
            conversation.on_response_body(&mut self.state, &self.host, bytes, end);
        }
    }

    /// An answer ended with trailers.
    pub fn on_response_trailers(&mut self, id: u32) {
        if let Some(conversation) = self.requests.get_mut(&id) {
            conversation.on_response_end(&mut self.state, &self.host);
        }
    }

    /// An entry of the access log about a request is about to be written.
    pub fn on_log(&self, id: u32) {
        if let Some(conversation) = self.requests.get(&id) {
            conversation.on_log(&self.host);
        }
    }

    /// A request is over, however it ended: what is in flight of it is settled.
    pub fn on_done(&mut self, id: u32) {
        if let Some(mut conversation) = self.requests.remove(&id) {
            let is_ours = conversation.is_ours();
            conversation.on_done(&mut self.state, &self.host);
            if is_ours {
                self.count(&conversation);
            }
        }
        if !self.held.is_empty() {
            self.held.retain(|held| *held != id);
            self.state.held = self.held.len();
        }
    }

    fn count(&mut self, conversation: &Conversation) {
        self.state.set_now(self.host.now());
        let record = conversation.record();
        let mut request = over::request(record, conversation.moments, self.state.nanoseconds());
        if record.selected.is_some() && self.config.usage == Usage::Envoy {
            let tokens = over::metered(&self.host);
            request.input_tokens = tokens.input_tokens;
            request.output_tokens = tokens.output_tokens;
        }
        self.state.subscriber.count(&request, over::match_ratio(record));
    }

    // --- the controller

    /// Some time has passed.
    pub fn on_tick(&mut self) {
        self.state.set_now(self.host.now());
        let now = self.state.now();
        if self.serves {
            self.connect();
            if self.state.snapshot().is_none() && !self.restored && now.since(self.began) > CONTROLLER_FIRST_MS {
                self.restore();
            }
            self.send_due();
            self.refuse_unheld();
            self.wake(false);
        }
        if self.unsaved && now.since(self.last_kept) >= SLOW_MS {
            self.last_kept = now;
            self.keep();
        }
        if now.since(self.last_told) >= SLOW_MS {
            self.last_told = now;
            self.tell();
        }
    }

    fn connect(&mut self) {
        let now = self.state.now();
        if let Some(stream) = self.link.stream()
            && self.link.is_overdue(self.state.subscriber.is_connected(), now)
        {
            self.host.close_stream(stream);
            self.lost("it did not say welcome in time");
        }
        if !self.link.is_due(now) {
            return;
        }
        match self.host.open_stream(&self.config.controller) {
            Some(stream) => {
                self.link.opened(stream, now);
                let hello = self.state.subscriber.hello();
                self.send(&hello);
            }
            None => self.lost("the host has no such cluster, or no connection"),
        }
    }

    fn send_due(&mut self) {
        let now = self.state.now();
        for message in self.state.subscriber.due(now) {
            self.send(&message);
        }
    }

    fn send(&mut self, message: &FromFilter) {
        if let Some(stream) = self.link.stream()
            && !self.host.send(stream, &message.encode_to_vec())
        {
            self.host.close_stream(stream);
            self.lost("the host did not take a message");
        }
    }

    /// A message of the controller has come.
    pub fn on_message(&mut self, stream: u32, bytes: &[u8]) {
        if self.link.stream() != Some(stream) {
            return;
        }
        self.state.set_now(self.host.now());
        self.reading.state_messages += 1;
        let Ok(message) = ToFilter::decode(bytes) else {
            self.reading.state_malformed += 1;
            self.host.close_stream(stream);
            return self.lost("it sent a message that cannot be read");
        };
        let now = self.state.now();
        let was_connected = self.state.subscriber.is_connected();
        let (subscriber, index) = self.state.learning();
        match subscriber.receive(message, index, now) {
            Ok(received) => self.on_received(received, was_connected),
            Err(error) => {
                self.host.close_stream(stream);
                self.lost(&error.to_string());
            }
        }
    }

    fn on_received(&mut self, received: Received, was_connected: bool) {
        if !was_connected && self.state.subscriber.is_connected() {
            self.reading.state_streams += 1;
            self.host.log(Level::Info, "kthena: subscribed to the controller");
        }
        for refused in &received.refused {
            let (name, reason) = (&refused.name, &refused.reason);
            let line = format!("kthena: refused {name}, its last good version stays: {reason}");
            self.host.log(Level::Warn, &line);
        }
        if let Some(reply) = received.reply {
            self.send(&reply);
        }
        if let Some(snapshot) = received.snapshot {
            self.state.publish(snapshot);
            self.unsaved = true;
            self.wake(true);
        }
    }

    /// The stream to the controller has ended.
    pub fn on_closed(&mut self, stream: u32, status: u32) {
        if self.link.stream() == Some(stream) {
            self.state.set_now(self.host.now());
            self.lost(&format!("gRPC status {status}"));
        }
    }

    fn lost(&mut self, reason: &str) {
        let level = if self.state.subscriber.is_connected() {
            Level::Warn
        } else {
            Level::Debug
        };
        let line = format!("kthena: no stream to the controller, going on with what is known: {reason}");
        self.host.log(level, &line);
        let now = self.state.now();
        self.state.subscriber.lost(now);
        let random = self.state.random();
        self.link.lost(random, now);
        if self.state.snapshot().is_none() && !self.restored {
            self.restore();
        }
    }

    // --- what waits

    /// Wakes requests that wait: all of them when there is new state, else those whose time is over.
    fn wake(&mut self, all: bool) {
        if self.held.is_empty() {
            return;
        }
        let now = self.state.now();
        for id in std::mem::take(&mut self.held) {
            let Some(mut conversation) = self.requests.remove(&id) else {
                continue;
            };
            let before = conversation.progress();
            if matches!(before, Progress::Waiting(until) if all || until <= now) {
                self.host.enter(id);
                if conversation.on_wake(&mut self.state, &self.host) == Flow::Continue {
                    self.host.resume();
                }
            }
            self.put(id, conversation, before);
        }
        self.state.held = self.held.len();
        self.host.enter(self.id);
    }

    /// A host that has received of a body and shows nothing of it would hold the request for ever.
    fn refuse_unheld(&mut self) {
        if self.unseen.is_empty() {
            return;
        }
        let mut told = false;
        let Self {
            unseen, requests, host, ..
        } = self;
        unseen.retain(|(id, before)| {
            let Some(conversation) = requests.get_mut(id) else {
                return false;
            };
            if conversation.progress() != Progress::Held {
                return false;
            }
            host.enter(*id);
            if received(host) <= *before {
                return true;
            }
            conversation.refuse_unheld(host);
            told = true;
            false
        });
        self.host.enter(self.id);
        if told {
            if self.reading.unheld == 0 {
                self.host.log(
                    Level::Error,
                    "kthena: this host does not show bodies while heads are held: set allow_on_headers_stop_iteration: true in \
                     the filter's PluginConfig; until then requests are answered 500",
                );
            }
            self.reading.unheld += 1;
        }
    }

    // --- now and then

    fn keep(&mut self) {
        self.unsaved = false;
        if let Some(saved) = self.state.subscriber.saved() {
            match keep::store(&self.host, &saved, self.config.shared_state_bytes) {
                Ok(()) => self.reading.state_kept += 1,
                Err(reason) => {
                    self.reading.state_not_kept += 1;
                    let line = format!("kthena: could not leave the state for the next plugin: {reason}");
                    self.host.log(Level::Warn, &line);
                }
            }
        }
    }

    fn tell(&mut self) {
        let counters = self.state.subscriber.counters();
        self.reading = Reading {
            synced: u64::from(self.serves && self.state.snapshot().is_some()),
            connected: u64::from(self.state.subscriber.is_connected()),
            held: self.held.len() as u64,
            requests: self.requests.len() as u64,
            memory_bytes: memory_bytes(),
            hold_off: u64::from(self.config.hold == Hold::Off),
            state_refused: counters.refused,
            placements_dropped: self.state.subscriber.dropped_placements(),
            placements_unknown: self.state.subscriber.unknown_placements(),
            series_overflowed: self.state.subscriber.overflowed_counts(),
            ..self.reading
        };
        self.metrics.tell(&self.host, &self.reading);
    }

    /// The plugin ends.
    pub fn on_end(&mut self) {
        for message in self.state.subscriber.farewell() {
            self.send(&message);
        }
        if let Some(stream) = self.link.stream() {
            self.host.close_stream(stream);
        }
        self.metrics.end(&self.host);
    }
}

/// One VM of a host says that heads are not held.
fn say_what_is_held(host: &impl Host, hold: Hold) {
    match hold {
        Hold::On if host.shared(HOLD_OFF).is_some() => host.share(HOLD_OFF, &0_u64.to_le_bytes()),
        Hold::Off if host.count_shared(HOLD_OFF) == 1 => host.log(
            Level::Warn,
            "kthena: hold is off: the model is taken from the header x-gateway-model-name or the path /m/<model>/v1/..., \
             bodies are neither read nor changed, and prompts do not decide",
        ),
        _ => {}
    }
}

/// Bytes of the request that the host has received: head and, as it comes, body.
fn received(host: &impl Host) -> u64 {
    let bytes = host.property(&["request", "total_size"]).unwrap_or_default();
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

/// Memory of this VM.
#[cfg(target_family = "wasm")]
fn memory_bytes() -> u64 {
    const PAGE: u64 = 64 << 10;
    core::arch::wasm32::memory_size(0) as u64 * PAGE
}

/// Not a VM.
#[cfg(not(target_family = "wasm"))]
fn memory_bytes() -> u64 {
    0
}
