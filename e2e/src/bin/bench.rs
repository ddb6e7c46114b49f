//! `kthena-bench`: what Kthena costs on this machine; `make bench` builds what it needs and runs it.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use kthena_e2e::bench::report::{self, Verdict};
use kthena_e2e::bench::stand::Config;
use kthena_e2e::bench::{control, engines, idle, memory, path, scrape};

/// Measures what Kthena costs, side by side with doing without it. Absolute figures are those of this machine; ratios count.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    #[command(subcommand)]
    measure: Measure,
}

#[derive(Debug, Subcommand)]
enum Measure {
    /// CPU and latency of requests: bare Envoy, Envoy with a no-op ext_proc server, Envoy with kthena-ext-proc.
    Path(PathFlags),
    /// Memory of kthena-ext-proc after many requests and with large bodies.
    Memory(MemoryFlags),
    /// CPU of kthena-controller while it watches a fleet.
    Scrape(ScrapeFlags),
    /// CPU of the wasm filter's VMs while nobody asks anything.
    Idle(IdleFlags),
    /// How fast a change of the cluster reaches the filters, and what the controller costs among many objects, on a real API server.
    Control(ControlFlags),
    /// Hits and times to first token on vLLM servers that run already: the default profile beside random choice.
    Engines(EnginesFlags),
}

#[derive(Debug, Args)]
struct Stand {
    /// Model servers.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=250))]
    endpoints: u8,
    /// Bound of the prefix index in bytes; it is filled before anything is measured.
    #[arg(long, default_value_t = 4 << 20)]
    index_bytes: u64,
    /// Worker threads of each Envoy.
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// Connections of plain requests, each with one at a time.
    #[arg(long, default_value_t = 16)]
    connections: usize,
}

#[derive(Debug, Args)]
struct PathFlags {
    /// How often everything is measured; figures are medians.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that one configuration is measured in one round.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// What is measured; everything when left out.
    #[arg(long = "case", value_parser = case, value_delimiter = ',')]
    cases: Vec<path::Case>,
    /// Which configurations are measured; all of them when left out.
    #[arg(long = "config", value_parser = config, value_delimiter = ',')]
    configs: Vec<Config>,
    /// Streams at one time.
    #[arg(long, default_value_t = 64)]
    streams: usize,
    /// File for the figures, one JSON object a line.
    #[arg(long, default_value = "target/bench/path.jsonl")]
    out: PathBuf,
    #[command(flatten)]
    stand: Stand,
}

#[derive(Debug, Args)]
struct MemoryFlags {
    /// Requests; memory is read after a tenth of them and after all.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(10..))]
    requests: u64,
    #[command(flatten)]
    stand: Stand,
}

#[derive(Debug, Args)]
struct ScrapeFlags {
    /// Seconds that the controller is watched.
    #[arg(long, default_value_t = 20.0, value_parser = seconds)]
    seconds: f64,
    /// Model servers.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=250))]
    endpoints: u8,
}

#[derive(Debug, Args)]
struct IdleFlags {
    /// Seconds that each case is watched.
    #[arg(long, default_value_t = 20.0, value_parser = seconds)]
    seconds: f64,
    /// File for the figures, one JSON object a line.
    #[arg(long, default_value = "target/bench/idle.jsonl")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct ControlFlags {
    /// What is measured; both when left out.
    #[arg(long = "case", value_enum, value_delimiter = ',')]
    cases: Vec<ControlCase>,
    /// ext_proc servers that follow changes of pods.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=200))]
    filters: u16,
    /// Pods among which they change, a multiple of 50.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(100..=5000))]
    pods: u16,
    /// Changes of pods a second.
    #[arg(long, default_value_t = 5.0, value_parser = rate)]
    rate: f64,
    /// Seconds of changes.
    #[arg(long, default_value_t = 80.0, value_parser = seconds)]
    seconds: f64,
    /// ModelServers among which one change is measured, with a ModelRoute and five pods each, which are not observed.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(100..=10_000))]
    servers: u16,
    /// ModelServers among which it is measured first, to compare.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(100..=10_000))]
    few: u16,
    /// Changes of each kind.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    changes: u16,
    /// Seconds that the controller is watched at rest.
    #[arg(long, default_value_t = 20.0, value_parser = seconds)]
    rest: f64,
    /// File for the figures, one JSON object a line.
    #[arg(long, default_value = "target/bench/control.jsonl")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ControlCase {
    /// From a changed pod to every filter.
    Reach,
    /// Many objects.
    Scale,
}

#[derive(Debug, Args)]
struct EnginesFlags {
    /// Where an engine listens, an IPv4 address and a port; once for each engine, all at the same port.
    #[arg(long = "endpoint", required = true)]
    endpoints: Vec<SocketAddrV4>,
    /// The name under which the engines serve the model.
    #[arg(long)]
    model: String,
    /// How often each profile is measured, in turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Conversations of one profile at one time.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=1000))]
    conversations: u16,
    /// Questions of a conversation.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    turns: u16,
    /// Bytes of a question; with all before it, it has to fit into the model's context.
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    question_bytes: u32,
    /// Tokens of an answer.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    answer_tokens: u32,
    /// Seconds from an answer to the next question.
    #[arg(long, default_value_t = 4.0, value_parser = seconds)]
    pause: f64,
    /// Where all text comes from, to repeat a run on engines that were restarted; the time of day when left out.
    #[arg(long)]
    seed: Option<u64>,
}

