//! vLLM's metrics: the recording of a real server, with its values replaced.
//!
//! The recording is read once into pieces: text that stays, and series whose values are ours. So names, types, labels,
//! help texts and size are a real server's by construction. A series that the simulator has no model of says zero;
//! `_created` series and process times say when the incarnation started. What must always hold: every live series is in
//! the recording (a test looks), and no value of the recorded process gets out.

use std::fmt::Write;
use std::sync::LazyLock;

use super::super::endpoint::Snapshot;
use crate::engine::stats::{Histogram, Stats};
use crate::settings::ModelServer;

const RECORDING: &str = include_str!("../../recordings/metrics.txt");

/// Labels of the recording that name the model or the size of its cache.
const RECORDED_MODEL: &str = "model_name=\"tiny\"";

static PIECES: LazyLock<Vec<Piece>> = LazyLock::new(|| pieces(RECORDING));

type Read = fn(&Snapshot) -> f64;
type Find = fn(&Stats) -> &Histogram;

#[derive(Debug, Clone)]
enum Piece {
    /// Goes out as it is.
    Text(String),
    /// The value of the label `model_name`.
    Model,
    /// The labels of `cache_config_info`, in which figures are replaced.
    CacheConfig(String),
    /// The value of the series of that family (name without prefix) and labels.
    Value(Series),
}

#[derive(Debug, Clone)]
enum Series {
    /// When the incarnation started, in seconds since 1970.
    Started,
    /// A gauge or counter.
    Plain(Read),
    /// The bucket at this index of a histogram.
    Bucket(Find, usize),
    /// The number of values of a histogram.
    Count(Find),
    /// Their sum.
    Sum(Find),
    /// Not modelled.
    Zero,
    /// An info series, or a constant of the process.
    Constant(String),
}

/// The gauges and counters that live, by name and a part of their labels.
const LIVE: &[(&str, &str, Read)] = &[
    ("vllm:num_requests_running", "", |s| s.load.running as f64),
    ("vllm:num_requests_waiting", "", |s| s.load.waiting as f64),
    ("vllm:num_requests_waiting_by_reason", "capacity", |s| {
        s.load.waiting as f64
    }),
    ("vllm:engine_sleep_state", "awake", |_| 1.0),
    ("vllm:kv_cache_usage_perc", "", |s| s.load.kv_usage),
    ("vllm:prefix_cache_queries_total", "", |s| s.stats.prefix_queries as f64),
    ("vllm:prefix_cache_hits_total", "", |s| s.stats.prefix_hits as f64),
    ("vllm:num_preemptions_total", "", |s| s.stats.preemptions as f64),
    ("vllm:prompt_tokens_total", "", |s| s.stats.prompt_tokens as f64),
    ("vllm:prompt_tokens_by_source_total", "local_compute", |s| {
        (s.stats.prompt_tokens - s.stats.cached_tokens) as f64
    }),
    ("vllm:prompt_tokens_by_source_total", "local_cache_hit", |s| {
        s.stats.cached_tokens as f64
    }),
    ("vllm:prompt_tokens_cached_total", "", |s| s.stats.cached_tokens as f64),
    ("vllm:prompt_tokens_cached_by_source_total", "device", |s| {
        s.stats.cached_tokens as f64
    }),
    ("vllm:generation_tokens_total", "", |s| s.stats.generation_tokens as f64),
    ("vllm:request_success_total", "\"stop\"", |s| s.stats.stopped as f64),
    ("vllm:request_success_total", "\"length\"", |s| {
        s.stats.reached_length as f64
    }),
    ("vllm:request_success_total", "\"abort\"", |s| s.stats.aborted as f64),
    ("vllm:admission_rejections_total", "max_num_queued_reqs", |s| {
        s.stats.rejected as f64
    }),
];

