//! Where a request reads how far its sequence has come.
//!
//! The engine overwrites one value and wakes one reader. Nothing queues up, so a client that reads slowly costs no
//! memory: it finds several tokens at once.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::Endpoint;
use crate::engine::stats::FinishReason;
use crate::engine::{Event, SequenceId};

/// How far a sequence has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Tokens generated so far.
    pub(crate) generated: u32,
    /// Prompt tokens that came from the cache.
    pub(crate) cached: u32,
    /// Why it ended, once it has.
    pub(crate) finished: Option<FinishReason>,
}

/// The engine's end of a [`Generation`].
#[derive(Debug, Default)]
pub(super) struct Ticket {
    state: Mutex<(Progress, Option<Waker>)>,
}

impl Ticket {
    pub(super) fn update(&self, event: &Event) {
        let mut state = self.state.lock();
        state.0 = Progress {
            generated: event.generated,
            cached: event.cached,
            finished: event.finished,
        };
        let waker = state.1.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A sequence under way. Dropping it before its end frees what it holds in the engine, at once.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) incarnation: u64,
    pub(super) id: SequenceId,
    pub(super) ticket: Arc<Ticket>,
}

impl Generation {
    /// Ready when more than `seen` tokens are there, or the sequence has ended.
    pub(crate) fn poll_progress(&self, seen: u32, context: &mut Context<'_>) -> Poll<Progress> {
        let mut state = self.ticket.state.lock();
        if state.0.generated > seen || state.0.finished.is_some() {
            return Poll::Ready(state.0);
        }
        match &mut state.1 {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Waits for the end.
    pub(crate) async fn finished(&self) -> Progress {
        std::future::poll_fn(|context| self.poll_progress(u32::MAX, context)).await
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let finished = self.ticket.state.lock().0.finished.is_some();
        if !finished {
            self.endpoint.abort(self.incarnation, self.id);
        }
    }
}
