//! The process' clock, as the core wants it.

use std::time::{Duration, Instant};

use kthena_scheduler::time::Time;

/// The origin of time lies this long before the start, so that a sample that is older than the process has an age.
const HEAD_START: Duration = Duration::from_secs(24 * 3600);

/// Reads the core's time off the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        let since = HEAD_START + self.started.elapsed();
        Time::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}
