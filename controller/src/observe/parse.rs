//! A line filter over the Prometheus text format: it finds the lines that name a series we read and skips the rest.
//!
//! A scrape is 50 to 60 kB of which a dozen lines matter. What must always hold: any bytes, cut anywhere into chunks,
//! give the same reading and never a panic; nothing is allocated per line; memory is one line's length at most (a longer
//! line is skipped whole). It fails line by line: a line that cannot be read is as if it were absent, and a value that
//! is not a finite number of at least 0 says nothing.

use kthena_scheduler::load::Sample;
use memchr::{memchr, memchr2};

use super::series::{Field, Series};

/// Longest line read, bytes. The longest that matters (vLLM's cache configuration) has about 1,200.
const MAX_LINE: usize = 16 * 1024;

/// Sum and number of samples of a histogram, since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Sum of the samples, seconds.
    pub sum: f64,
    /// Number of samples.
    pub count: f64,
}

/// What one scrape says. `None` = it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// The gauges.
    pub sample: Sample,
    /// Time to first token.
    pub ttft: Option<Sums>,
    /// Time per output token.
    pub tpot: Option<Sums>,
    /// Tokens the KV cache holds.
    pub kv_capacity_tokens: Option<u64>,
    /// Start of the process, milliseconds since the Unix epoch.
    pub started_ms: Option<u64>,
}

/// Reads one scrape after another from chunks of bytes.
#[derive(Debug)]
pub struct Reader {
    series: &'static Series,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// True inside a line that is too long.
    skipping: bool,
    totals: Totals,
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    waiting: Option<f64>,
    running: Option<f64>,
    kv_usage: Option<f64>,
    kv_usage_series: u32,
    ttft_sum: Option<f64>,
    ttft_count: Option<f64>,
    tpot_sum: Option<f64>,
    tpot_count: Option<f64>,
    kv_capacity: Option<f64>,
    started: Option<f64>,
}

// === impl Reader ===

impl Reader {
    /// A reader of these series.
    pub fn new(series: &'static Series) -> Self {
        Self {
            series,
            line: Vec::new(),
            skipping: false,
            totals: Totals::default(),
        }
    }

    /// Forgets what was read of a scrape that did not end.
    pub fn reset(&mut self) {
        self.line.clear();
        self.skipping = false;
        self.totals = Totals::default();
    }

    /// Reads the next chunk of a scrape.
    pub fn push(&mut self, mut chunk: &[u8]) {
        if self.skipping || !self.line.is_empty() {
            let end = memchr(b'\n', chunk);
            self.extend(&chunk[..end.unwrap_or(chunk.len())]);
            let Some(end) = end else { return };
            if !self.skipping {
                self.totals.read(self.series, &self.line);
            }
            self.line.clear();
            self.skipping = false;
            chunk = &chunk[end + 1..];
        }
        while let Some(end) = memchr(b'\n', chunk) {
            if end <= MAX_LINE {
                self.totals.read(self.series, &chunk[..end]);
            }
            chunk = &chunk[end + 1..];
        }
        self.extend(chunk);
    }

    /// Ends the scrape and is ready for the next.
    pub fn finish(&mut self) -> Reading {
        if !self.skipping {
            self.totals.read(self.series, &self.line);
        }
        let reading = self.totals.reading();
        self.reset();
        reading
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.line.len() + bytes.len() > MAX_LINE {
            self.skipping = true;
            self.line.clear();
        }
        if !self.skipping {
            self.line.extend_from_slice(bytes);
        }
    }
}

// === impl Totals ===

impl Totals {
    fn read(&mut self, series: &Series, line: &[u8]) {
        let Some(at) = memchr2(b'{', b' ', line) else { return };
        let Some(field) = series.field(&line[..at]) else { return };
        let Some((labels, value)) = split_labels(&line[at..]) else {
            return;
        };
        let shard = |label: &&[u8]| label_value(labels, label).is_some_and(|rank| rank != b"0");
        if series.shard_labels.iter().any(shard) {
            return;
        }
        let number = number(value);
        match field {
            Field::Waiting => add(&mut self.waiting, number),
            Field::Running => add(&mut self.running, number),
            Field::KvUsage => {
                self.kv_usage_series += u32::from(number.is_some());
                add(&mut self.kv_usage, number);
            }
            Field::TtftSum => add(&mut self.ttft_sum, number),
            Field::TtftCount => add(&mut self.ttft_count, number),
            Field::TpotSum => add(&mut self.tpot_sum, number),
            Field::TpotCount => add(&mut self.tpot_count, number),
            Field::KvCapacity => add(&mut self.kv_capacity, number),
            Field::CacheConfig => add(&mut self.kv_capacity, cache_tokens(labels)),
            Field::StartTime => self.started = number.into_iter().chain(self.started).reduce(f64::max),
        }
    }

