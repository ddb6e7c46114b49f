//! What reading one scrape costs: a recording of a real vLLM, in the chunks in which a socket gives it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kthena_controller::observe::{Reader, series_of};
use kthena_scheduler::snapshot::Engine;

const RECORDING: &[u8] = include_bytes!("../tests/fixtures/vllm-0.32-metrics.txt");

/// A connection's read buffer.
const CHUNK: usize = 64 * 1024;

fn scrape(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scrape");
    group.throughput(Throughput::Bytes(RECORDING.len() as u64));
    let mut reader = Reader::new(series_of(Engine::Vllm));
    group.bench_function("vllm-0.32", |bencher| {
        bencher.iter(|| {
            for chunk in RECORDING.chunks(CHUNK) {
                reader.push(chunk);
            }
            reader.finish()
        });
    });
    group.finish();
}

criterion_group!(benches, scrape);
criterion_main!(benches);
