//! The last decisions that were explained, for the debug page and for a sampled log.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// A ring of explanations, each one line of JSON of at most 4 KiB.
#[derive(Debug)]
pub struct Decisions {
    ring: Mutex<VecDeque<String>>,
    capacity: usize,
    /// Whether explanations are logged as they come.
    logged: bool,
}

impl Decisions {
    /// Keeps the last `capacity`, and logs each if so wanted.
    pub fn new(capacity: usize, logged: bool) -> Self {
        Self {
            ring: Mutex::new(VecDeque::new()),
            capacity: capacity.max(1),
            logged,
        }
    }

    /// Keeps an explanation and forgets the oldest beyond the capacity.
    pub fn push(&self, explanation: String) {
        if self.logged {
            tracing::info!(target: "kthena_decision", explanation, "decided");
        }
        let mut ring = self.ring.lock();
        if ring.len() >= self.capacity {
            ring.pop_front();
        }
        ring.push_back(explanation);
    }

    /// All that are kept, the newest first.
    pub fn newest_first(&self) -> Vec<String> {
        self.ring.lock().iter().rev().cloned().collect()
    }
}
