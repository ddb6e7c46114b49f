//! Metrics that are read off the process when somebody looks, rather than kept.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use kthena_scheduler::lease::LeaseTable;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::state::State;

/// What is read at each scrape.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) state: Arc<State>,
    pub(super) leases: Arc<LeaseTable>,
    pub(super) readings: Arc<Readings>,
}

/// Numbers that other parts keep and this one shows.
#[derive(Debug, Default)]
pub struct Readings {
    /// Requests that wait for state.
    pub held: AtomicUsize,
    /// ext_proc streams that are open.
    pub streams: AtomicUsize,
    /// Access-log streams that are open.
    pub log_streams: AtomicUsize,
}

struct Out<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Out<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let out = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(out)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let out = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(out)
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.state_of_subscription(&mut Out(&mut encoder))?;
        self.bounds(&mut encoder)?;
        self.in_flight(&mut encoder)
    }
}

impl Scrape {
    fn state_of_subscription(&self, out: &mut Out<'_, '_>) -> fmt::Result {
        let status = self.state.status();
        let flag = |set: bool| f64::from(u8::from(set));
        out.gauge(
            "kthena_ext_proc_state_synced",
            "1 when there is state to decide on",
            flag(status.synced),
        )?;
        out.gauge(
            "kthena_ext_proc_state_connected",
            "1 while the stream to the controller stands",
            flag(status.connected),
        )?;
        out.gauge(
            "kthena_ext_proc_state_from_cache",
            "1 while the state comes from the file of an earlier process",
            flag(status.from_cache),
        )?;
        if let Some(age) = status.age_ms {
            let help = "Time since the controller was last heard";
            out.gauge("kthena_ext_proc_state_age_seconds", help, age as f64 / 1e3)?;
        }
        out.counter(
            "kthena_ext_proc_state_messages",
            "Messages from the controller",
            status.messages,
        )?;
        out.counter(
            "kthena_ext_proc_state_connections",
            "Streams to a controller begun",
            status.connections,
        )?;
        out.counter(
            "kthena_ext_proc_resources_refused",
            "Resources refused; their last good version stays",
            status.counters.refused,
        )
    }

    fn bounds(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.state.status();
        let index = self.state.index().stats();
        let hits = [
            ("unechoed_reports", status.counters.forgotten_reports),
            ("unknown_placements", status.unknown_placements),
            ("outbox_placements", status.dropped.0),
            ("outbox_settlements", status.dropped.1),
            ("prefix_index", index.evictions),
            ("leases", self.leases.overflows()),
        ];
        let help = "What was dropped because a bound was hit";
        let mut out = encoder.encode_descriptor("kthena_ext_proc_bound_hits", help, None, MetricType::Counter)?;
        for (bound, hits) in hits {
            out.encode_family(&[("bound", bound)])?
                .encode_counter::<NoLabelSet, _, u64>(&hits, None)?;
        }
        let mut out = Out(encoder);
        out.gauge(
            "kthena_ext_proc_endpoints_without_room",
            "Endpoints left out because all load cells are taken",
            status.counters.unplaced_endpoints as f64,
        )?;
        out.gauge(
            "kthena_router_prefix_cache_entries",
            "Beginnings of prompts remembered",
            index.entries as f64,
        )?;
        out.gauge(
            "kthena_ext_proc_prefix_index_bytes",
            "Bytes of the prefix index",
            index.bytes as f64,
        )?;
        // One index serves all models: its evictions are nobody's in particular.
        let help = "Beginnings of prompts that gave way to others";
        let name = "kthena_router_prefix_cache_evictions";
        let mut evictions = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        evictions
            .encode_family(&[("model", "_all")])?
            .encode_counter::<NoLabelSet, _, u64>(&index.evictions, None)
    }

    fn in_flight(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        let reading = |of: &AtomicUsize| of.load(Relaxed) as f64;
        out.gauge(
            "kthena_ext_proc_streams",
            "ext_proc streams that are open",
            reading(&self.readings.streams),
        )?;
        out.gauge(
            "kthena_ext_proc_access_log_streams",
            "Access-log streams that are open",
            reading(&self.readings.log_streams),
        )?;
        out.gauge(
            "kthena_ext_proc_held_requests",
            "Requests that wait for state",
            reading(&self.readings.held),
        )?;
        out.gauge(
            "kthena_ext_proc_leases",
            "Requests whose end is awaited from the access log",
            self.leases.open() as f64,
        )?;
        let Some(snapshot) = self.state.snapshot() else {
            return Ok(());
        };
        let by_server: Vec<_> = snapshot
            .servers
            .iter()
            .map(|server| {
                let own = server.endpoints.iter().map(|endpoint| u64::from(endpoint.slot.own().0));
                (server, own.sum::<u64>())
            })
            .collect();
        let all: u64 = by_server.iter().map(|(_, requests)| requests).sum();
        out.gauge(
            "kthena_router_active_requests",
            "Requests in flight or held",
            all as f64 + reading(&self.readings.held),
        )?;
        let help = "Requests in flight at a ModelServer's endpoints";
        let name = "kthena_router_active_upstream_requests";
        let mut active = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (server, requests) in by_server {
            let labels = [
                ("model_server", &*server.name),
                ("model_route", "none"),
                ("backend_type", "model_server"),
                ("backend_name", &*server.name),
                ("upstream_model", server.model.as_deref().unwrap_or("none")),
            ];
            active.encode_family(&labels)?.encode_gauge(&(requests as f64))?;
        }
        Ok(())
    }
}
