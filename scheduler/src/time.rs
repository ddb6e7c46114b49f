//! Time as the core sees it: a number that the shell hands in.
//!
//! It must never go backwards within a process; nothing here reads a clock. Differences saturate at zero, so that a
//! shell with a coarse clock cannot make the core fail.

/// A moment: milliseconds since some moment of the process' own choosing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The moment `millis` after the process' origin of time.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the process' origin of time.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Milliseconds since `earlier`, 0 when it lies in the future.
    pub const fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `millis` later.
    pub const fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// The moment `millis` earlier, at the earliest the origin of time.
    pub const fn before(self, millis: u64) -> Self {
        Self(self.0.saturating_sub(millis))
    }
}
