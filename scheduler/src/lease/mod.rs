//! What is in flight, and how it is settled once.
//!
//! A lease counts one request against one endpoint from dispatch to its end. What must always hold: it is counted once
//! and settled once, whichever signal comes first: the count goes down when the lease is dropped, and a lease cannot be
//! cloned. It never ends by age alone: a long answer is not a lost one.

use std::sync::Arc;

use crate::snapshot::Endpoint;

/// One request in flight at one endpoint. Dropping it settles it.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    tokens: u64,
    keys: Vec<u64>,
}

impl Lease {
    /// Counts a request with `tokens` uncached prompt tokens against `endpoint`. `keys` are the prefix keys that the
    /// dispatch placed there, for the correction when another endpoint served.
    pub fn begin(endpoint: Arc<Endpoint>, tokens: u64, keys: Vec<u64>) -> Self {
        endpoint.slot.begin(tokens);
        Self { endpoint, tokens, keys }
    }

    /// Where the request was sent first.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Uncached prompt tokens counted.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The prefix keys that the dispatch placed at the endpoint.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.slot.end(self.tokens);
    }
}
