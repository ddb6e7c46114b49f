//! Requests that filters without a page of metrics tell of: summed over all of them, and shown under Kthena's names.
//!
//! What must always hold: a message adds once, however often it comes; the number of series is bounded, and so is what is
//! remembered of filters. It fails by counting under `other` labels, or leaving out what cannot be, each told by a metric.

mod page;

use std::collections::BTreeMap;

use kthena_scheduler::state::{counts, proto};
use kthena_scheduler::tally::Tally;
use parking_lot::Mutex;

/// Bounds of what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Kinds of requests told apart.
    pub max_series: usize,
    /// Deciders whose last message is remembered; the one heard of longest ago is forgotten first.
    pub max_origins: usize,
}

/// All that filters told.
#[derive(Debug)]
pub struct Requests {
    bounds: Bounds,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    tally: Tally,
    origins: BTreeMap<String, Last>,
    /// Counts messages: the order in which origins were heard.
    messages: u64,
    /// Requests that filters counted under other labels.
    overflowed: u64,
    /// Histograms left out.
    malformed: u64,
    /// Origins forgotten for want of room.
    forgotten: u64,
}

/// The last message of an origin that was added.
#[derive(Clone, Copy, Debug)]
struct Last {
    sequence: u64,
    heard: u64,
}

// === impl Requests ===

impl Requests {
    /// Nothing told yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            inner: Mutex::new(Inner {
                tally: Tally::new(bounds.max_series),
                origins: BTreeMap::new(),
                messages: 0,
                overflowed: 0,
                malformed: 0,
                forgotten: 0,
            }),
            bounds,
        }
    }

    /// Adds a message, unless it was added before; whether it is new. Either way it is to be answered.
    pub fn add(&self, message: &proto::Counts) -> bool {
        let mut inner = self.inner.lock();
        inner.messages += 1;
        let heard = inner.messages;
        if let Some(last) = inner.origins.get_mut(&message.origin) {
            last.heard = heard;
            if message.sequence <= last.sequence {
                return false;
            }
            last.sequence = message.sequence;
        } else {
            inner.make_room(self.bounds.max_origins);
            let sequence = message.sequence;
            inner.origins.insert(message.origin.clone(), Last { sequence, heard });
        }
        inner.malformed += counts::add(message, &mut inner.tally);
        inner.overflowed = inner.overflowed.saturating_add(message.overflowed);
        true
    }
}

impl Inner {
    fn make_room(&mut self, max_origins: usize) {
        if self.origins.len() < max_origins.max(1) {
            return;
        }
        let oldest = self.origins.iter().min_by_key(|(_, last)| last.heard);
        if let Some(oldest) = oldest.map(|(origin, _)| origin.clone()) {
            self.origins.remove(&oldest);
            self.forgotten += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use std::sync::Arc;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        max_series: 10,
        max_origins: 2,
    };

    fn histogram(len: usize, at: usize, sum: f64) -> Option<proto::Histogram> {
        let mut buckets = vec![0; len + 1];
        buckets[at] = 2;
        Some(proto::Histogram { buckets, sum })
    }

    fn message(origin: &str, sequence: u64, status: u32, error_type: &str) -> proto::Counts {
        let requests = proto::RequestCounts {
            model: "m".into(),
            path: "/v1/chat/completions".into(),
            model_route: "a/r".into(),
            model_server: "a/s".into(),
            upstream_model: "m".into(),
            status,
            error_type: error_type.into(),
            requests: 2,
            seconds: histogram(13, 5, 0.4),
            server_seconds: histogram(14, 5, 0.4),
            first_byte: None,
            input_tokens: histogram(14, 1, 8.0),
            output_tokens: None,
            match_ratio: histogram(9, 3, 1.0),
        };
        proto::Counts {
            origin: origin.into(),
            sequence,
            requests: vec![requests],
            overflowed: 1,
        }
    }

    fn page(requests: &Arc<Requests>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(requests)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_message_adds_once_and_is_shown_under_kthenas_names() {
        let requests = Arc::new(Requests::new(BOUNDS));
        assert!(requests.add(&message("a", 1, 200, "")));
        assert!(!requests.add(&message("a", 1, 200, "")), "told again after a reconnect");
        assert!(requests.add(&message("b", 1, 200, "")));
        assert!(requests.add(&message("a", 2, 503, "scheduling")));
        assert!(requests.add(&message("a", 3, 503, "proxy")));
        let page = page(&requests);
        let labels = r#"model="m",path="/v1/chat/completions""#;
        let to = r#"model_route="a/r",backend_type="model_server",backend_name="a/s",upstream_model="m""#;
        let gen_ai = r#"gen_ai_operation_name="chat",gen_ai_request_model="m""#;
        for line in [
            format!(r#"kthena_router_requests_total{{{labels},status_code="200",error_type="",{to}}} 4"#),
            format!(r#"kthena_router_requests_total{{{labels},status_code="503",error_type="proxy",{to}}} 2"#),
            // Both errors: the metric does not tell them apart.
            format!(r#"kthena_router_request_duration_seconds_count{{{labels},status_code="503",{to}}} 4"#),
            format!(r#"kthena_router_tokens_total{{{labels},token_type="input",{to}}} 32"#),
            format!(r#"kthena_router_request_duration_seconds_bucket{{le="0.1",{labels},status_code="200",{to}}} 0"#),
            format!(r#"kthena_router_request_duration_seconds_bucket{{le="0.25",{labels},status_code="200",{to}}} 4"#),
            r#"kthena_router_prefix_cache_match_ratio_count{model="m"} 8"#.to_owned(),
            format!(r#"gen_ai_client_token_usage_sum{{{gen_ai},gen_ai_token_type="input"}} 32.0"#),
            format!(r#"gen_ai_server_request_duration_seconds_count{{{gen_ai},error_type="scheduling"}} 2"#),
            "kthena_controller_filter_counts_overflowed_total 4".to_owned(),
        ] {
            assert!(page.lines().any(|l| l == line), "no line `{line}` in:\n{page}");
        }
        let mut series: Vec<_> = page
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(series, _)| series)
            .collect();
        let all = series.len();
        series.sort_unstable();
        series.dedup();
        assert_eq!(series.len(), all, "no series is shown twice");
    }

    #[test]
    fn origins_are_bounded_and_the_quietest_is_forgotten() {
        let requests = Requests::new(BOUNDS);
        for (origin, sequence) in [("a", 1), ("b", 1), ("a", 2), ("c", 1)] {
            assert!(requests.add(&message(origin, sequence, 200, "")));
        }
        assert!(!requests.add(&message("a", 2, 200, "")), "a was heard after b");
        let inner = requests.inner.lock();
        assert_eq!((inner.origins.len(), inner.forgotten), (2, 1));
    }
}
