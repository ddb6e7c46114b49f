//! Engines that run already, such as two real vLLM servers: what cache-aware decisions are worth on them, as they count it themselves.
//!
//! Controller, ext_proc servers and Envoy are started around the engines. Conversations that grow turn by turn go through two ModelServers
//! over the same endpoints, one with the default profile and one with `random`, in turn. What must always hold: no two conversations
//! begin alike, also not with those of an earlier run, so that neither profile finds what the other has left in a cache; hits are the
//! deltas of vLLM's own counters; what is not answered in full is lost, and a run in which somebody else uses the engines says so.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Ask, Client};
use crate::demo::verdict::Figures;
use crate::envoy;
use crate::exposition;
use crate::openai::{Chat, Message, OpenAi};
use crate::process::wait_until;
use crate::prose::text;
use crate::system::manifests::{cluster, model_route, model_server, pod};
use crate::system::{Options, System};

/// The label of the Pods.
const APP: &str = "engines";

/// The longest that a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Engines have counted a request within this time of its answer.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

/// What the engines' count of prompt tokens may differ from the clients' before somebody else must have asked.
const TOLERANCE: f64 = 0.01;

/// How requests are scheduled; also the name of the ModelServer, of the ModelRoute and of the model that clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// What Kthena does when nobody says otherwise.
    Default,
    /// Any endpoint.
    Random,
}

impl Profile {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Default, Self::Random];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Random => "random",
        }
    }

    fn scheduling(self) -> Option<Value> {
        match self {
            Self::Default => None,
            Self::Random => Some(json!({"plugins": {"Score": {"enabled": [{"name": "random"}]}}})),
        }
    }
}

/// Which engines, and what they are asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where they listen: all at one port, as the Pods of a ModelServer do.
    pub endpoints: Vec<SocketAddrV4>,
    /// The name under which they serve the model.
    pub model: String,
    /// How often each profile is measured.
    pub rounds: usize,
    /// Conversations of one profile in one round, all at the same time.
    pub conversations: usize,
    /// Questions of a conversation.
    pub turns: usize,
    /// Bytes of a question.
    pub question_bytes: usize,
    /// Tokens of an answer.
    pub answer_tokens: u32,
    /// From an answer to the next question.
    pub pause: Duration,
    /// Where all text comes from; a seed that was used before finds its prompts in the caches.
    pub seed: u64,
}

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

/// vLLM's counters: prompt tokens that were looked for in the prefix cache and found there, and finished requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Tokens looked for.
    pub queries: f64,
    /// Tokens found.
    pub hits: f64,
    /// Requests, however they ended.
    pub finished: f64,
}

impl Counters {
    /// Reads them from a page of metrics; `None` when vLLM did not write it.
    fn parse(page: &str) -> Option<Self> {
        Some(Self {
            queries: exposition::sum(page, "vllm:prefix_cache_queries_total")?,
            hits: exposition::sum(page, "vllm:prefix_cache_hits_total")?,
            finished: exposition::sum(page, "vllm:request_success_total")?,
        })
    }

    fn add(&mut self, later: Self, earlier: Self) {
        self.queries += later.queries - earlier.queries;
        self.hits += later.hits - earlier.hits;
        self.finished += later.finished - earlier.finished;
    }
}

/// Measures; progress goes to standard error.
///
/// # Errors
/// When an endpoint is no vLLM that serves the model, or something cannot be started.
pub async fn run(settings: &Settings) -> Result<Vec<Row>> {
    envoy::binary()?;
    let port = port(&settings.endpoints)?;
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
    let before = counters(&settings.endpoints).await?;
    let mut talks = JoinSet::new();
    let shared = Arc::new(settings.clone());
    for number in 0..settings.conversations {
        let talk = Talk {
            settings: Arc::clone(&shared),
            profile: row.profile,
            // Apart by more than the turns, of each of which one is used.
            seed: seed(settings, round, row.profile, number),
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
        after = counters(&settings.endpoints).await.unwrap_or_else(|_| before.clone());
        finished(&after) >= expected
    })
    .await?;
    for (at, sum) in row.counted.iter_mut().enumerate() {
        sum.add(after[at], before[at]);
    }
    Ok(())
}

/// The first of the seeds of a conversation; each turn has the next.
fn seed(settings: &Settings, round: usize, profile: Profile, number: usize) -> u64 {
    let group = round * Profile::ALL.len() + profile as usize;
    let conversation = group * settings.conversations + number;
    settings.seed.wrapping_add((conversation * settings.turns) as u64)
}

/// One conversation.
struct Talk {
    settings: Arc<Settings>,
    profile: Profile,
    seed: u64,
    starts: Duration,
    client: OpenAi,
}

/// What came of it.
#[derive(Default)]
struct Talked {
    first_tokens: Vec<Duration>,
    prompt_tokens: u64,
    loss: Option<String>,
}

impl Talk {
    /// Takes all turns, or those up to the first that gets no whole answer: the later ones are lost with it.
    async fn hold(self) -> Talked {
        let mut talked = Talked::default();
        let mut messages = Vec::new();
        sleep(self.starts).await;
        for turn in 0..self.settings.turns {
            let question = text(self.seed.wrapping_add(turn as u64), self.settings.question_bytes);
            messages.push(Message::new("user", question));
            let chat = Chat {
                model: self.profile.name(),
                messages: &messages,
                max_tokens: self.settings.answer_tokens,
                explain: false,
                within: PATIENCE,
            };
            match self.client.chat(chat).await {
                Ok(answer) => {
                    talked.first_tokens.push(answer.first_token);
                    talked.prompt_tokens += answer.prompt_tokens;
                    messages.push(Message::new("assistant", answer.text));
                }
                Err(error) => {
                    talked.loss = Some(format!("{}: {error:#}", self.profile.name()));
                    break;
                }
            }
            sleep(self.settings.pause).await;
        }
        talked
    }
}

