//! `kthena-demo`: the whole system on this machine; `make demo` builds what it needs and runs it.

use std::process::ExitCode;

use clap::Parser as _;
use kthena_e2e::demo::settings::Settings;
use kthena_e2e::demo::{Outcome, run};

/// Ended by a signal, as shells have it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let settings = Settings::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    // Children are started from this thread, which lives as long as the process: see `process`.
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(&settings)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(Outcome::Kept) => ExitCode::SUCCESS,
        Ok(Outcome::Broken(_)) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("kthena-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