/// The histograms.
const HISTOGRAMS: &[(&str, Find)] = &[
    ("vllm:request_prompt_tokens", |s| &s.request_prompt_tokens),
    ("vllm:request_generation_tokens", |s| &s.request_generation_tokens),
    ("vllm:iteration_tokens_total", |s| &s.step_tokens),
    ("vllm:request_max_num_generation_tokens", |s| {
        &s.request_generation_tokens
    }),
    ("vllm:request_params_n", |s| &s.params_n),
    ("vllm:request_params_max_tokens", |s| &s.params_max_tokens),
    ("vllm:time_to_first_token_seconds", |s| &s.first_token),
    ("vllm:inter_token_latency_seconds", |s| &s.inter_token),
    ("vllm:request_time_per_output_token_seconds", |s| &s.per_output_token),
    ("vllm:e2e_request_latency_seconds", |s| &s.end_to_end),
    ("vllm:request_queue_time_seconds", |s| &s.queue),
    ("vllm:request_inference_time_seconds", |s| &s.inference),
    ("vllm:request_prefill_time_seconds", |s| &s.prefill),
    ("vllm:request_decode_time_seconds", |s| &s.decode),
    ("vllm:request_num_preemptions", |s| &s.request_preemptions),
    ("vllm:request_prefill_kv_computed_tokens", |s| &s.computed_prompt_tokens),
];

/// The metrics of one incarnation.
pub(super) fn render(server: &ModelServer, snapshot: &Snapshot) -> String {
    let started = snapshot
        .started
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64());
    let mut out = String::with_capacity(RECORDING.len() + 1024);
    for piece in PIECES.iter() {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Model => push_label_value(&mut out, &server.model),
            Piece::CacheConfig(labels) => push_cache_config(&mut out, labels, server),
            Piece::Value(series) => push_value(&mut out, series, snapshot, started),
        }
    }
    if !server.adapters.is_empty() {
        push_lora_info(&mut out, server, snapshot, started);
    }
    out
}

fn push_value(out: &mut String, series: &Series, snapshot: &Snapshot, started: f64) {
    let value = match series {
        Series::Started => started,
        Series::Plain(read) => read(snapshot),
        Series::Bucket(histogram, index) => histogram(&snapshot.stats).at_most(*index) as f64,
        Series::Count(histogram) => histogram(&snapshot.stats).count() as f64,
        Series::Sum(histogram) => histogram(&snapshot.stats).sum(),
        Series::Zero => 0.0,
        Series::Constant(text) => return out.push_str(text),
    };
    // Like Python's floats: 12.0. Writing to a string cannot fail.
    let _ = write!(out, "{value:?}");
}