/// The one port of all endpoints.
fn port(endpoints: &[SocketAddrV4]) -> Result<u16> {
    let first = endpoints
        .first()
        .context("name the engines with --endpoint ADDRESS:PORT")?;
    for (at, endpoint) in endpoints.iter().enumerate() {
        ensure!(
            endpoint.port() == first.port(),
            "{first} and {endpoint} have different ports, but all Pods of a ModelServer have one: start the engines at addresses of their own"
        );
        ensure!(
            !endpoints[..at].contains(endpoint),
            "{endpoint} is named twice: name each engine once"
        );
    }
    Ok(first.port())
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
    counters(&[endpoint]).await.map(drop)
}

async fn counters(endpoints: &[SocketAddrV4]) -> Result<Vec<Counters>> {
    let mut counters = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let page = Client::http1((*endpoint).into()).send(Ask::get("/metrics")).await?;
        let read = Counters::parse(&page.text());
        counters.push(read.with_context(|| {
            format!("{endpoint} shows no vllm:prefix_cache_queries_total in its metrics: is it vLLM, with prefix caching on?")
        })?);
    }
    Ok(counters)
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

/// The rows as a table, and a warning for each in which the engines counted other prompts than ours.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "profile   requests  lost  ttft p50 ms  ttft p90 ms  prompt tokens  cached tokens   hit %  requests by endpoint\n",
    );
    for row in rows {
        let figures = &row.figures;
        let milliseconds = |share| figures.percentile(share).as_secs_f64() * 1000.0;
        let sum = |read: fn(&Counters) -> f64| row.counted.iter().map(read).sum::<f64>();
        let each: Vec<String> = row.counted.iter().map(|one| format!("{:.0}", one.finished)).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:8} {:9} {:5} {:12.0} {:12.0} {:14.0} {:14.0} {:7.1}  {}",
            row.profile.name(),
            figures.first_tokens.len() + figures.lost,
            figures.lost,
            milliseconds(0.5),
            milliseconds(0.9),
            sum(|counted| counted.queries),
            sum(|counted| counted.hits),
            figures.hit_share * 100.0,
            each.join(" + "),
        );
    }
    for row in rows {
        let counted: f64 = row.counted.iter().map(|one| one.queries).sum();
        let asked = row.prompt_tokens as f64;
        if (counted - asked).abs() > TOLERANCE * asked {
            let _ = writeln!(
                out,
                "Take {} with care: the engines looked up {counted:.0} prompt tokens, the answers tell of {asked:.0}. Somebody else asked too, \
                 or requests were preempted.",
                row.profile.name()
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn settings() -> Settings {
        Settings {
            endpoints: vec!["127.0.0.2:8000".parse().unwrap(), "127.0.0.3:8000".parse().unwrap()],
            model: "m".to_owned(),
            rounds: 3,
            conversations: 4,
            turns: 5,
            question_bytes: 100,
            answer_tokens: 8,
            pause: Duration::ZERO,
            seed: 1,
        }
    }

    #[test]
    fn every_question_has_a_seed_of_its_own() {
        let settings = settings();
        let mut seeds = BTreeSet::new();
        for round in 0..settings.rounds {
            for profile in Profile::ALL {
                for number in 0..settings.conversations {
                    let first = seed(&settings, round, profile, number);
                    seeds.extend((0..settings.turns as u64).map(|turn| first + turn));
                }
            }
        }
        assert_eq!(seeds.len(), 3 * 2 * 4 * 5);
    }

    #[test]
    fn endpoints_are_the_pods_of_one_model_server() {
        let endpoints =
            |texts: &[&str]| -> Vec<SocketAddrV4> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(port(&settings().endpoints).unwrap(), 8000);
        let refused = |texts| port(&endpoints(texts)).unwrap_err().to_string();
        assert!(refused(&["127.0.0.2:1", "127.0.0.3:2"]).contains("different ports"));
        assert!(refused(&["127.0.0.2:1", "127.0.0.2:1"]).contains("named twice"));
        assert!(refused(&[]).contains("--endpoint"));
    }

    #[test]
    fn a_page_without_vllms_counters_is_none_of_vllms() {
        let page =
            "vllm:prefix_cache_queries_total{engine=\"0\"} 8.0\nvllm:prefix_cache_hits_total{engine=\"0\"} 2.0\n";
        assert_eq!(Counters::parse(page), None);
        let page = format!(
            "{page}vllm:request_success_total{{finished_reason=\"stop\"}} 1.0\nvllm:request_success_total{{finished_reason=\"length\"}} 2.0\n"
        );
        let counters = Counters::parse(&page).unwrap();
        assert_eq!((counters.queries, counters.hits, counters.finished), (8.0, 2.0, 3.0));
    }

    #[test]
    fn a_row_tells_when_somebody_else_has_asked() {
        let mut row = Row {
            profile: Profile::Default,
            figures: Figures::default(),
            counted: vec![Counters {
                queries: 1000.0,
                hits: 500.0,
                finished: 2.0,
            }],
            prompt_tokens: 1000,
        };
        assert!(!table(std::slice::from_ref(&row)).contains("with care"));
        row.prompt_tokens = 800;
        assert!(table(&[row]).contains("Take default with care"));
    }
}
