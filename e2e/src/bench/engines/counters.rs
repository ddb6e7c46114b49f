//! What vLLM counts itself: prompt tokens looked up in its prefix cache, those found, and finished requests.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result};

use crate::client::{Ask, Client};
use crate::exposition;

/// vLLM's counters: prompt tokens that were looked for in the prefix cache and found there, and finished requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Tokens looked for.
    pub queries: f64,
    /// Tokens found.
    pub hits: f64,
    /// Requests, however they ended.
    pub finished: f64,
}

impl Counters {
    /// Reads them from a page of metrics; `None` when vLLM did not write it.
    pub(super) fn parse(page: &str) -> Option<Self> {
        Some(Self {
            queries: exposition::sum(page, "vllm:prefix_cache_queries_total")?,
            hits: exposition::sum(page, "vllm:prefix_cache_hits_total")?,
            finished: exposition::sum(page, "vllm:request_success_total")?,
        })
    }

    pub(super) fn add(&mut self, later: Self, earlier: Self) {
        self.queries += later.queries - earlier.queries;
        self.hits += later.hits - earlier.hits;
        self.finished += later.finished - earlier.finished;
    }
}

/// The counters of these engines, in their order.
pub(super) async fn read(endpoints: &[SocketAddrV4]) -> Result<Vec<Counters>> {
    let mut counters = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let page = Client::http1((*endpoint).into()).send(Ask::get("/metrics")).await?;
        let read = Counters::parse(&page.text());
        counters.push(read.with_context(|| {
            format!("{endpoint} shows no vllm:prefix_cache_queries_total in its metrics: is it vLLM, with prefix caching on?")
        })?);
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_vllms_counters_is_none_of_vllms() {
        let page =
            "vllm:prefix_cache_queries_total{engine=\"0\"} 8.0\nvllm:prefix_cache_hits_total{engine=\"0\"} 2.0\n";
        assert_eq!(Counters::parse(page), None);
        let page = format!(
            "{page}vllm:request_success_total{{finished_reason=\"stop\"}} 1.0\nvllm:request_success_total{{finished_reason=\"length\"}} 2.0\n"
        );
        let counters = Counters::parse(&page).unwrap();
        assert_eq!((counters.queries, counters.hits, counters.finished), (8.0, 2.0, 3.0));
    }
}
