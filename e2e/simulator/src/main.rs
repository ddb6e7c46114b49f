//! The command line of the simulator; what it can do is said in the library.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use kthena_simulator::{Fleet, FleetConfig, FleetGroup, JournalConfig, PROFILES};
use tokio::signal::unix::{SignalKind, signal};

/// Serves a fleet of simulated model servers, each on a loopback address of its own.
#[derive(Debug, Parser)]
#[command(version, after_help = profiles())]
struct Options {
    /// Port of all endpoints
    #[arg(long, default_value_t = 8000, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Endpoints that serve the same: addresses=127.0.1.1-127.0.1.8,profile=NAME[,model=NAME][,lora=A+B][,KEY=VALUE...];
    /// may be repeated
    #[arg(long, required = true)]
    fleet: Vec<FleetGroup>,
    /// Factor on all times; 0.1 is ten times as fast
    #[arg(long, default_value_t = 1.0, value_parser = time_scale)]
    time_scale: f64,
    /// Loopback address of the control API; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// How many of the newest requests are kept for GET /requests
    #[arg(long, default_value_t = 1000)]
    keep_requests: usize,
    /// How many bytes of their bodies are kept
    #[arg(long, default_value_t = 64 << 20)]
    keep_body_bytes: usize,
    /// Largest request body, in bytes
    #[arg(long, default_value_t = 64 << 20)]
    max_body_bytes: usize,
    /// Most connections to one endpoint at a time
    #[arg(long, default_value_t = 4096, value_parser = at_least_one)]
    max_connections: usize,
    /// Threads that serve
    #[arg(long, default_value_t = 2, value_parser = at_least_one)]
    threads: usize,
}

fn profiles() -> String {
    let one = |profile: &kthena_simulator::Profile| format!("  {}: {}\n", profile.name, profile.source);
    std::iter::once("Profiles:\n".to_owned())
        .chain(PROFILES.iter().map(one))
        .collect()
}

fn time_scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(scale) if (0.0..=1000.0).contains(&scale) => Ok(scale),
        _ => Err("a number from 0 to 1000 is needed".to_owned()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("a whole number from 1 on is needed".to_owned()),
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(options)),
        Err(error) => Err(format!("cannot start threads: {error}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("kthena-simulator: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), String> {
    let signals = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
    let (mut interrupt, mut terminate) = (signals(SignalKind::interrupt())?, signals(SignalKind::terminate())?);
    let port = options.port;
    let fleet = Fleet::start(FleetConfig {
        port,
        groups: options.fleet,
        time_scale: options.time_scale,
        control: options.control,
        journal: JournalConfig {
            requests: options.keep_requests,
            body_bytes: options.keep_body_bytes,
        },
        max_body_bytes: options.max_body_bytes,
        max_connections: options.max_connections,
    })
    .await
    .map_err(|error| error.to_string())?;
    let ready = format!(
        "ready: {} endpoints on port {port}, control API on {}",
        fleet.endpoints, fleet.control
    );
    writeln!(std::io::stdout(), "{ready}").map_err(|error| format!("cannot say that it is ready: {error}"))?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
