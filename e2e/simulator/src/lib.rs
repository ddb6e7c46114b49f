//! A fleet of simulated model servers in one process, for the demo, the end-to-end tests and the benchmark.
//!
//! Every endpoint has a loopback address of its own, all at one port. It answers as vLLM 0.32 does (chat, completions,
//! responses, messages, embeddings, models, tokenize, metrics, errors, streams with usage), in the time that a model of
//! an engine says: continuous batching, chunked prefill, a KV cache of blocks with prefix reuse, a queue, adapters.
//! Faults are switched on and off while it runs. It shares no code with the rest of the workspace, so that no mistake is
//! made on both sides and cancels out.
//!
//! ```text
//! kthena-simulator --port 8000 --control 127.0.0.1:9000 --time-scale 0.5 \
//!     --fleet addresses=127.0.1.1-127.0.1.8,profile=h100-llama3-8b,model=llama,lora=sql+chat,kv_tokens=65536 \
//!     --fleet addresses=127.0.2.1-127.0.2.2,profile=test-nodelay,model=fast,engine=sglang
//! ```
//!
//! When all sockets listen it prints one line that begins with `ready:` on standard output.
//!
//! - Profiles and where their figures come from: [`PROFILES`].
//! - Keys of `--fleet`: `addresses` and `profile` are needed; `model`, `lora` (names joined by `+`), `engine` (`vllm` or
//!   `sglang`: whose metrics), and to change the profile `kv_tokens`, `block_size`, `max_num_seqs`,
//!   `max_num_batched_tokens`, `max_model_len`, `max_loras`, `max_queued`, `answer_tokens` (length of answers whose
//!   request names none), `prefix_caching` and `prompt_tokens_details` (`on` or `off`), `step_ms` (least time of a
//!   step: with `profile=test-nodelay,step_ms=4` and `max_tokens` 200, a stream is 200 chunks 4 ms apart) and `token_us`
//!   (time to compute a token).
//! - A request with a limit (`max_tokens`, `max_completion_tokens`, `max_output_tokens`) is answered by exactly that many
//!   tokens; one without, by `answer_tokens`. Equal prompts get equal answers from every endpoint.
//! - Response headers that say who answered and what arrived: `x-simulator-endpoint`, `x-simulator-incarnation`,
//!   `x-simulator-model`, `x-simulator-body-bytes`, `x-simulator-body-hash`.
//! - The control API is loopback only: `GET /endpoints`, `PUT` and `DELETE /faults`, `GET /requests`,
//!   `GET /requests/NUMBER/body`. Faults: [`Fault`]. Example:
//!
//! ```text
//! curl -X PUT 127.0.0.1:9000/faults -H 'content-type: application/json' \
//!     -d '{"addresses":"127.0.1.1-127.0.1.2","fault":{"kind":"error","status":503,"share":0.5}}'
//! curl -X DELETE '127.0.0.1:9000/faults?addresses=127.0.1.1'
//! ```
//!
//! What it does not do: generate sense, sample, stop at stop sequences, call tools, move KV caches between servers,
//! speak HTTP/2 or TLS.

mod api;
mod control;
mod endpoint;
mod engine;
mod http;
mod journal;
mod metrics;
mod profile;
mod settings;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use control::{Control, Controlled};
use endpoint::{Endpoint, Listener, Reach};
use journal::Journal;

pub use endpoint::Fault;
pub use profile::{PROFILES, Profile, Timing};
pub use settings::{AddressRange, EngineKind, FleetConfig, FleetGroup, InvalidFleet, JournalConfig};

/// Why a fleet does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Two groups name the same address.
    #[error("address {0} is in two --fleet options")]
    TwiceServed(SocketAddr),
    /// The control API could be reached from elsewhere.
    #[error("--control {0} is not on loopback; faults are not for everybody")]
    ControlNotLoopback(SocketAddr),
    /// A socket cannot be had.
    #[error("cannot listen on {address}: {error}; is something else running there?")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

/// A fleet that is running. It runs on the runtime it was started on, until that ends.
#[derive(Debug)]
pub struct Fleet {
    /// How many endpoints there are.
    pub endpoints: usize,
    /// Where the control API listens.
    pub control: SocketAddr,
}

impl Fleet {
    /// Starts all endpoints and the control API; returns when all of them listen.
    ///
    /// # Errors
    /// See [`StartError`]. What was already listening goes on until the runtime ends.
    pub async fn start(config: FleetConfig) -> Result<Self, StartError> {
        if !config.control.ip().is_loopback() {
            return Err(StartError::ControlNotLoopback(config.control));
        }
        let context = Arc::new(http::Context {
            journal: Journal::new(config.journal),
            max_body_bytes: config.max_body_bytes,
            answers: AtomicU64::new(0),
        });
        let mut endpoints = Vec::new();
        for endpoint in build(&config)? {
            let listener = listen(&endpoint, &context, config.max_connections).await?;
            tokio::spawn(endpoint.clone().drive());
            endpoints.push(Controlled {
                endpoint,
                listener,
                reach: Reach::Open.into(),
            });
        }
        let count = endpoints.len();
        let control = serve_control(config.control, Arc::new(Control { endpoints, context })).await?;
        Ok(Self {
            endpoints: count,
            control,
        })
    }
}

fn build(config: &FleetConfig) -> Result<Vec<Arc<Endpoint>>, StartError> {
    let mut endpoints = Vec::new();
    let mut seen = BTreeSet::new();
    for group in &config.groups {
        let mut server = group.server.clone();
        server.engine.timing = server.engine.timing.scaled(config.time_scale);
        let server = Arc::new(server);
        for address in &group.addresses {
            let address = SocketAddr::from((*address, config.port));
            if !seen.insert(address) {
                return Err(StartError::TwiceServed(address));
            }
            endpoints.push(Endpoint::new(address, server.clone()));
        }
    }
    Ok(endpoints)
}

async fn listen(
    endpoint: &Arc<Endpoint>,
    context: &Arc<http::Context>,
    max_connections: usize,
) -> Result<Listener, StartError> {
    let (served, context) = (endpoint.clone(), context.clone());
    let serve = move |stream| {
        let (endpoint, context) = (served.clone(), context.clone());
        async move {
            let service = service_fn(move |request| {
                let answer = http::answer(endpoint.clone(), context.clone(), request);
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            // An error here is the peer's: it went away, or did not speak HTTP and was told so.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    };
    let address = endpoint.address;
    Listener::start(address, max_connections, serve)
        .await
        .map_err(|error| StartError::Listen { address, error })
}

async fn serve_control(address: SocketAddr, control: Arc<Control>) -> Result<SocketAddr, StartError> {
    let failed = |error| StartError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    // Serving ends with the runtime; an error of one connection does not end it.
    tokio::spawn(async move { axum::serve(listener, control::router(control)).await });
    Ok(bound)
}
