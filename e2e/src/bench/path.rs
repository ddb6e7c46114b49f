//! The way of a request: what each configuration costs in each case, measured in turn.
//!
//! In every round each configuration is measured once, starting with another one each time, so that whatever else the machine does meets
//! them alike; what is reported is the median over the rounds. A figure is CPU time charged to a process while so many requests
//! were answered, divided by their number; that includes the access-log entries about them, for which a round waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::load::{self, Length, Load};
use super::meter;
use super::stand::{Chain, Config, Plan, Stand};
use super::traffic::{Expected, Shape, Traffic};

/// Envoy sends its access log every 100 ms; this long after the last answer every entry has been read.
const AFTERWARDS: Duration = Duration::from_millis(300);

/// An entry of the access log that has not come this long after that never will.
const LATEST: Duration = Duration::from_secs(5);

/// A part of a round's length that is sent first and not measured.
const WARM_UP: u32 = 8;

/// What requests are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// A prompt of 1,000 bytes, a plain answer.
    Small,
    /// 64,000 bytes.
    Medium,
    /// 400,000 bytes.
    Large,
    /// A prompt of 1,000 bytes, 200 chunks 4 ms apart.
    Stream,
}

impl Case {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Small, Self::Medium, Self::Large, Self::Stream];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "1kB",
            Self::Medium => "64kB",
            Self::Large => "400kB",
            Self::Stream => "stream200",
        }
    }

    fn shape(self) -> Shape {
        let plain = |bytes| Shape {
            bytes,
            tokens: 8,
            stream: false,
        };
        match self {
            Self::Small => plain(1_000),
            Self::Medium => plain(64_000),
            Self::Large => plain(400_000),
            Self::Stream => Shape {
                tokens: 200,
                stream: true,
                ..plain(1_000)
            },
        }
    }

    /// The model servers it needs.
    fn figures(self) -> &'static str {
        match self {
            Self::Stream => "profile=test-nodelay,step_ms=4",
            Self::Small | Self::Medium | Self::Large => "profile=test-nodelay",
        }
    }
}

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is measured.
    pub cases: Vec<Case>,
    /// In which configurations.
    pub configs: Vec<Config>,
    /// How often.
    pub rounds: usize,
    /// How long a round of one configuration lasts.
    pub length: Duration,
    /// Connections of plain requests.
    pub connections: usize,
    /// Streams at one time.
    pub streams: usize,
    /// Model servers.
    pub endpoints: u8,
    /// Bound of the prefix index, bytes.
    pub index_bytes: u64,
    /// Worker threads of each Envoy.
    pub workers: u32,
}

/// One configuration in one case: of one round, or medians.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// CPU time of Envoy a request, microseconds.
    pub cpu_us_envoy: f64,
    /// CPU time of the processor a request, microseconds.
    pub cpu_us_processor: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// The latency that 99 % do not exceed, microseconds.
    pub p99_us: f64,
    /// Good answers a second.
    pub rps: f64,
    /// Requests that were not answered as expected, over all rounds.
    pub errors: u64,
}

/// The result of one configuration in one case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// The case.
    pub case: Case,
    /// The configuration.
    pub config: Config,
    /// The figures.
    pub figures: Figures,
}

/// Measures; progress and what went wrong go to standard error.
///
/// # Errors
/// When something cannot be started or measured. Requests that fail are counted in the rows.
pub async fn run(settings: &Settings) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for figures in [Case::Small.figures(), Case::Stream.figures()] {
        let cases: Vec<Case> = settings
            .cases
            .iter()
            .copied()
            .filter(|case| case.figures() == figures)
            .collect();
        if cases.is_empty() {
            continue;
        }
        eprintln!(
            "starting {} model servers ({figures}) and one Envoy a configuration",
            settings.endpoints
        );
        let mut stand = Stand::start(&Plan {
            beside: settings
                .configs
                .iter()
                .copied()
                .filter(|config| *config != Config::ExtProc)
                .collect(),
            endpoints: settings.endpoints,
            figures: figures.to_owned(),
            index_bytes: settings.index_bytes,
            workers: settings.workers,
        })
        .await?;
        for case in cases {
            rows.extend(measure(&mut stand, case, settings).await?);
        }
        let traces = stand.traces();
        anyhow::ensure!(
            traces > 0,
            "no trace has arrived: what was measured is not what is claimed"
        );
        eprintln!("{traces} bytes of traces have arrived");
    }
    Ok(rows)
}

