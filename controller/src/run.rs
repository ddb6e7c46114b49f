//! The main loop: events and observations in, Envoy's files and published state out, in the right order.
//!
//! What must always hold: nothing is compiled before the source has told all there is, and nothing is published before
//! the endpoints of that first picture have been asked once (a filter that returns to a restarted controller would
//! otherwise lose all it knows of them), or a deadline has passed; files come before what is published, and removals
//! after it (`envoy`). It fails by holding what it cannot do and trying again: while Envoy's files cannot be written,
//! decisions stay as they were.

use std::sync::Arc;
use std::time::Duration;

use kthena_scheduler::state::proto::ResourceType;
use kthena_scheduler::time::Time;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;
use crate::compile::{Compiler, Facts, Output, Resources, Touched};
use crate::envoy::{Files, Rollout};
use crate::index::Index;
use crate::metrics::{self, kind};
use crate::observe::{Scraper, Table};
use crate::picture::{Picture, Tally};
use crate::publish::Hub;
use crate::source::Event;
use crate::status;

/// Changes that come this close together are compiled as one, milliseconds.
const COALESCE_MS: u64 = 5;

/// How long after a failed write Envoy's files are tried again, milliseconds.
const RETRY_MS: u64 = 1000;

/// Types of resources that are compiled.
const TYPES: [ResourceType; 4] = [
    ResourceType::Route,
    ResourceType::Server,
    ResourceType::Profile,
    ResourceType::Endpoints,
];

/// What the loop works with.
#[derive(Debug)]
pub struct Parts {
    /// The compiler.
    pub compiler: Compiler,
    /// Observes the endpoints.
    pub scraper: Scraper,
    /// What it learns.
    pub table: Arc<Table>,
    /// The state service.
    pub hub: Arc<Hub>,
    /// Envoy's files; `None` = none are written.
    pub files: Option<Files>,
    /// The order of changes.
    pub rollout: Rollout<Resources>,
    /// How long the first state waits for the first answers of the endpoints.
    pub first_state_wait: Duration,
    /// The time.
    pub clock: Clock,
    /// Counts and times.
    pub metrics: metrics::Compile,
    /// Where each new picture goes.
    pub picture: watch::Sender<Arc<Picture>>,
    /// Turns true when the first state is published.
    pub ready: watch::Sender<bool>,
}

#[derive(Debug)]
struct Loop {
    parts: Parts,
    index: Index,
    facts: Facts,
    /// How many there are of what the last picture shows.
    tally: Tally,
    /// When what has changed is compiled.
    compile_at: Option<Time>,
    /// Until when the first state may wait; set by the first compilation.
    first_until: Option<Time>,
    /// Endpoints that the last compilation left out, as they were not asked yet.
    left_out: usize,
    /// Which version of the rollout Envoy's files hold.
    written: Option<u64>,
    retry_at: Option<Time>,
}

/// Runs until the source ends, which it does when it is dropped.
pub async fn run(parts: Parts, events: &mut mpsc::Receiver<Vec<Event>>) {
    let mut answers = parts.hub.answers();
    let table = Arc::clone(&parts.table);
    let mut state = Loop {
        parts,
        index: Index::default(),
        facts: Facts::default(),
        tally: Tally::default(),
        compile_at: None,
        first_until: None,
        left_out: 0,
        written: None,
        retry_at: None,
    };
    // Files of a predecessor stay until the first picture is there; without any, Envoy would not start.
    loop {
        let wake = state.wake_at();
        tokio::select! {
            batch = events.recv() => match batch {
                Some(batch) => state.take(batch),
                None => return,
            },
            () = table.facts_changed() => state.changed(),
            Ok(()) = answers.changed() => {}
            () = sleep_until(wake) => {}
        }
        state.step();
    }
}

// === impl Loop ===

impl Loop {
    fn now(&self) -> Time {
        self.parts.clock.now()
    }

    fn take(&mut self, batch: Vec<Event>) {
        for event in batch {
            self.index.apply(event);
        }
        self.changed();
    }

    fn changed(&mut self) {
        let at = self.now().after(COALESCE_MS);
        self.compile_at.get_or_insert(at);
    }

    /// When there is something to do if nothing happens before.
    fn wake_at(&self) -> Instant {
        let first = self.first_until.filter(|_| !self.is_ready());
        let compile = self.compile_at.filter(|_| self.index.synced());
        let due = [compile, self.parts.rollout.wake_at(), self.retry_at, first];
        let due = due.into_iter().flatten().min();
        // A millisecond late rather than early: the clock counts whole ones.
        let wait = due.map_or(60_000, |at| at.since(self.now()) + 1);
        Instant::now() + Duration::from_millis(wait)
    }

