//! What the ext_proc server knows of requests in one mode, each fact measured by what it can be used for.

use http_body_util::BodyExt as _;
use kthena_e2e::client::{Ask, Client};
use kthena_simulator::Fault;
use serde_json::Value;

use crate::rig::{CHAT, Mode, Rig, question, rest};

/// Tokens of an answer that takes 400 ms.
const ANSWER: u32 = 20;

/// Facts that hold for plain and for streamed answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// A request is counted from the decision to the end of its answer, no longer and no shorter.
    pub(crate) in_flight: bool,
    /// The status of the answer.
    pub(crate) status: bool,
    /// Which endpoint served, when it was not the first choice.
    pub(crate) served: bool,
    /// Tokens as the engine counted them.
    pub(crate) usage: bool,
    /// Why this endpoint: told to the client that asks.
    pub(crate) explanation: bool,
}

/// Sends requests through a mode and looks what becomes known of them; `logged` when an access log is to be waited for.
pub(crate) async fn measure(rig: &mut Rig, mode: Mode, logged: bool) -> Known {
    if logged {
        // Envoy connects the access log with its first entry.
        let _ = rig.send(mode, &question("the first", 1, false)).await;
        rig.wait_counted(mode).await;
    }
    let (counted, tokens) = (rig.counted().await, rig.tokens().await);
    let (plain, prompt_tokens, explanation) = plain_in_flight(rig, mode).await;
    rig.wait_quiet(mode).await;
    let streamed = streamed_in_flight(rig, mode).await;
    rig.wait_quiet(mode).await;
    if logged {
        rig.wait_counted(mode).await;
    }
    let now_counted = rig.counted().await - counted;
    assert!(
        now_counted == 0 || now_counted == 2,
        "{}: {now_counted} of 2 requests counted",
        mode.name()
    );
    let now_tokens = rig.tokens().await;
    let used = [now_tokens[0] - tokens[0], now_tokens[1] - tokens[1]];
    assert!(
        used == [0, 0] || used == [2 * prompt_tokens, 2 * u64::from(ANSWER)],
        "{}: {used:?} tokens counted, of 2 prompts of {prompt_tokens} and 2 answers of {ANSWER}",
        mode.name()
    );
    let served = served(rig, mode, logged).await;
    hang_up(rig, mode).await;
    if logged {
        rig.wait_counted(mode).await;
    }
    Known {
        in_flight: plain && streamed,
        status: now_counted == 2,
        served,
        usage: used != [0, 0],
        explanation,
    }
}

/// A plain request: whether it was counted as in flight all the time, its prompt's tokens, and whether it was explained, once.
async fn plain_in_flight(rig: &mut Rig, mode: Mode) -> (bool, u64, bool) {
    let ask = Ask::post(CHAT, question("plain", ANSWER, false).to_string()).header("x-kthena-explain", "1");
    let client = Client::http1(rig.address(mode));
    rig.sent += 1;
    let answer = tokio::spawn(async move { client.send(ask).await });
    let mut samples = Vec::new();
    while !answer.is_finished() {
        let before = rig.running().await;
        let sample = rig.in_flight().await;
        // Surely on its way: the model server was at it before and after.
        if before == 1 && rig.running().await == 1 {
            samples.push(sample);
        }
    }
    let answer = answer.await.unwrap().unwrap();
    assert_eq!(answer.status, 200, "{}: {}", mode.name(), answer.text());
    assert!(!samples.is_empty(), "{}: the request was over at once", mode.name());
    let explanations = answer.headers.get_all("x-kthena-explanation").iter().count();
    assert!(
        explanations <= 1,
        "{}: explained twice: {:?}",
        mode.name(),
        answer.headers
    );
    let prompt_tokens = answer.json().unwrap()["usage"]["prompt_tokens"].as_u64().unwrap();
    (
        samples.iter().all(|sample| *sample == 1),
        prompt_tokens,
        explanations == 1,
    )
}

/// A streamed request: whether it was counted as in flight while the stream ran.
async fn streamed_in_flight(rig: &mut Rig, mode: Mode) -> bool {
    // As long as the plain one's text, so that the prompts have as many tokens.
    let mut body = rig.open(mode, &question("flown", ANSWER, true)).await;
    let mut known = true;
    for _ in 0..ANSWER / 2 {
        body.frame().await.unwrap().unwrap();
        known &= rig.in_flight().await == 1;
    }
    let text = rest(body).await;
    assert!(text.ends_with("data: [DONE]\n\n"), "{}: {text}", mode.name());
    known
}

/// Whether it becomes known that another endpoint served than the first choice: the prompt's cache is then believed to be there.
async fn served(rig: &mut Rig, mode: Mode, logged: bool) -> bool {
    let faulty = rig.system.fleet().addresses("llama")[0];
    let fault = Fault::Error {
        status: 503,
        share: 1.0,
    };
    rig.system.fleet().inflict(&fault, &[faulty]).await.unwrap();
    let mut ask = None;
    for number in 0..50 {
        let question = question(&format!("{} {number}", mode.name()), 1, false);
        let answer = rig.send(mode, &question).await;
        assert_eq!(answer.status, 200, "{}: {}", mode.name(), answer.text());
        rig.wait_quiet(mode).await;
        if logged {
            rig.wait_counted(mode).await;
        }
        if holders(&answer.header("x-kthena-explanation"))
            .0
            .starts_with(&format!("{faulty}:"))
        {
            ask = Some(question);
            break;
        }
    }
    rig.system.fleet().heal(&[faulty]).await.unwrap();
    let ask = ask.expect("one of fifty prompts has the faulty endpoint as first choice");
    let answer = rig.send(mode, &ask).await;
    let (_, held) = holders(&answer.header("x-kthena-explanation"));
    assert_eq!(
        held.len(),
        1,
        "{}: one endpoint holds the prompt: {held:?}",
        mode.name()
    );
    !held[0].starts_with(&format!("{faulty}:"))
}

/// Of an explanation: the address of the first choice, and of those that are believed to hold the prompt.
fn holders(explanation: &str) -> (String, Vec<String>) {
    let explanation: Value = serde_json::from_str(explanation).expect(explanation);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let top = explanation["top"].as_array().unwrap().iter();
    let held = top.filter(|entry| entry["scores"]["prefix-cache"][0].as_f64() > Some(0.0));
    (
        text(&explanation["address"]),
        held.map(|entry| text(&entry["address"])).collect(),
    )
}

/// A client that hangs up in the middle of a stream leaves nothing in flight.
async fn hang_up(rig: &mut Rig, mode: Mode) {
    let mut body = rig.open(mode, &question("for ever", 5_000, true)).await;
    body.frame().await.unwrap().unwrap();
    drop(body);
    rig.wait_quiet(mode).await;
}
