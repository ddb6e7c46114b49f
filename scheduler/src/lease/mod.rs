//! What is in flight, and how it is settled once.
//!
//! A lease counts one request against one endpoint from dispatch to its end. What must always hold: it is counted once
//! and settled once, whichever signal comes first: the count goes down when the lease is dropped, and a lease cannot be
//! cloned. It never ends by age alone: a long answer is not a lost one. Beside it goes the [`Trail`]: what the dispatch
//! made us believe about caches, to be corrected when another endpoint served.

mod table;

pub use table::{LeaseTable, Ticket};

use std::sync::Arc;

use crate::pick::holder;
use crate::prefix::{Key, PrefixIndex};
use crate::snapshot::{Endpoint, EndpointId, ModelServer};

/// One request in flight at one endpoint. Dropping it settles it.
#[derive(Debug)]
pub struct Lease {
    endpoint: Arc<Endpoint>,
    adapter: Option<Box<str>>,
    tokens: u64,
}

/// Where a dispatch placed a prompt.
#[derive(Debug)]
pub struct Trail {
    /// The ModelServer that was asked.
    pub server: Arc<ModelServer>,
    /// The endpoint that was picked first.
    pub endpoint: Arc<Endpoint>,
    /// All prefix keys of the prompt.
    pub keys: Vec<Key>,
    /// Those that were new at the endpoint.
    pub news: Vec<Key>,
}

/// What a request taught when another endpoint served it than the one picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relocation {
    /// Does not hold the keys that the dispatch had added.
    pub from: EndpointId,
    /// The keys that are not there.
    pub gone: Vec<Key>,
    /// Holds the whole prompt.
    pub to: EndpointId,
    /// The keys that were new there.
    pub placed: Vec<Key>,
}

// === impl Lease ===

impl Lease {
    /// Counts a request, for an adapter where it named one, with `tokens` uncached prompt tokens against `endpoint`.
    pub fn begin(endpoint: Arc<Endpoint>, adapter: Option<Box<str>>, tokens: u64) -> Self {
        endpoint.slot.begin(adapter.as_deref(), tokens);
        Self {
            endpoint,
            adapter,
            tokens,
        }
    }

    /// Where the request was sent first.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Uncached prompt tokens counted.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.slot.end(self.adapter.as_deref(), self.tokens);
    }
}

// === impl Trail ===

impl Trail {
    /// Corrects the index when `address` served and was not the first choice; `None` when there is nothing to correct.
    pub fn served(&self, address: &str, index: &PrefixIndex) -> Option<Relocation> {
        if *self.endpoint.address == *address {
            return None;
        }
        // It had the first try.
        self.endpoint.slot.failed();
        let actual = self
            .server
            .endpoints
            .iter()
            .find(|endpoint| *endpoint.address == *address)?;
        let mut placed = Vec::new();
        index.remove(self.endpoint.slot.index(), self.news.iter().map(|key| key.hash));
        if let Some(holder) = holder(&self.server.profile, actual) {
            index.insert(holder, &self.keys, &mut placed);
        }
        Some(Relocation {
            from: self.endpoint.id,
            gone: self.news.clone(),
            to: actual.id,
            placed,
        })
    }
}
