//! Whether there is a stream to the controller, and when the next is tried.
//!
//! What must always hold: tries are spread by jitter and grow further apart up to a bound, so that a restarted controller
//! is not met by all workers of all Envoys at once; a controller that does not say welcome in time is given up.

use kthena_scheduler::time::Time;

const FIRST_WAIT_MS: u64 = 50;
const LONGEST_WAIT_MS: u64 = 1_000;
/// Time for a controller to say welcome.
const PATIENCE_MS: u64 = 5_000;

/// The stream to the controller.
#[derive(Debug)]
pub struct Link {
    stream: Option<Stream>,
    retry_at: Time,
    wait_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    id: u32,
    opened: Time,
}

impl Link {
    /// No stream; the first is to be opened at once.
    pub fn new() -> Self {
        Self {
            stream: None,
            retry_at: Time::default(),
            wait_ms: FIRST_WAIT_MS,
        }
    }

    /// The stream that is open.
    pub fn stream(&self) -> Option<u32> {
        self.stream.map(|stream| stream.id)
    }

    /// Whether it is time to open a stream.
    pub fn is_due(&self, now: Time) -> bool {
        self.stream.is_none() && now >= self.retry_at
    }

    /// A stream was opened.
    pub fn opened(&mut self, id: u32, now: Time) {
        self.stream = Some(Stream { id, opened: now });
    }

    /// Whether an open stream has waited too long for its welcome.
    pub fn is_overdue(&self, welcome: bool, now: Time) -> bool {
        let waits = |stream: Stream| !welcome && now.since(stream.opened) > PATIENCE_MS;
        self.stream.is_some_and(waits)
    }

    /// The stream has ended, or could not be opened; `random` spreads the next try over half to one and a half of the
    /// wait.
    pub fn lost(&mut self, random: u64, now: Time) {
        let lasted = self.stream.take().map_or(0, |stream| now.since(stream.opened));
        if lasted > LONGEST_WAIT_MS {
            self.wait_ms = FIRST_WAIT_MS;
        }
        self.retry_at = now.after(self.wait_ms / 2 + random % (self.wait_ms + 1));
        self.wait_ms = (self.wait_ms * 2).min(LONGEST_WAIT_MS);
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn tries_grow_apart_up_to_a_bound_and_are_spread() {
        let mut link = Link::new();
        assert!(link.is_due(at(0)));
        let mut now = at(10_000);
        let mut waits = Vec::new();
        for _ in 0..8 {
            link.lost(0, now);
            let next = (0..).find(|ms| link.is_due(now.after(*ms))).unwrap();
            waits.push(next);
            now = now.after(next);
        }
        assert_eq!(waits, [25, 50, 100, 200, 400, 500, 500, 500]);
        link.lost(u64::MAX, now);
        assert!(
            link.is_due(now.after(1_500)),
            "jitter stays below one and a half of the wait"
        );
    }

    #[test]
    fn a_stream_that_lasted_makes_the_next_try_soon() {
        let mut link = Link::new();
        (0..10).for_each(|_| link.lost(0, at(0)));
        link.opened(7, at(1_000));
        assert!(!link.is_due(at(60_000)) && link.stream() == Some(7));
        link.lost(0, at(60_000));
        assert!(!link.is_due(at(60_024)) && link.is_due(at(60_025)));
    }

    #[test]
    fn a_controller_that_never_says_welcome_is_given_up() {
        let mut link = Link::new();
        link.opened(1, at(0));
        assert!(!link.is_overdue(false, at(5_000)) && link.is_overdue(false, at(5_001)));
        assert!(!link.is_overdue(true, at(60_000)));
    }
}
