//! Memory of `kthena-ext-proc`: after many requests what it was after some, and no more for bodies above the bound than for those below.
//!
//! Both are read from the kernel, several times: what is resident goes up and down by huge pages, 2 MiB each, while the program
//! holds the same. The prefix index is full beforehand, as it would else grow to its bound and count as growth.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::load::{self, Length, Load};
use super::meter::{self, Memory};
use super::report::Verdict;
use super::stand::{Config, Plan, Stand};
use super::traffic::{BODY_BOUND, Expected, Shape, Traffic};

/// Time for what a request leaves behind to be given back, and from one reading to the next.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// Readings, of which the one in the middle counts.
const READINGS: usize = 5;

/// Connections with bodies of the largest size, and how many each sends.
const LARGE_CONNECTIONS: usize = 4;
const LARGE_REQUESTS: u64 = 24;

/// Bodies a little below the bound, and between it and the 17 MiB that Envoy lets through.
const BELOW: usize = BODY_BOUND - 100_000;
const ABOVE: usize = BODY_BOUND + 700_000;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Requests of 1 kB in all; memory is read after a tenth of them and after all.
    pub requests: u64,
    /// Connections that send them.
    pub connections: usize,
    /// Model servers.
    pub endpoints: u8,
    /// Bound of the prefix index, bytes.
    pub index_bytes: u64,
    /// Worker threads of Envoy.
    pub workers: u32,
}

/// Measures; progress goes to standard error.
///
/// # Errors
/// When something cannot be started or measured, or a request is not answered as expected.
pub async fn run(settings: &Settings) -> Result<Vec<Verdict>> {
    let stand = Stand::start(&Plan {
        beside: Vec::new(),
        endpoints: settings.endpoints,
        figures: "profile=test-nodelay".to_owned(),
        index_bytes: settings.index_bytes,
        workers: settings.workers,
    })
    .await?;
    let tenth = settings.requests / 10;
    let small = |requests| (1_000, Expected::Answer, settings.connections, requests);
    let early = after(&stand, small(tenth)).await?;
    eprintln!("after {tenth} requests: {} kB resident", early.resident / 1024);
    let late = after(&stand, small(settings.requests - tenth)).await?;
    eprintln!(
        "after {} requests: {} kB resident",
        settings.requests,
        late.resident / 1024
    );
    let below = after(&stand, (BELOW, Expected::Answer, LARGE_CONNECTIONS, LARGE_REQUESTS)).await?;
    let above = after(
        &stand,
        (ABOVE, Expected::Status(413), LARGE_CONNECTIONS, LARGE_REQUESTS),
    )
    .await?;
    let large = format!("{LARGE_CONNECTIONS} at a time");
    eprintln!(
        "after bodies of {BELOW} bytes, {large}: {} kB resident, {} kB at most; then of {ABOVE} bytes, refused: {} kB, {} kB",
        below.resident / 1024,
        below.peak / 1024,
        above.resident / 1024,
        above.peak / 1024,
    );
    Ok(vec![
        Verdict {
            what: format!(
                "memory after {} requests, {} kB, by that after {tenth}, {} kB",
                settings.requests,
                late.resident / 1024,
                early.resident / 1024
            ),
            is: late.resident as f64 / early.resident as f64,
            at_most: 1.05,
        },
        Verdict {
            what: format!("peak memory with bodies above the bound by that with bodies just below it, {large}"),
            is: above.peak as f64 / below.peak as f64,
            at_most: 1.05,
        },
    ])
}

async fn after(stand: &Stand, sent: (usize, Expected, usize, u64)) -> Result<Memory> {
    let (bytes, expected, connections, requests) = sent;
    let chain = stand.own()?;
    let shape = Shape {
        bytes,
        tokens: 8,
        stream: false,
    };
    load::send(Load {
        to: chain.address,
        traffic: Arc::new(Traffic::new(shape, Config::ExtProc.model(), expected)),
        connections,
        length: Length::Requests(requests),
    })
    .await?
    .all_good()
    .with_context(|| format!("bodies of {bytes} bytes"))?;
    let processor = chain.processor.context("kthena-ext-proc is not running")?;
    let mut readings = Vec::with_capacity(READINGS);
    for _ in 0..READINGS {
        tokio::time::sleep(AFTERWARDS).await;
        readings.push(meter::memory(processor)?);
    }
    readings.sort_by_key(|memory| memory.resident);
    Ok(readings.swap_remove(READINGS / 2))
}