/// Escapes as the exposition format wants it.
fn push_label_value(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

fn push_cache_config(out: &mut String, labels: &str, server: &ModelServer) {
    let engine = &server.engine;
    let tokens = u64::from(engine.blocks) * u64::from(engine.block_size);
    for (index, label) in labels.split("\",").enumerate() {
        if index > 0 {
            out.push(',');
        }
        let (name, recorded) = label.split_once("=\"").unwrap_or((label, ""));
        let recorded = recorded.trim_end_matches('"');
        let _ = match name {
            "block_size" | "effective_attention_block_size" => write!(out, "{name}=\"{}\"", engine.block_size),
            "num_gpu_blocks" => write!(out, "{name}=\"{}\"", engine.blocks),
            "kv_cache_size_tokens" => write!(out, "{name}=\"{tokens}\""),
            "kv_cache_max_concurrency" => {
                write!(out, "{name}=\"{:?}\"", tokens as f64 / f64::from(server.max_model_len))
            }
            "enable_prefix_caching" if !engine.prefix_caching => write!(out, "{name}=\"False\""),
            _ => write!(out, "{name}=\"{recorded}\""),
        };
    }
}

/// vLLM shows this family only where adapters are enabled, so it is not in the recording.
fn push_lora_info(out: &mut String, server: &ModelServer, snapshot: &Snapshot, now: f64) {
    let names = |adapters: &std::collections::BTreeSet<usize>| {
        let names: Vec<&str> = adapters
            .iter()
            .filter_map(|index| server.adapters.get(*index))
            .map(String::as_str)
            .collect();
        names.join(",")
    };
    out.push_str(
        "# HELP vllm:lora_requests_info Running stats on lora requests.\n# TYPE vllm:lora_requests_info gauge\n",
    );
    let _ = write!(
        out,
        "vllm:lora_requests_info{{max_lora=\"{}\",running_lora_adapters=\"",
        server.engine.max_loras
    );
    push_label_value(out, &names(&snapshot.load.running_adapters));
    out.push_str("\",waiting_lora_adapters=\"");
    push_label_value(out, &names(&snapshot.load.waiting_adapters));
    let _ = writeln!(out, "\"}} {now:?}");
}

fn pieces(recording: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut bucket = 0;
    for line in recording.lines() {
        let series = if line.starts_with('#') {
            None
        } else {
            line.rsplit_once(' ')
        };
        let Some((name_and_labels, value)) = series else {
            bucket = 0;
            text.push_str(line);
            text.push('\n');
            continue;
        };
        push_name(&mut pieces, &mut text, name_and_labels);
        let series = series_of(name_and_labels, value, bucket);
        bucket = if matches!(series, Series::Bucket(..)) {
            bucket + 1
        } else {
            0
        };
        text.push(' ');
        pieces.push(Piece::Text(std::mem::take(&mut text)));
        pieces.push(Piece::Value(series));
        text.push('\n');
    }
    pieces.push(Piece::Text(text));
    pieces
}

fn push_name(pieces: &mut Vec<Piece>, text: &mut String, name_and_labels: &str) {
    if let Some(labels) = name_and_labels
        .strip_prefix("vllm:cache_config_info{")
        .and_then(|rest| rest.strip_suffix('}'))
    {
        text.push_str("vllm:cache_config_info{");
        pieces.push(Piece::Text(std::mem::take(text)));
        pieces.push(Piece::CacheConfig(labels.to_owned()));
        text.push('}');
    } else if let Some((before, after)) = name_and_labels.split_once(RECORDED_MODEL) {
        text.push_str(before);
        text.push_str("model_name=\"");
        pieces.push(Piece::Text(std::mem::take(text)));
        pieces.push(Piece::Model);
        text.push('"');
        text.push_str(after);
    } else {
        text.push_str(name_and_labels);
    }
}

fn series_of(name_and_labels: &str, value: &str, bucket: usize) -> Series {
    let (name, labels) = name_and_labels.split_once('{').unwrap_or((name_and_labels, ""));
    if let Some((_, _, read)) = LIVE
        .iter()
        .find(|(live, part, _)| *live == name && labels.contains(part))
    {
        return Series::Plain(*read);
    }
    for (family, histogram) in HISTOGRAMS {
        match name.strip_prefix(family) {
            Some("_bucket") => return Series::Bucket(*histogram, bucket),
            Some("_count") => return Series::Count(*histogram),
            Some("_sum") => return Series::Sum(*histogram),
            _ => {}
        }
    }
    if name.ends_with("_created") || name == "process_start_time_seconds" {
        Series::Started
    } else if name.ends_with("_info") || name == "process_max_fds" {
        Series::Constant(value.to_owned())
    } else {
        Series::Zero
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_live_series_is_in_the_recording() {
        for (name, part, _) in LIVE {
            let found = |line: &&str| line.starts_with(name) && line.contains(part) && !line.starts_with('#');
            assert!(RECORDING.lines().find(found).is_some(), "{name} {part}");
        }
    }

    #[test]
    fn bucket_bounds_are_the_recorded_ones() {
        let stats = Stats::default();
        for (family, histogram) in HISTOGRAMS {
            let prefix = format!("{family}_bucket{{");
            let bounds: Vec<f64> = RECORDING
                .lines()
                .filter(|line| line.starts_with(&prefix))
                .map(|line| line.split("le=\"").nth(1).unwrap().split('"').next().unwrap())
                .filter(|bound| *bound != "+Inf")
                .map(|bound| bound.parse().unwrap())
                .collect();
            assert_eq!(bounds, histogram(&stats).bounds(), "{family}");
        }
    }
}
