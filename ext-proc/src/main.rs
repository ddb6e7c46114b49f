//! `kthena-ext-proc`: reads its flags, then serves until a signal ends it. `kthena-ext-proc check-envoy` looks at an Envoy.

use std::future::Future;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use kthena_ext_proc::config::{CheckEnvoy, Config};
use kthena_ext_proc::{envoy_check, server};

/// Bodies come and go in pieces of many sizes: a fifth of the time at large prompts went to taking and returning memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The flags cannot be used (EX_USAGE of sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|first| first == "check-envoy") {
        args.remove(1);
        return match CheckEnvoy::try_parse_from(args) {
            Ok(flags) => run(check(flags)),
            Err(error) => refused(&error),
        };
    }
    match Config::try_parse_from(args) {
        Ok(config) => serve(config),
        Err(error) => refused(&error),
    }
}

fn refused(error: &clap::Error) -> ExitCode {
    // Nobody reads a closed terminal.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(USAGE),
    }
}

fn serve(config: Config) -> ExitCode {
    if let Err(error) = config.state.controller() {
        eprintln!("kthena-ext-proc: {error}");
        return ExitCode::from(USAGE);
    }
    run(async { server::run(config).await.map(|()| ExitCode::SUCCESS) })
}

async fn check(flags: CheckEnvoy) -> anyhow::Result<ExitCode> {
    let findings = envoy_check::check(&envoy_check::fetch(&flags.admin).await?);
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("{} is configured as needed", flags.admin);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} settings differ; docs/envoy.yaml explains each", findings.len());
    Ok(ExitCode::FAILURE)
}

/// Requests are served by threads of their own: what is left is the state, the pages and a signal to wait for.
fn run(work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(error.into()),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("kthena-ext-proc: {error:#}");
        ExitCode::FAILURE
    })
}
