//! Calls out: what an exchange has asked of its shell and not yet heard of.
//!
//! What must always hold: an identifier is used once; only an open call can be answered, so a late or doubled reply, or
//! one to a cancelled call, changes nothing; every call has a deadline. No capability calls out yet: [`CallKind`] has a
//! variant in tests alone, which prove the machinery.

use crate::time::Time;

/// Identifies a call within its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u32);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// Proves the machinery.
    #[cfg(test)]
    Probe,
}

#[derive(Debug, Default)]
pub(super) struct Calls {
    next: u32,
    open: Vec<(CallId, Time)>,
}

impl Calls {
    /// Opens a call that must be answered by `deadline`.
    pub(super) fn open(&mut self, deadline: Time) -> CallId {
        let id = CallId(self.next);
        self.next += 1;
        self.open.push((id, deadline));
        id
    }

    /// Closes a call that was answered; false when it was not open.
    pub(super) fn close(&mut self, id: CallId) -> bool {
        let before = self.open.len();
        self.open.retain(|(open, _)| *open != id);
        self.open.len() < before
    }

    /// Closes the calls whose deadline has come.
    pub(super) fn overdue(&mut self, now: Time) -> Vec<CallId> {
        let overdue = self
            .open
            .iter()
            .filter(|(_, deadline)| *deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        self.open.retain(|(_, deadline)| *deadline > now);
        overdue
    }

    /// Closes all calls.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = CallId> + '_ {
        self.open.drain(..).map(|(id, _)| id)
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.open.iter().map(|(_, deadline)| *deadline).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}
