//! The requests that the fleet has received, for tests that ask what arrived at a model server.
//!
//! A ring of the newest requests; of the newest of these the bodies are kept too, within a bound in bytes. What was
//! dropped for want of room is counted. Scrapes and probes (`GET /metrics`, `/health`, `/v1/models`) are not recorded.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::SystemTime;

use bytes::Bytes;
use http::request::Parts;
use parking_lot::Mutex;

use crate::settings::JournalConfig;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Counts all requests of the fleet from 1 on.
    pub(crate) number: u64,
    /// When its body was complete.
    pub(crate) at: SystemTime,
    /// Where it arrived.
    pub(crate) endpoint: SocketAddr,
    /// Method, path and headers.
    pub(crate) head: std::sync::Arc<Parts>,
    /// Length of the body.
    pub(crate) body_bytes: usize,
    /// XXH3 of the body.
    pub(crate) body_hash: u64,
    /// The body, unless it had to make room.
    pub(crate) body: Option<Bytes>,
}

#[derive(Debug, Default)]
struct Ring {
    last_number: u64,
    entries: VecDeque<Entry>,
    /// How many of the newest entries have their bodies.
    with_body: usize,
    body_bytes: usize,
}

/// The ring.
#[derive(Debug)]
pub(crate) struct Journal {
    config: JournalConfig,
    ring: Mutex<Ring>,
}

impl Journal {
    /// An empty journal.
    pub(crate) fn new(config: JournalConfig) -> Self {
        Self {
            config,
            ring: Mutex::default(),
        }
    }

    /// Adds a request.
    pub(crate) fn record(&self, endpoint: SocketAddr, head: Parts, body: Bytes, body_hash: u64) {
        let at = SystemTime::now();
        let head = std::sync::Arc::new(head);
        let mut ring = self.ring.lock();
        ring.last_number += 1;
        let number = ring.last_number;
        ring.body_bytes += body.len();
        ring.with_body += 1;
        ring.entries.push_back(Entry {
            number,
            at,
            endpoint,
            head,
            body_bytes: body.len(),
            body_hash,
            body: Some(body),
        });
        ring.trim(&self.config);
    }

    /// The newest requests that `wanted` accepts, oldest first, at most `limit`, and the number of the last of all.
    pub(crate) fn newest(&self, limit: usize, wanted: impl Fn(&Entry) -> bool) -> (u64, Vec<Entry>) {
        let ring = self.ring.lock();
        let mut found: Vec<Entry> = ring
            .entries
            .iter()
            .rev()
            .filter(|entry| wanted(entry))
            .take(limit)
            .cloned()
            .collect();
        found.reverse();
        (ring.last_number, found)
    }
}

impl Ring {
    fn trim(&mut self, config: &JournalConfig) {
        while self.body_bytes > config.body_bytes && self.with_body > 0 {
            let oldest = self.entries.len() - self.with_body;
            self.body_bytes -= self.entries[oldest].body.take().map_or(0, |body| body.len());
            self.with_body -= 1;
        }
        while self.entries.len() > config.requests {
            let Some(entry) = self.entries.pop_front() else { return };
            if let Some(body) = entry.body {
                self.body_bytes -= body.len();
                self.with_body -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(journal: &Journal, body: &'static [u8]) {
        let head = http::Request::new(()).into_parts().0;
        journal.record(([127, 0, 0, 1], 1).into(), head, Bytes::from_static(body), 0);
    }

    #[test]
    fn the_oldest_bodies_make_room_then_the_oldest_requests() {
        let journal = Journal::new(JournalConfig {
            requests: 3,
            body_bytes: 10,
        });
        for body in [b"four".as_slice(), b"four", b"four", b"eight888"] {
            record(&journal, body);
        }
        let (last, entries) = journal.newest(9, |_| true);
        assert_eq!(last, 4);
        assert_eq!(
            entries.iter().map(|e| (e.number, e.body.is_some())).collect::<Vec<_>>(),
            [(2, false), (3, false), (4, true)]
        );
        record(&journal, b"eleven bytes");
        assert_eq!(
            journal.newest(1, |_| true).1[0].body,
            None,
            "a body over the bound is not kept"
        );
        record(&journal, b"ok");
        assert!(journal.newest(1, |_| true).1[0].body.is_some());
    }

    #[test]
    fn a_journal_of_nothing_keeps_nothing() {
        let journal = Journal::new(JournalConfig {
            requests: 0,
            body_bytes: 0,
        });
        record(&journal, b"x");
        assert_eq!(journal.newest(9, |_| true).0, 1);
        assert!(journal.newest(9, |_| true).1.is_empty());
    }
}
