//! The process' clock, as the core wants it.

use std::time::{Duration, Instant};

use kthena_scheduler::time::Time;

/// The origin of time lies this long before the start, so that a sample that is older than the process has an age.
const HEAD_START: Duration = Duration::from_secs(24 * 3600);

/// Reads the core's time off the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Source);

#[derive(Clone, Copy, Debug)]
enum Source {
    Monotonic { started: Instant },
    Stopped(Time),
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self(Source::Monotonic {
            started: Instant::now(),
        })
    }

    /// A clock that stands still at this moment: decisions made by it are the same each time.
    pub fn stopped(at: Time) -> Self {
        Self(Source::Stopped(at))
    }

    /// The present moment.
    pub fn now(&self) -> Time {
        match self.0 {
            Source::Monotonic { started } => {
                let since = HEAD_START + started.elapsed();
                Time::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Source::Stopped(at) => at,
        }
    }
}
