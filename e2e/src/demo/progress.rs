//! How far a replay has come: counted by its clients, shown while it runs.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::profile::Profile;

/// Requests answered and lost so far, by profile.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) answered: [AtomicUsize; Profile::ALL.len()],
    pub(super) lost: AtomicUsize,
}

impl Progress {
    /// Requests of a profile that were answered.
    pub(super) fn answered(&self, profile: Profile) -> usize {
        self.answered[profile as usize].load(Relaxed)
    }

    /// Requests that were lost.
    pub(super) fn lost(&self) -> usize {
        self.lost.load(Relaxed)
    }
}
