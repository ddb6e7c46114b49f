//! The controller's process: settings, log, runtime, stop.
//!
//! Exit codes: 0 after a stop that was asked for, 64 for settings that cannot work, 1 for everything else.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use kthena_controller::config::{Config, LogFormat};
use kthena_controller::serve::serve;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// A change takes and returns much memory in small pieces. With the system's allocator that cost the more the more objects there were.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_USAGE` of sysexits.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            // There is nobody left to tell if this fails.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    if let Err(error) = config.check() {
        return fail(USAGE, &error.to_string());
    }
    if let Err(error) = start_log(&config) {
        return fail(USAGE, &format!("--log {:?}: {error}", config.log));
    }
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &format!("{error:#}")),
    }
}

fn fail(code: u8, reason: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "kthena-controller: {reason}");
    ExitCode::from(code)
}

fn start_log(config: &Config) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter: EnvFilter = config.log.parse()?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

fn run(config: &Config) -> anyhow::Result<()> {
    let mut builder = match config.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(config.threads).enable_all().build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
        };
        serve(config, stop).await
    });
    runtime.shutdown_timeout(config.stop_timeout);
    result
}
