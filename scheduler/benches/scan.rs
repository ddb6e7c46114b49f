//! Scan and hash of 400 kB bodies, beside a plain pass over the same bytes.
//!
//! `cargo bench -p kthena-scheduler --bench scan`. The bound to hold is 1.5 GB/s for each kind of text; the plain pass (a
//! sum over 64-bit words, and a search for a byte that is not there) says what the machine gives at all.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kthena_scheduler::prefix::chain::DEFAULT_BLOCK_BYTES;
use kthena_scheduler::request::{ApiForm, BodyScan, RequestFacts};

const BODY_BYTES: usize = 400_000;

/// How Envoy cuts a body that it streams.
const CHUNK_BYTES: usize = 16 * 1024;

const PROSE: &str = "The harbour lay quiet under a thin fog, and the boats that had come in during the night rested against \
     one another as if they too were tired of the weather. Nobody spoke of leaving before noon.\n\n";

/// A few escapes and letters outside of ASCII among plain words, as in the benchmark of the way of a request.
const MIXED: &str = "river stone market letter window garden engine winter copper signal harbour method forest paper \
     Grüße number bridge 日本 summer valley kernel \"matrix\" branch vector ";

const CODE: &str = "fn main() {\n\tlet name = std::env::args().nth(1).unwrap_or_else(|| \"world\".to_string());\n\tmatch greet(&name) \
     {\n\t\tOk(text) => println!(\"{}\", text),\n\t\tErr(error) => eprintln!(\"error: \\\"{}\\\"\", error),\n\t}\n}\n\n";

/// Arguments of a tool call: JSON within JSON, the densest escapes that clients send.
const NESTED: &str =
    "{\"path\": \"src/main.rs\", \"line\": 12, \"old\": \"let x = 1;\", \"new\": \"let x = 2;\", \"all\": true}, ";

const CHINESE: &str =
    "港口笼罩在薄雾之中，夜里归来的船只互相依靠，仿佛也厌倦了这样的天气。中午之前，没有人提起离开的事。";

const RUSSIAN: &str = "Гавань лежала тихо под тонким туманом, и лодки, вернувшиеся ночью, прижимались друг к другу. ";

fn chat(text: &str, ascii: bool) -> String {
    let content: String = text
        .chars()
        .cycle()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes < BODY_BYTES).then_some(c)
        })
        .collect();
    let mut quoted = serde_json::Value::from(content).to_string();
    if ascii {
        quoted = quoted.chars().flat_map(escaped).collect();
    }
    quoted.truncate(
        quoted
            .char_indices()
            .map(|(at, _)| at)
            .take_while(|at| *at < BODY_BYTES)
            .last()
            .unwrap_or(0),
    );
    // The cut may have split an escape.
    quoted.truncate(quoted.rfind([' ', '，', '。', '\\']).unwrap_or(0));
    format!("{{\"model\":\"alias\",\"messages\":[{{\"role\":\"user\",\"content\":{quoted}\"}}],\"stream\":true}}")
}

fn escaped(c: char) -> Vec<char> {
    let mut units = [0; 2];
    match c.is_ascii() {
        true => vec![c],
        false => c
            .encode_utf16(&mut units)
            .iter()
            .flat_map(|unit| format!("\\u{unit:04x}").into_bytes())
            .map(char::from)
            .collect(),
    }
}

fn ids(separator: &str) -> String {
    let mut list = String::new();
    let mut state = 1u64;
    while list.len() < BODY_BYTES {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let id = (state >> 33) % 128_000;
        list.push_str(if list.is_empty() { "" } else { separator });
        list.push_str(&id.to_string());
    }
    format!("{{\"model\":\"alias\",\"prompt\":[{list}]}}")
}

fn scan(form: ApiForm, body: &[u8], chunk_bytes: usize) -> Option<RequestFacts> {
    let mut scan = BodyScan::new(form, DEFAULT_BLOCK_BYTES);
    for chunk in body.chunks(chunk_bytes) {
        scan.feed(chunk).ok()?;
    }
    scan.finish().ok()
}

fn sum_of_words(body: &[u8]) -> u64 {
    body.chunks_exact(8).fold(0, |sum: u64, word| {
        word.first_chunk()
            .map_or(sum, |word| sum.wrapping_add(u64::from_le_bytes(*word)))
    })
}

fn bodies() -> [(&'static str, ApiForm, String); 9] {
    [
        ("prose", ApiForm::ChatCompletions, chat(PROSE, false)),
        ("mixed", ApiForm::ChatCompletions, chat(MIXED, false)),
        ("code", ApiForm::ChatCompletions, chat(CODE, false)),
        ("json-in-json", ApiForm::ChatCompletions, chat(NESTED, false)),
        ("chinese", ApiForm::ChatCompletions, chat(CHINESE, false)),
        ("russian", ApiForm::ChatCompletions, chat(RUSSIAN, false)),
        ("chinese-escaped", ApiForm::ChatCompletions, chat(CHINESE, true)),
        ("ids", ApiForm::Completions, ids(",")),
        ("ids-spaced", ApiForm::Completions, ids(", ")),
    ]
}

fn bench(criterion: &mut Criterion) {
    let bodies = bodies();
    let mut group = criterion.benchmark_group("scan");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    for (name, form, body) in &bodies {
        let body = body.as_bytes();
        assert!(
            scan(*form, body, body.len()).is_some_and(|facts| facts.prompt.chain.blocks > 1000),
            "{name}"
        );
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("whole", name), body, |bencher, body| {
            bencher.iter(|| scan(*form, black_box(body), body.len()));
        });
        group.bench_with_input(BenchmarkId::new("chunks", name), body, |bencher, body| {
            bencher.iter(|| scan(*form, black_box(body), CHUNK_BYTES));
        });
        group.bench_with_input(BenchmarkId::new("plain-sum", name), body, |bencher, body| {
            bencher.iter(|| sum_of_words(black_box(body)));
        });
        group.bench_with_input(BenchmarkId::new("plain-search", name), body, |bencher, body| {
            bencher.iter(|| memchr::memchr(0, black_box(body)));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
