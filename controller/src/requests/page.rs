//! How the sums look on the page that Prometheus reads: names, labels and buckets are those of `kthena-ext-proc`.
//!
//! What must always hold: kinds that a metric does not tell apart are one series of it.

use std::collections::BTreeMap;
use std::fmt;

use kthena_scheduler::tally::names::{self, NONE};
use kthena_scheduler::tally::{Histogram, Kind, Sums, Tally, operation};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::Requests;

/// Label names and values in the order shown.
type Labels = Vec<(&'static str, String)>;

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (tally, rest) = {
            let inner = self.inner.lock();
            let rest = [
                (
                    "kthena_controller_filter_counts_overflowed",
                    "Requests counted under other labels, as there were too many series",
                    inner.overflowed.saturating_add(inner.tally.overflowed()),
                ),
                (
                    "kthena_controller_filter_counts_malformed",
                    "Histograms of filters left out, as they cannot be",
                    inner.malformed,
                ),
                (
                    "kthena_controller_filter_counts_forgotten",
                    "Deciders whose last message was forgotten for want of room",
                    inner.forgotten,
                ),
            ];
            (inner.tally.clone(), rest)
        };
        kthena(&tally, &mut encoder)?;
        gen_ai(&tally, &mut encoder)?;
        for (name, help, value) in rest {
            let out = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(out)?;
        }
        Ok(())
    }
}

fn kthena(tally: &Tally, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let requests = summed(tally, |kind, sums, add| {
        add(
            request(kind, &[status(kind), ("error_type", kind.error_type.to_owned())]),
            sums.requests,
        );
    });
    counters(encoder, "kthena_router_requests", "Requests that are over", &requests)?;
    let seconds = merged(tally, &names::REQUEST_SECONDS, |kind, sums| {
        vec![(request(kind, &[status(kind)]), sums.seconds.clone())]
    });
    let help = "From the first byte of a request to the last of its answer";
    histograms(encoder, "kthena_router_request_duration_seconds", help, &seconds)?;
    let tokens = summed(tally, |kind, sums, add| {
        for (token_type, tokens) in [("input", &sums.input_tokens), ("output", &sums.output_tokens)] {
            let label = ("token_type", token_type.to_owned());
            add(request(kind, &[label]), tokens.sum() as u64);
        }
    });
    counters(
        encoder,
        "kthena_router_tokens",
        "Tokens as the engines counted them",
        &tokens,
    )?;
    let ratio = merged(tally, &names::MATCH_RATIO, |kind, sums| {
        vec![(vec![("model", kind.model.to_string())], sums.match_ratio.clone())]
    });
    let help = "Part of a prompt that the chosen endpoint was believed to hold";
    histograms(encoder, "kthena_router_prefix_cache_match_ratio", help, &ratio)
}

fn gen_ai(tally: &Tally, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let labels = |kind: &Kind, more: Option<(&'static str, &str)>| -> Labels {
        let mut labels = vec![
            ("gen_ai_operation_name", operation(kind.path).to_owned()),
            ("gen_ai_request_model", kind.model.to_string()),
        ];
        labels.extend(more.map(|(name, value)| (name, value.to_owned())));
        labels
    };
    let seconds = merged(tally, &names::SERVER_SECONDS, |kind, sums| {
        vec![(
            labels(kind, Some(("error_type", kind.error_type))),
            sums.server_seconds.clone(),
        )]
    });
    let help = "Duration of requests (OpenTelemetry gen_ai.server.request.duration)";
    histograms(encoder, "gen_ai_server_request_duration_seconds", help, &seconds)?;
    let first = merged(tally, &names::FIRST_TOKEN_SECONDS, |kind, sums| {
        vec![(labels(kind, None), sums.first_byte.clone())]
    });
    let help = "Time to the first byte of answers without error (OpenTelemetry gen_ai.server.time_to_first_token)";
    histograms(encoder, "gen_ai_server_time_to_first_token_seconds", help, &first)?;
    let usage = merged(tally, &names::TOKENS, |kind, sums| {
        let of = |token_type| labels(kind, Some(("gen_ai_token_type", token_type)));
        vec![
            (of("input"), sums.input_tokens.clone()),
            (of("output"), sums.output_tokens.clone()),
        ]
    });
    let help = "Tokens of requests (OpenTelemetry gen_ai.client.token.usage)";
    histograms(encoder, "gen_ai_client_token_usage", help, &usage)
}

fn status(kind: &Kind) -> (&'static str, String) {
    let text = if kind.status == 0 {
        String::new()
    } else {
        kind.status.to_string()
    };
    ("status_code", text)
}

fn request(kind: &Kind, more: &[(&'static str, String)]) -> Labels {
    let backend = if *kind.server == *NONE { NONE } else { "model_server" };
    let mut labels: Labels = vec![("model", kind.model.to_string()), ("path", kind.path.to_owned())];
    labels.extend(more.iter().cloned());
    labels.extend([
        ("model_route", kind.route.to_string()),
        ("backend_type", backend.to_owned()),
        ("backend_name", kind.server.to_string()),
        ("upstream_model", kind.upstream_model.to_string()),
    ]);
    labels
}

/// Sums by labels.
fn summed(tally: &Tally, of: impl Fn(&Kind, &Sums, &mut dyn FnMut(Labels, u64))) -> BTreeMap<Labels, u64> {
    let mut all: BTreeMap<Labels, u64> = BTreeMap::new();
    for (kind, sums) in tally.iter() {
        of(kind, sums, &mut |labels, value| {
            let sum = all.entry(labels).or_default();
            *sum = sum.saturating_add(value);
        });
    }
    all
}

/// Histograms by labels.
fn merged(
    tally: &Tally,
    bounds: &'static [f64],
    of: impl Fn(&Kind, &Sums) -> Vec<(Labels, Histogram)>,
) -> BTreeMap<Labels, Histogram> {
    let mut all: BTreeMap<Labels, Histogram> = BTreeMap::new();
    for (labels, histogram) in tally.iter().flat_map(|(kind, sums)| of(kind, sums)) {
        all.entry(labels)
            .or_insert_with(|| Histogram::new(bounds))
            .add(&histogram);
    }
    all
}

fn counters(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, all: &BTreeMap<Labels, u64>) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    let mut out = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in all {
        let labels = labels.as_slice();
        out.encode_family(&labels)?
            .encode_counter::<NoLabelSet, _, u64>(value, None)?;
    }
    Ok(())
}

fn histograms(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    all: &BTreeMap<Labels, Histogram>,
) -> fmt::Result {
    if all.is_empty() {
        return Ok(());
    }
    let mut out = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (labels, histogram) in all {
        let buckets: Vec<_> = histogram.buckets().collect();
        let labels = labels.as_slice();
        out.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            histogram.sum(),
            histogram.count(),
            &buckets,
            None,
        )?;
    }
    Ok(())
}