    fn step(&mut self) {
        if self.compile_at.is_some_and(|at| at <= self.now()) && self.index.synced() {
            self.compile_at = None;
            self.compile();
        }
        self.advance();
    }

    fn is_ready(&self) -> bool {
        *self.parts.ready.borrow()
    }

    fn compile(&mut self) {
        let begun = std::time::Instant::now();
        let mut touched = Touched {
            pods: self.index.take_touched(),
            endpoints: self.parts.table.follow(&mut self.facts),
        };
        let mut output = self.parts.compiler.compile(&self.index, &self.facts, &touched);
        self.parts.scraper.set_targets(&output.targets);
        // Endpoints met for the first time are pending from now on.
        touched = Touched {
            pods: Vec::new(),
            endpoints: self.parts.table.follow(&mut self.facts),
        };
        if !touched.endpoints.is_empty() {
            output = self.parts.compiler.compile(&self.index, &self.facts, &touched);
        }
        self.parts.metrics.duration.observe(begun.elapsed().as_secs_f64());
        let now = self.now();
        if self.first_until.is_none() {
            let wait = u64::try_from(self.parts.first_state_wait.as_millis()).unwrap_or(u64::MAX);
            self.first_until = Some(now.after(wait));
        }
        self.left_out = self.facts.pending.len();
        let resources = self.show(output, now);
        tracing::debug!(resources, pending = self.left_out, "compiled");
    }

    /// Tells of a new outcome and offers it for publication. Returns how many resources it has.
    fn show(&mut self, output: Output, now: Time) -> usize {
        let (resources, clusters) = (output.resources.clone(), output.clusters.clone());
        let before = Arc::clone(&self.parts.picture.borrow());
        let picture = Picture::new(&self.index, output);
        for remark in status::changes(before.view(), picture.view()) {
            remark.log();
        }
        self.tally.follow(&before, &picture);
        self.count(&picture);
        self.parts.picture.send_replace(Arc::new(picture));
        let count = resources.len();
        self.parts.rollout.offer(clusters, resources, now);
        count
    }

    fn count(&self, picture: &Picture) {
        let metrics = &self.parts.metrics;
        metrics
            .bad_documents
            .set(self.tally.refused + picture.nameless() as i64);
        for of in TYPES {
            let count = self.tally.resources.get(&of).copied().unwrap_or_default();
            metrics.resources.get_or_create(&kind(of.as_str_name())).set(count);
        }
        for (of, count) in self.index.counts() {
            metrics.objects.get_or_create(&kind(of.as_str())).set(count as i64);
        }
    }

    /// Moves changes on as far as they may go now.
    fn advance(&mut self) {
        let hub = Arc::clone(&self.parts.hub);
        loop {
            let now = self.now();
            let late = self
                .parts
                .rollout
                .settle(|generation| hub.acknowledged(generation), now);
            if late > 0 {
                tracing::warn!("filters did not acknowledge a removal in time: it leaves Envoy all the same");
                self.parts.metrics.removals_unacknowledged.inc_by(late);
            }
            if !self.write_files(now) || !self.may_publish(now) {
                return;
            }
            let Some((resources, clusters)) = self.parts.rollout.due(now) else {
                return;
            };
            let generation = hub.set_config(resources);
            self.parts.rollout.published(clusters, generation, now);
            if !self.is_ready() {
                self.parts.ready.send_replace(true);
            }
        }
    }

    /// What is offered is judged by the facts that it was compiled from: endpoints that have answered since are not in it yet.
    fn may_publish(&self, now: Time) -> bool {
        let late = |until: Time| until <= now;
        self.is_ready() || self.first_until.is_some_and(|until| late(until) || self.left_out == 0)
    }

    /// Returns whether the files hold what they must.
    fn write_files(&mut self, now: Time) -> bool {
        let Some(files) = &mut self.parts.files else {
            return true;
        };
        // Before the first picture nothing is known of what should be in them.
        if self.first_until.is_none() {
            return true;
        }
        let wanted = self.parts.rollout.version();
        if self.written == Some(wanted) {
            return true;
        }
        if self.retry_at.is_some_and(|at| at > now) {
            return false;
        }
        match files.write(&self.parts.rollout.files()) {
            Ok(count) => {
                self.parts.metrics.envoy_writes.inc_by(count as u64);
                self.written = Some(wanted);
                self.retry_at = None;
                true
            }
            Err(error) => {
                tracing::error!(%error, "Envoy's files cannot be written: decisions stay as they are until they can");
                self.parts.metrics.envoy_write_failures.inc();
                self.retry_at = Some(now.after(RETRY_MS));
                false
            }
        }
    }
}