    fn reading(&self) -> Reading {
        // Casts from float saturate: a count beyond u32 is as good as u32::MAX.
        Reading {
            sample: Sample {
                waiting: self.waiting.map(|v| v as u32),
                running: self.running.map(|v| v as u32),
                kv_usage: self
                    .kv_usage
                    .map(|v| (v / f64::from(self.kv_usage_series)).min(1.0) as f32),
            },
            ttft: sums(self.ttft_sum, self.ttft_count),
            tpot: sums(self.tpot_sum, self.tpot_count),
            kv_capacity_tokens: self.kv_capacity.map(|v| v as u64).filter(|v| *v > 0),
            started_ms: self.started.map(|v| (v * 1000.0) as u64).filter(|v| *v > 0),
        }
    }
}

fn add(total: &mut Option<f64>, value: Option<f64>) {
    if let Some(value) = value {
        *total = Some(total.unwrap_or(0.0) + value);
    }
}

fn sums(sum: Option<f64>, count: Option<f64>) -> Option<Sums> {
    Some(Sums {
        sum: sum?,
        count: count?,
    })
}

/// `{labels} value …` → the labels without braces, and what follows them. No labels: the first is empty.
fn split_labels(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    if rest.first() != Some(&b'{') {
        return Some((&[], rest));
    }
    let mut at = 1;
    let mut quoted = false;
    while let Some(byte) = rest.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Some((&rest[1..at], &rest[at + 1..])),
            _ => {}
        }
        at += 1;
    }
    None
}

/// The first number after the labels, when it is finite and at least 0. A timestamp may follow it.
fn number(rest: &[u8]) -> Option<f64> {
    let token = rest
        .split(|byte| byte.is_ascii_whitespace())
        .find(|token| !token.is_empty())?;
    let value: f64 = std::str::from_utf8(token).ok()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value)
}

/// The raw value of a label (escapes are left alone), `None` when it is absent.
fn label_value<'a>(mut labels: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    loop {
        let equals = memchr(b'=', labels)?;
        let key = labels[..equals].trim_ascii();
        let value = labels[equals + 1..].trim_ascii_start().strip_prefix(b"\"")?;
        let mut end = 0;
        while *value.get(end)? != b'"' {
            end += if value[end] == b'\\' { 2 } else { 1 };
        }
        if key == name {
            return Some(&value[..end]);
        }
        labels = value[end + 1..].trim_ascii_start();
        labels = labels.strip_prefix(b",").unwrap_or(labels);
    }
}

/// Tokens of a cache of `num_gpu_blocks` blocks of `block_size` tokens; an engine that does not know says `None`.
fn cache_tokens(labels: &[u8]) -> Option<f64> {
    Some(number(label_value(labels, b"block_size")?)? * number(label_value(labels, b"num_gpu_blocks")?)?)
}

#[cfg(test)]
mod tests {
    use kthena_scheduler::snapshot::Engine;
    use proptest::prelude::*;

    use super::super::engine::series_of;
    use super::*;

    fn read(engine: Engine, text: &[u8]) -> Reading {
        let mut reader = Reader::new(series_of(engine));
        reader.push(text);
        reader.finish()
    }

    #[test]
    fn a_recording_of_vllm_0_32_is_read() {
        let text = include_bytes!("../../tests/fixtures/vllm-0.32-metrics.txt");
        let reading = read(Engine::Vllm, text);
        assert_eq!(
            reading.sample,
            Sample {
                waiting: Some(0),
                running: Some(0),
                kv_usage: Some(0.0)
            }
        );
        let ttft = Sums {
            sum: 0.08407330513000488,
            count: 2.0,
        };
        assert_eq!(reading.ttft, Some(ttft));
        assert_eq!(reading.tpot.map(|tpot| tpot.count), Some(10.0));
        assert_eq!(reading.kv_capacity_tokens, Some(128 * 8192));
        assert_eq!(reading.started_ms, Some(1_795_389_080_880));
    }

