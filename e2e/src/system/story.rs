//! What stories about a [`System`] say again and again. A story's helper fails the story: it panics, and says why.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story's helper fails by panicking")]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;
use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::fleet::{Group, Received};
use super::manifests::model_route;
use super::{Options, Part, System};
use crate::client::{Answer, Ask};
pub use crate::openai::CHAT;
use crate::process::wait_until;
use crate::processor::{Decided, ask};

/// What one that decides learns, all others know within this time.
pub const AGREED_WITHIN: Duration = Duration::from_millis(200);

/// Patience for what takes milliseconds, on a machine that does much else.
pub const SOON: Duration = Duration::from_secs(20);

/// Starts a system.
///
/// # Panics
/// When it does not start.
pub async fn start(options: Options) -> System {
    System::start(options).await.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Sends a request through Envoy.
///
/// # Panics
/// When there is no whole answer.
pub async fn send(system: &System, ask: Ask) -> Answer {
    let answer = system.client().send(ask).await;
    answer.unwrap_or_else(|error| panic!("{error:#}"))
}

/// The address of the model server that answered.
///
/// # Panics
/// When none did.
#[must_use]
pub fn who(answer: &Answer) -> Ipv4Addr {
    let endpoint = answer.header("x-simulator-endpoint");
    let address = endpoint.split(':').next().unwrap_or_default();
    address
        .parse()
        .unwrap_or_else(|_| panic!("{}: {}", answer.status, answer.text()))
}

/// The pods as an ext_proc server sees them.
pub async fn pods(system: &System, replica: usize) -> Vec<Value> {
    let page = system.debug(Part::ExtProc(replica), "/debug/config_dump/pods").await;
    let page: Value = page
        .ok()
        .and_then(|page| serde_json::from_str(&page).ok())
        .unwrap_or_default();
    page["pods"].as_array().cloned().unwrap_or_default()
}

/// A gauge or counter without labels of an ext_proc server; `None` when it does not answer.
///
/// # Panics
/// When there is no such server.
pub async fn gauge(system: &mut System, replica: usize, name: &str) -> Option<f64> {
    let page = system.ext_proc(replica).unwrap().page("/metrics").await.ok()?;
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    page.lines().find_map(value)
}

/// How many prompt blocks an ext_proc server knows the place of.
///
/// # Panics
/// When it does not answer.
pub async fn known_blocks(system: &System, replica: usize) -> u64 {
    let page = system.debug(Part::ExtProc(replica), "/debug/state").await;
    let page: Value = serde_json::from_str(&page.unwrap_or_else(|error| panic!("{error:#}"))).unwrap();
    page["prefixIndex"]["entries"].as_u64().unwrap()
}

/// Has a prompt placed by `decide`, and waits until an ext_proc server that looks on knows where. It is asked no sooner, as it would take a
/// question as a placement of its own. Returns what `decide` gives, and how long the onlooker took from then on.
///
/// # Panics
/// When that takes long.
pub async fn placed<T>(system: &System, onlooker: usize, decide: impl Future<Output = T>) -> (T, Duration) {
    let before = known_blocks(system, onlooker).await;
    let placed = decide.await;
    let decided = Instant::now();
    wait_until("the placement to be told", SOON, async || {
        known_blocks(system, onlooker).await > before
    })
    .await
    .unwrap();
    (placed, decided.elapsed())
}

/// Has new questions decided by `decide`, which gives the endpoint, and each then by an ext_proc server that looks on: it chooses the same, and
/// knows in time what to choose.
///
/// # Panics
/// When the two do not agree, or not in time.
pub async fn agree<D: AsRef<str>>(system: &System, onlooker: usize, decide: impl AsyncFn(Ask) -> D) {
    let mut took = Vec::new();
    for _ in 0..9 {
        let question = new_question("llama");
        let (chosen, within) = placed(system, onlooker, decide(question.clone())).await;
        took.push(within);
        let other = decided_by(system, onlooker, &question).await;
        assert_eq!(other.endpoint, chosen.as_ref());
    }
    took.sort();
    // The median, as this machine may be busy with something else.
    assert!(took[took.len() / 2] <= AGREED_WITHIN, "{took:?}");
}

/// Asks an ext_proc server directly.
///
/// # Panics
/// When it does not decide.
pub async fn decided_by(system: &System, replica: usize, question: &Ask) -> Decided {
    let server = system.ext_proc_address(replica).unwrap();
    ask(server, BodySendMode::Buffered, &question.body).await
}

/// Asks through Envoy. Returns the endpoint that answered, as a filter names it.
///
/// # Panics
/// When none did.
pub async fn served_through_envoy(system: &System, question: Ask) -> String {
    let address = who(&send(system, question).await);
    format!("{address}:{}", system.fleet().port())
}

/// Waits until an ext_proc server knows these many pods and counts nothing in flight at any, neither itself nor from others.
///
/// # Panics
/// When that takes long.
pub async fn wait_idle(system: &System, replica: usize, endpoints: usize) {
    let mut seen = Vec::new();
    wait_until("no request in flight", SOON, async || {
        seen = pods(system, replica).await;
        let idle = |pod: &Value| pod["inFlight"].as_f64() == Some(0.0) && pod["inFlightOwn"].as_f64() == Some(0.0);
        seen.len() == endpoints && seen.iter().all(idle)
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}: {seen:?}"));
}

/// The access-log line of a request, by its `x-request-id`; Envoy writes lines after the answer.
///
/// # Panics
/// When none is written in time.
pub async fn log_line(system: &System, request_id: &str) -> Value {
    let mut found = None;
    wait_until(&format!("the access-log line of {request_id}"), SOON, async || {
        let lines = system.envoy().unwrap().access_log().await.unwrap_or_default();
        found = lines.into_iter().find(|line| line["request_id"] == request_id);
        found.is_some()
    })
    .await
    .unwrap();
    found.unwrap_or_default()
}

/// The model `llama` on this many model servers, whose answers take some 20 ms.
#[must_use]
pub fn llama(endpoints: u8) -> Options {
    let group = Group {
        figures: "profile=test-nodelay,step_ms=5".to_owned(),
        ..Group::instant("llama", "meta/llama", endpoints)
    };
    Options {
        groups: vec![group],
        routes: vec![model_route("llama", "llama", "llama")],
        ..Options::default()
    }
}

/// The model `s` on one model server that computes one request at a time, with room for one that waits.
#[must_use]
pub fn one_at_a_time() -> Options {
    let group = Group {
        figures: "profile=test-nodelay,step_ms=50,max_num_seqs=1".to_owned(),
        scheduling: Some(json!({"pluginConfig": [{"name": "least-request", "args": {"maxWaitingRequests": 1}}]})),
        ..Group::instant("s", "meta/llama", 1)
    };
    Options {
        groups: vec![group],
        routes: vec![model_route("s", "s", "s")],
        controller_flags: vec!["--scrape-interval=200ms".to_owned()],
        ..Options::default()
    }
}

/// Fills the model server of [`one_at_a_time`]: one request runs for longer than any story takes, the other waits for it.
#[must_use]
pub fn fill(system: &System) -> Vec<JoinHandle<Result<Answer>>> {
    let long = json!({"model": "s", "messages": [{"role": "user", "content": "x"}], "max_tokens": 10_000}).to_string();
    let ask = || {
        let (client, ask) = (system.client().clone(), Ask::post(CHAT, long.clone()));
        tokio::spawn(async move { client.send(ask).await })
    };
    (0..2).map(|_| ask()).collect()
}

/// A question that nobody has asked before, and so has no home yet.
#[must_use]
pub fn new_question(model: &str) -> Ask {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let number = ASKED.fetch_add(1, Relaxed);
    let prompt = format!("Question {number} of its own kind. ").repeat(100);
    let body = json!({"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 4});
    Ask::post(CHAT, body.to_string())
}

/// A short question to a model.
#[must_use]
pub fn question(model: &str) -> Ask {
    let body = json!({"model": model, "messages": [{"role": "user", "content": "Who is there?"}], "max_tokens": 2});
    Ask::post(CHAT, body.to_string())
}

/// Asks a model, and tells which group of the fleet answered.
///
/// # Panics
/// When none did.
pub async fn group_of(system: &System, ask: Ask) -> String {
    let address = who(&send(system, ask).await);
    let groups = system.fleet().groups().iter();
    let mut found = groups.filter(|group| system.fleet().addresses(&group.name).contains(&address));
    found.next().unwrap().name.clone()
}

/// The newest request that a model server received.
///
/// # Panics
/// When there is none.
pub async fn last_received(system: &System) -> Received {
    system.fleet().received(0).await.unwrap().pop().unwrap()
}
