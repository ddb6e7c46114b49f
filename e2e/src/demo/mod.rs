//! The demo: the whole system on one machine, a workload of its own, and what cache-aware decisions are worth.
//!
//! It starts everything, says what runs where, replays conversations through three scheduling profiles at the same time, prints the
//! results side by side, explains one decision, and stays up until it is told to end; see [`settings::Settings`]. What must always hold:
//! what it promises it also measures ([`verdict`]) and fails otherwise; nothing is left running or lying about afterwards. It fails with
//! one sentence that says what to do where something is missing or in use, and with the end of a part's log where a part fails.

mod profile;
mod progress;
mod replay;
pub mod settings;
pub mod verdict;
mod words;
mod workload;

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::envoy;
use crate::openai::{Chat, Message, OpenAi, Turn};
use crate::system::{Options, System};
use profile::Profile;
use settings::{Decider, Settings};
use verdict::Results;
use words::say;
use workload::Workload;

/// A factor on the times of the simulated engines: as fast as lets two cores measure queues and not themselves.
const TIME_SCALE: f64 = 0.6;

/// Time kept at the end for the decision explained and for stopping.
const END: Duration = Duration::from_secs(3);

/// The longest that one request outside of the replay may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a demo ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All promises were kept.
    Kept,
    /// Some were not; a sentence each.
    Broken(Vec<String>),
    /// A signal ended it before the results were there.
    Interrupted,
}

/// Runs the demo to its end.
///
/// # Errors
/// When something is missing or in use, or a part fails.
pub async fn run(settings: &Settings) -> Result<Outcome> {
    let mut stop = Stop::new()?;
    let shown = tokio::select! {
        shown = show(settings) => shown?,
        () = stop.wait() => {
            say("\nStopped.");
            return Ok(Outcome::Interrupted);
        }
    };
    if settings.within().is_none() {
        words::curl(&shown.system);
        say("Everything runs until Ctrl-C.");
        stop.wait().await;
        say("\nStopping.");
    }
    drop(shown.system);
    let broken = shown.results.broken_promises();
    for promise in &broken {
        say(&format!("Not as promised: {promise}."));
    }
    say(&shown.results.last_line());
    Ok(if broken.is_empty() {
        Outcome::Kept
    } else {
        Outcome::Broken(broken)
    })
}

/// The system after the show, still running.
struct Shown {
    system: System,
    results: Results,
}

async fn show(settings: &Settings) -> Result<Shown> {
    // What is missing is told before anything is started.
    envoy::binary()?;
    let listen = settings.listen()?;
    let decider = settings.decider();
    words::starting(decider);
    let started = Instant::now();
    let system = System::start(Options {
        groups: profile::groups(),
        routes: profile::routes(),
        time_scale: TIME_SCALE,
        filter: settings.filter(),
        ext_procs: if decider == Decider::ExtProc { 2 } else { 0 },
        listen,
        workers: 1,
        ..Options::default()
    })
    .await?;
    let ready = Instant::now();
    words::tour(&system, decider, started.elapsed());
    first_request(&system).await?;

    let workload = Workload::of_length(settings.replay());
    words::workload(&workload, settings.replay());
    let patience = Duration::from_secs(3600);
    let deadline = ready + settings.within().map_or(patience, |within| within.saturating_sub(END));
    let replayed = replay::replay(&system, &workload, deadline).await?;
    for loss in &replayed.losses {
        say(&format!("  lost: {loss}"));
    }
    words::table(&replayed.results);
    explain(&system, replayed.conversation).await?;
    Ok(Shown {
        system,
        results: replayed.results,
    })
}

async fn first_request(system: &System) -> Result<()> {
    let hello = [Message::new("user", "Hello! Who are you?")];
    let turn = chat(system, "coder", &hello, false)
        .await
        .context("the first request failed")?;
    let endpoint = turn.headers.get("x-simulator-endpoint");
    let endpoint = endpoint
        .and_then(|value| value.to_str().ok())
        .unwrap_or("a model server");
    words::first_request("coder", turn.total, endpoint);
    Ok(())
}

/// Asks for one turn more of a conversation, and why it went where it went.
async fn explain(system: &System, mut conversation: Vec<Message>) -> Result<()> {
    conversation.push(Message::new("user", "Thank you. Where were you all the time?"));
    say("\nOne decision explained. The next turn of one of these conversations:\n");
    let turn = chat(system, Profile::Default.model(), &conversation, true).await;
    let turn = turn.context("the request that asks for an explanation failed")?;
    let header = turn
        .headers
        .get("x-kthena-explanation")
        .context("the answer explains nothing")?;
    words::explanation(header.to_str().context("the explanation is not text")?)
}

async fn chat(system: &System, model: &str, messages: &[Message], explain: bool) -> Result<Turn> {
    let chat = Chat {
        model,
        messages,
        max_tokens: workload::ANSWER_TOKENS,
        explain,
        within: PATIENCE,
    };
    OpenAi::new(system.address()).chat(chat).await
}

/// The signals that end the demo: Ctrl-C, a request to end, a closed terminal.
struct Stop {
    signals: [tokio::signal::unix::Signal; 3],
}

impl Stop {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            signals: [
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
            ],
        })
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