impl EnginesFlags {
    fn settings(self) -> engines::Settings {
        let today = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        engines::Settings {
            endpoints: self.endpoints,
            model: self.model,
            rounds: self.rounds.into(),
            conversations: self.conversations.into(),
            turns: self.turns.into(),
            question_bytes: self.question_bytes as usize,
            answer_tokens: self.answer_tokens,
            pause: Duration::from_secs_f64(self.pause),
            // A run takes some seconds at least, and has fewer questions than there are microseconds in it.
            seed: self.seed.unwrap_or_else(|| today().as_micros() as u64),
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "give seconds from 0.1 to 3600".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.1..=100.0).contains(rate));
    rate.ok_or_else(|| "give changes a second from 0.1 to 100".to_owned())
}

fn case(text: &str) -> Result<path::Case, String> {
    let known = path::Case::ALL.into_iter().find(|case| case.name() == text);
    known.ok_or_else(|| "give 1kB, 64kB, 400kB or stream200".to_owned())
}

fn config(text: &str) -> Result<Config, String> {
    let known = Config::ALL.into_iter().find(|config| config.name() == text);
    known.ok_or_else(|| format!("give one of {}", Config::ALL.map(Config::name).join(", ")))
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    // Children are started from this thread, which lives as long as the process: see `process`.
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(measure(flags.measure)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(errors) => {
            eprintln!("kthena-bench: {errors} requests were not answered as expected");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("kthena-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; returns how many requests failed.
async fn measure(measure: Measure) -> Result<u64> {
    match measure {
        Measure::Path(flags) => measure_path(flags).await,
        Measure::Memory(MemoryFlags { requests, stand }) => {
            let settings = memory::Settings {
                requests,
                connections: stand.connections,
                endpoints: stand.endpoints,
                index_bytes: stand.index_bytes,
                workers: stand.workers,
            };
            tell(&memory::run(&settings).await?);
            Ok(0)
        }
        Measure::Scrape(flags) => {
            let settings = scrape::Settings {
                endpoints: flags.endpoints,
                length: Duration::from_secs_f64(flags.seconds),
            };
            tell(&scrape::run(&settings).await?);
            Ok(0)
        }
        Measure::Idle(flags) => measure_idle(&flags).await,
        Measure::Control(flags) => measure_control(&flags).await,
        Measure::Engines(flags) => {
            let rows = engines::run(&flags.settings()).await?;
            print!("{}", engines::table(&rows));
            Ok(rows.iter().map(|row| row.figures.lost as u64).sum())
        }
    }
}

async fn measure_path(flags: PathFlags) -> Result<u64> {
    let rows = path::run(&path::Settings {
        cases: match flags.cases.is_empty() {
            true => path::Case::ALL.to_vec(),
            false => flags.cases,
        },
        configs: match flags.configs.is_empty() {
            true => Config::ALL.to_vec(),
            false => flags.configs,
        },
        rounds: flags.rounds,
        length: Duration::from_secs_f64(flags.seconds),
        connections: flags.stand.connections,
        streams: flags.streams,
        endpoints: flags.stand.endpoints,
        index_bytes: flags.stand.index_bytes,
        workers: flags.stand.workers,
    })
    .await?;
    println!("{}", report::table(&rows));
    tell(&report::verdicts(&rows));
    write(&flags.out, &report::lines(&rows))?;
    Ok(rows.iter().map(|row| row.figures.errors).sum())
}

async fn measure_idle(flags: &IdleFlags) -> Result<u64> {
    let mut lines = String::new();
    for case in idle::Case::ALL {
        let figures = idle::run(case, Duration::from_secs_f64(flags.seconds)).await?;
        println!("{}", idle::verdict(case, figures).line());
        lines.push_str(&format!("{}\n", idle::line(case, figures)));
    }
    write(&flags.out, &lines)?;
    Ok(0)
}

async fn measure_control(flags: &ControlFlags) -> Result<u64> {
    let wanted = |case| flags.cases.is_empty() || flags.cases.contains(&case);
    let mut parts = Vec::new();
    if wanted(ControlCase::Reach) {
        let settings = control::reach::Settings {
            filters: flags.filters.into(),
            pods: flags.pods,
            rate: flags.rate,
            length: Duration::from_secs_f64(flags.seconds),
        };
        parts.push(control::reach::run(&settings).await?);
    }
    if wanted(ControlCase::Scale) {
        let settings = control::scale::Settings {
            servers: flags.servers.into(),
            few: flags.few.min(flags.servers).into(),
            changes: flags.changes.into(),
            length: Duration::from_secs_f64(flags.rest),
        };
        parts.push(control::scale::run(&settings).await?);
    }
    let mut lines = String::new();
    for part in &parts {
        println!("{}", part.table);
        tell(&part.verdicts);
        part.lines.iter().for_each(|line| lines.push_str(&format!("{line}\n")));
    }
    write(&flags.out, &lines)?;
    Ok(parts.iter().map(|part| part.errors).sum())
}

fn write(file: &Path, lines: &str) -> Result<()> {
    let folder = file.parent().context("--out needs a file's name")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    std::fs::write(file, lines).with_context(|| format!("cannot write {}", file.display()))
}

fn tell(verdicts: &[Verdict]) {
    for verdict in verdicts {
        println!("{}", verdict.line());
    }
}