    #[test]
    fn counts_are_summed_and_shares_averaged_over_data_parallel_ranks() {
        let text = b"vllm:num_requests_waiting{engine=\"0\"} 2.0\nvllm:num_requests_waiting{engine=\"1\"} 3\n\
            vllm:kv_cache_usage_perc{engine=\"0\"} 0.2\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.4\n\
            vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"10\"} 1.0\n\
            vllm:cache_config_info{num_gpu_blocks=\"10\", block_size = \"16\"} 1.0";
        let reading = read(Engine::Vllm, text);
        assert_eq!(reading.sample.waiting, Some(5));
        assert!((reading.sample.kv_usage.unwrap() - 0.3).abs() < 1e-6);
        assert_eq!(reading.kv_capacity_tokens, Some(320));
        assert_eq!(
            reading.sample.running, None,
            "what the engine does not say stays unknown"
        );
    }

    #[test]
    fn shards_of_one_sglang_replica_count_once() {
        let text = b"sglang:num_running_reqs{dp_rank=\"0\",tp_rank=\"0\"} 4\n\
            sglang:num_running_reqs{dp_rank=\"0\",tp_rank=\"1\"} 4\n\
            sglang:num_running_reqs{dp_rank=\"1\",tp_rank=\"0\"} 2\n\
            sglang:max_total_num_tokens{model_name=\"m\"} 471258.0\n";
        let reading = read(Engine::Sglang, text);
        assert_eq!(reading.sample.running, Some(6));
        assert_eq!(reading.kv_capacity_tokens, Some(471_258));
    }

    #[test]
    fn labels_may_hold_braces_quotes_and_spaces() {
        let text = b"vllm:num_requests_running{model_name=\"a} 9 \\\"b\\\\\",x=\"1\"} 7 1795389176000\n";
        assert_eq!(read(Engine::Vllm, text).sample.running, Some(7));
    }

    #[test]
    fn a_line_that_cannot_be_read_says_nothing() {
        for text in [
            &b"vllm:num_requests_running{model_name=\"open 3\n"[..],
            b"vllm:num_requests_running NaN\n",
            b"vllm:num_requests_running -1\n",
            b"vllm:num_requests_running\n",
            b"vllm:num_requests_running{} \n",
            b"# vllm:num_requests_running 3\n",
            b"vllm:num_requests_running_total 3\n",
        ] {
            assert_eq!(read(Engine::Vllm, text), Reading::default());
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut reader = Reader::new(series_of(Engine::Vllm));
        for _ in 0..64 {
            reader.push(&[b'x'; 4096]);
            assert!(reader.line.len() <= MAX_LINE);
        }
        reader.push(b"\nvllm:num_requests_running 3\n");
        assert_eq!(reader.finish().sample.running, Some(3), "the next line is read");
    }

    /// Text made of pieces that matter to the parser, so that the search reaches past its first branch.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"vllm:num_requests_running".to_vec()),
            Just(b"vllm:kv_cache_usage_perc{".to_vec()),
            Just(b"vllm:cache_config_info{block_size=\"16\",".to_vec()),
            Just(b"num_gpu_blocks=\"8\"} 1".to_vec()),
            Just(b"engine=\"0\"} ".to_vec()),
            Just(b" 3.5e1\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\\\"".to_vec()),
            Just(vec![b'y'; 9000]),
            proptest::collection::vec(any::<u8>(), 0..12),
        ];
        proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_cut_anywhere_give_the_same_reading(text in text(), cuts in proptest::collection::vec(0usize..4000, 0..8)) {
            let whole = read(Engine::Vllm, &text);
            let mut reader = Reader::new(series_of(Engine::Vllm));
            let mut rest = &text[..];
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                reader.push(head);
                rest = tail;
            }
            reader.push(rest);
            prop_assert_eq!(whole, reader.finish());
        }
    }
}