async fn measure(stand: &mut Stand, case: Case, settings: &Settings) -> Result<Vec<Row>> {
    // There always is a chain of kthena-ext-proc, which fills the index.
    let measured = |chain: &Chain| settings.configs.contains(&chain.config);
    let chains: Vec<Chain> = stand.chains().iter().copied().filter(measured).collect();
    let mut rounds: Vec<Vec<Figures>> = vec![Vec::new(); chains.len()];
    for round in 0..settings.rounds {
        for turn in 0..chains.len() {
            let at = (round + turn) % chains.len();
            let chain = chains[at];
            let figures = once(stand, chain, case, settings).await;
            let figures = figures.with_context(|| format!("{} {}", case.name(), chain.config.name()))?;
            eprintln!(
                "{} round {}/{} {:9} Envoy {:7.1} us, processor {:7.1} us, {:6.0} a second",
                case.name(),
                round + 1,
                settings.rounds,
                chain.config.name(),
                figures.cpu_us_envoy,
                figures.cpu_us_processor,
                figures.rps,
            );
            rounds[at].push(figures);
        }
    }
    let rows = chains.iter().zip(rounds).map(|(chain, rounds)| Row {
        case,
        config: chain.config,
        figures: medians(&rounds),
    });
    Ok(rows.collect())
}

/// One configuration in one round.
async fn once(stand: &mut Stand, chain: Chain, case: Case, settings: &Settings) -> Result<Figures> {
    let traffic = Arc::new(Traffic::new(case.shape(), chain.config.model(), Expected::Answer));
    let load = |time| Load {
        to: chain.address,
        traffic: Arc::clone(&traffic),
        connections: match case {
            Case::Stream => settings.streams,
            Case::Small | Case::Medium | Case::Large => settings.connections,
        },
        length: Length::Time(time),
    };
    let counted = tokens(stand, chain).await?;
    let warm = load::send(load(settings.length / WARM_UP)).await?;
    tokio::time::sleep(AFTERWARDS).await;
    let before = spent(chain)?;
    let outcome = load::send(load(settings.length)).await?;
    tokio::time::sleep(AFTERWARDS).await;
    let after = spent(chain)?;
    if let Some(error) = &outcome.error {
        eprintln!(
            "{} {}: {} requests failed, as {error}",
            case.name(),
            chain.config.name(),
            outcome.errors
        );
    }
    let mut unknown = u64::MAX;
    let deadline = Instant::now() + LATEST;
    while unknown > 0 && Instant::now() < deadline {
        let counted = tokens(stand, chain).await? - counted;
        unknown = usage_unknown(chain, warm.good() + outcome.good(), &traffic, counted);
    }
    if unknown > 0 {
        eprintln!("{}: the usage of {unknown} requests is not known", case.name());
    }
    let requests = outcome.good().max(1) as f64;
    let a_request = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64() * 1e6 / requests;
    Ok(Figures {
        cpu_us_envoy: a_request(before.0, after.0),
        cpu_us_processor: a_request(before.1, after.1),
        p50_us: f64::from(outcome.percentile_us(0.5)),
        p99_us: f64::from(outcome.percentile_us(0.99)),
        rps: outcome.rate(),
        errors: outcome.errors + unknown,
    })
}

/// Tokens of answers that kthena-ext-proc has counted, or our filter has told the controller of; 0 for others, who count none.
async fn tokens(stand: &mut Stand, chain: Chain) -> Result<f64> {
    let (name, output) = ("kthena_router_tokens_total", r#"token_type="output""#);
    match chain.config {
        Config::ExtProc => stand.metric(name, output).await,
        Config::Wasm => stand.told(name, output).await,
        Config::Bare | Config::Noop | Config::NoopEcho | Config::WasmNoop => Ok(0.0),
    }
}

/// Requests whose usage did not become known.
fn usage_unknown(chain: Chain, answers: u64, traffic: &Traffic, counted: f64) -> u64 {
    if !matches!(chain.config, Config::ExtProc | Config::Wasm) {
        return 0;
    }
    let known = counted as u64 / traffic.tokens();
    answers.saturating_sub(known)
}

fn spent(chain: Chain) -> Result<(Duration, Duration)> {
    let processor = chain.processor.map_or(Ok(Duration::ZERO), meter::busy);
    Ok((meter::busy(chain.envoy)?, processor?))
}

fn medians(rounds: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(figure).collect());
    Figures {
        cpu_us_envoy: of(|one| one.cpu_us_envoy),
        cpu_us_processor: of(|one| one.cpu_us_processor),
        p50_us: of(|one| one.p50_us),
        p99_us: of(|one| one.p99_us),
        rps: of(|one| one.rps),
        errors: rounds.iter().map(|one| one.errors).sum(),
    }
}

/// The middle one, or the mean of the two in the middle; 0 when there are none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match (values.get(half), values.len() % 2) {
        (Some(middle), 1) => *middle,
        (Some(upper), _) => f64::midpoint(values[half - 1], *upper),
        (None, _) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_taken_figure_by_figure_and_errors_add_up() {
        let round = |cpu: f64, rps: f64| Figures {
            cpu_us_envoy: cpu,
            rps,
            errors: 1,
            ..Figures::default()
        };
        let figures = medians(&[round(3.0, 10.0), round(1.0, 30.0), round(200.0, 20.0)]);
        assert_eq!((figures.cpu_us_envoy, figures.rps, figures.errors), (3.0, 20.0, 3));
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }
}
