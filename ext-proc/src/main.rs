//! `kthena-ext-proc`: reads its flags, then serves until a signal ends it.

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use kthena_ext_proc::config::Config;
use kthena_ext_proc::server;

/// The flags cannot be used (EX_USAGE of sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        Err(error) => {
            // Nobody reads a closed terminal.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    if let Err(error) = config.state.controller() {
        eprintln!("kthena-ext-proc: {error}");
        return ExitCode::from(USAGE);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = config.serve.workers {
        runtime.worker_threads(usize::from(workers));
    }
    let ended = match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(server::run(config)),
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kthena-ext-proc: {error:#}");
            ExitCode::FAILURE
        }
    }
}
