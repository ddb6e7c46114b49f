//! Where a request reads how far its sequence has come.
//!
//! The engine overwrites one value and wakes one reader. Nothing queues up, so a client that reads slowly costs no
//! memory: it finds several tokens at once.

use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::engine::Event;
use crate::engine::stats::FinishReason;

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

/// The engine's end of a sequence under way.
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

    /// Ready when more than `seen` tokens are there, or the sequence has ended.
    pub(super) fn poll(&self, seen: u32, context: &mut Context<'_>) -> Poll<Progress> {
        let mut state = self.state.lock();
        if state.0.generated > seen || state.0.finished.is_some() {
            return Poll::Ready(state.0);
        }
        match &mut state.1 {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    pub(super) fn is_finished(&self) -> bool {
        self.state.lock().0.finished.is_some()
    }
}
