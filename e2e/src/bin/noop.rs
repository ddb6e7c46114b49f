//! `kthena-noop`: the ext_proc server that decides nothing, as a process of its own.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use kthena_e2e::noop::{Decision, Noop};

/// An ext_proc and access-log server that decides nothing, for benchmarks and for trying an Envoy configuration.
#[derive(Debug, Parser)]
#[command(version)]
struct Flags {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:9002")]
    listen: SocketAddr,
    /// Envoy cluster to send every request to, instead of deciding nothing.
    #[arg(long)]
    cluster: Option<String>,
    /// Endpoints for Envoy to try, in order, comma separated.
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<SocketAddr>,
    /// A further request header to set, NAME:VALUE; may be repeated.
    #[arg(long = "header", value_parser = name_and_value)]
    headers: Vec<(String, String)>,
    /// A string for the `kthena` metadata namespace, NAME:VALUE; may be repeated.
    #[arg(long, value_parser = name_and_value)]
    metadata: Vec<(String, String)>,
    /// Answer every request with this, STATUS:BODY, instead of routing it.
    #[arg(long, value_parser = status_and_body)]
    reply: Option<(u16, String)>,
    /// End each gRPC stream with the decision.
    #[arg(long)]
    ends_stream: bool,
    /// Send a buffered body back unchanged, as a server must that changes something in it.
    #[arg(long)]
    returns_body: bool,
}

fn status_and_body(text: &str) -> Result<(u16, String), String> {
    let (status, body) = name_and_value(text)?;
    let status = status.parse().map_err(|_| format!("{status:?} is not a status"))?;
    Ok((status, body))
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected NAME:VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let listener = tokio::net::TcpListener::bind(flags.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; choose another address with --listen",
            flags.listen
        )
    })?;
    let decision = Decision {
        cluster: flags.cluster,
        endpoints: flags.endpoints,
        headers: flags.headers,
        metadata: flags.metadata.into_iter().collect(),
        reply: flags.reply,
        ends_stream: flags.ends_stream,
        returns_body: flags.returns_body,
    };
    Noop::new(decision).serve(listener).await.context("serving ended")
}
