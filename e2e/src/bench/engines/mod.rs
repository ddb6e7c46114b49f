//! Engines that run already, such as two real vLLM servers: what cache-aware decisions are worth on them, as they count it themselves.
//!
//! Controller, ext_proc servers and Envoy are started around the engines. Conversations that grow turn by turn go through two ModelServers
//! over the same endpoints, one with the default profile and one with `random`, in turn. What must always hold: no two conversations
//! begin alike, also not with those of an earlier run, so that neither profile finds what the other has left in a cache; hits are the
//! deltas of vLLM's own counters; what is not answered in full is lost, and a run in which somebody else uses the engines says so.

mod counters;
mod settings;
mod table;
mod talk;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::task::JoinSet;

use crate::client::{Ask, Client};
use crate::demo::verdict::Figures;
use crate::envoy;
use crate::openai::{Chat, Message, OpenAi};
use crate::process::wait_until;
use crate::system::manifests::{cluster, model_route, model_server, pod};
use crate::system::{Options, System};
pub use counters::Counters;
pub use settings::{Profile, Settings};
pub use table::table;
use talk::{PATIENCE, Talk};

/// The label of the Pods.
const APP: &str = "engines";

/// Engines have counted a request within this time of its answer.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

/// What was measured of one profile, over all rounds.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which.
    pub profile: Profile,
    /// Seen by the clients, and the engines' hit share.
    pub figures: Figures,
    /// What the engines counted, in the order of the endpoints.
    pub counted: Vec<Counters>,
    /// Prompt tokens as the answers tell them.
    pub prompt_tokens: u64,
}

/// Measures; progress goes to standard error.
///
/// # Errors
/// When an endpoint is no vLLM that serves the model, or something cannot be started.
pub async fn run(settings: &Settings) -> Result<Vec<Row>> {
    envoy::binary()?;
    let port = settings.port()?;
    for endpoint in &settings.endpoints {
        serves(*endpoint, &settings.model).await?;
    }
    let system = System::start(options(settings, port)).await?;
    for profile in Profile::ALL {
        let members = settings.endpoints.len() as u64;
        system
            .wait_for_cluster(&cluster(profile.name(), port), "membership_total", members)
            .await?;
    }
    let mut rows = Profile::ALL.map(|profile| Row {
        profile,
        figures: Figures::default(),
        counted: vec![Counters::default(); settings.endpoints.len()],
        prompt_tokens: 0,
    });
    warm(settings).await?;
    for round in 0..settings.rounds {
        for at in 0..rows.len() {
            // Whoever begins is another one each time.
            let row = &mut rows[(round + at) % Profile::ALL.len()];
            eprintln!("round {} of {}: {}", round + 1, settings.rounds, row.profile.name());
            measure(settings, &system, round, row).await?;
        }
    }
    for row in &mut rows {
        let sum = |read: fn(&Counters) -> f64| row.counted.iter().map(read).sum::<f64>();
        let queries = sum(|counted| counted.queries);
        row.figures.hit_share = if queries > 0.0 {
            sum(|counted| counted.hits) / queries
        } else {
            0.0
        };
    }
    Ok(rows.into())
}

/// One round of one profile: all conversations, and what the engines have counted meanwhile.
async fn measure(settings: &Settings, system: &System, round: usize, row: &mut Row) -> Result<()> {
    let before = counters::read(&settings.endpoints).await?;
    let mut talks = JoinSet::new();
    let shared = Arc::new(settings.clone());
    for number in 0..settings.conversations {
        let talk = Talk {
            settings: Arc::clone(&shared),
            profile: row.profile,
            // Apart by more than the turns, of each of which one is used.
            seed: settings.seed(round, row.profile, number),
            starts: settings.pause * number as u32 / settings.conversations as u32,
            client: OpenAi::new(system.address()),
        };
        talks.spawn(talk.hold());
    }
    let mut answered = 0.0;
    while let Some(talked) = talks.join_next().await {
        let talked = talked.context("a conversation ended by itself")?;
        answered += talked.first_tokens.len() as f64;
        row.figures.lost += settings.turns - talked.first_tokens.len();
        row.figures.first_tokens.extend(talked.first_tokens);
        row.prompt_tokens += talked.prompt_tokens;
        if let Some(loss) = talked.loss {
            eprintln!("  lost: {loss}");
        }
    }
    let finished = |all: &[Counters]| all.iter().map(|one| one.finished).sum::<f64>();
    let expected = finished(&before) + answered;
    let mut after = before.clone();
    wait_until("the engines to have counted every answer", COUNTED_WITHIN, async || {
        after = counters::read(&settings.endpoints)
            .await
            .unwrap_or_else(|_| before.clone());
        finished(&after) >= expected
    })
    .await?;
    for (at, sum) in row.counted.iter_mut().enumerate() {
        sum.add(after[at], before[at]);
    }
    Ok(())
}

/// Whether an endpoint is a vLLM that serves the model.
async fn serves(endpoint: SocketAddrV4, model: &str) -> Result<()> {
    let client = Client::http1(endpoint.into());
    let models = client.send(Ask::get("/v1/models")).await?.json()?;
    let models: Vec<&str> = models["data"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    if !models.contains(&model) {
        bail!("{endpoint} serves {models:?} and not {model}: name one of them with --model");
    }
    counters::read(&[endpoint]).await.map(drop)
}

/// The first request to an engine takes longer than any other; it is asked directly, so that no profile has it.
async fn warm(settings: &Settings) -> Result<()> {
    for endpoint in &settings.endpoints {
        let chat = Chat {
            model: &settings.model,
            messages: &[Message::new("user", "Hello!")],
            max_tokens: settings.answer_tokens,
            explain: false,
            within: PATIENCE,
        };
        let answer = OpenAi::new((*endpoint).into()).chat(chat).await;
        answer.with_context(|| format!("{endpoint} does not answer"))?;
    }
    Ok(())
}

fn options(settings: &Settings, port: u16) -> Options {
    let ips: Vec<Ipv4Addr> = settings.endpoints.iter().map(|endpoint| *endpoint.ip()).collect();
    let pods = ips
        .into_iter()
        .enumerate()
        .map(|(number, ip)| pod(&format!("{APP}-{number}"), APP, ip));
    let servers = Profile::ALL.map(|profile| {
        let mut server = model_server(profile.name(), &settings.model, port);
        server["spec"]["workloadSelector"]["matchLabels"]["app"] = APP.into();
        if let Some(scheduling) = profile.scheduling() {
            server["spec"]["scheduling"] = scheduling;
        }
        server
    });
    let routes = Profile::ALL.map(|profile| model_route(profile.name(), profile.name(), profile.name()));
    Options {
        routes: routes.into(),
        further: servers.into_iter().chain(pods).collect(),
        workers: 1,
        ..Options::default()
    }
}
