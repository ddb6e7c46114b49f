//! The replay: every conversation, through every profile at the same time, each profile with endpoints of its own.
//!
//! One task a conversation and profile, which keeps to the timetable and never overtakes an answer. What is not answered in full counts as
//! lost, also what is still open when the time is up: nothing is left out of the account.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::profile::Profile;
use super::progress::Progress;
use super::verdict::{Figures, Results};
use super::words;
use super::workload::{ANSWER_TOKENS, Conversation, TURNS, Workload};
use crate::openai::{Chat, Message, OpenAi};
use crate::system::System;
use crate::system::fleet::PromptTokens;

/// The longest that a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(1);

/// How a replay ended.
#[derive(Debug)]
pub(super) struct Replayed {
    /// What was measured.
    pub(super) results: Results,
    /// A conversation of the default profile, answered to its end.
    pub(super) conversation: Vec<Message>,
    /// Why requests were lost, the first few.
    pub(super) losses: Vec<String>,
}

/// One conversation through one profile.
struct Talk {
    number: usize,
    profile: Profile,
    begin: Instant,
    conversation: Conversation,
    client: OpenAi,
    progress: Arc<Progress>,
}

/// What came of it.
struct Talked {
    profile: Profile,
    first_tokens: Vec<Duration>,
    messages: Vec<Message>,
    loss: Option<String>,
}

/// Replays the workload; what is open at `deadline` is lost.
pub(super) async fn replay(system: &System, workload: &Workload, deadline: Instant) -> Result<Replayed> {
    let before = tokens(system).await?;
    let (begin, progress) = (Instant::now(), Arc::new(Progress::default()));
    let mut talks = JoinSet::new();
    for (number, conversation) in workload.conversations.iter().enumerate() {
        for profile in Profile::ALL {
            let talk = Talk {
                number,
                profile,
                begin,
                conversation: conversation.clone(),
                client: OpenAi::new(system.address()),
                progress: Arc::clone(&progress),
            };
            talks.spawn(talk.hold());
        }
    }
    let shown = tokio::spawn(show(Arc::clone(&progress), begin, workload.requests()));
    let mut all = Vec::new();
    while let Ok(Some(talked)) = timeout_at(deadline, talks.join_next()).await {
        all.push(talked.context("a conversation ended by itself")?);
    }
    shown.abort();
    words::progress(&progress, begin.elapsed(), workload.requests());
    words::progress_end();
    talks.shutdown().await;
    let after = tokens(system).await?;
    Ok(account(all, workload.requests(), before, after))
}

async fn show(progress: Arc<Progress>, begin: Instant, requests: usize) {
    loop {
        words::progress(&progress, begin.elapsed(), requests);
        sleep(PROGRESS).await;
    }
}

async fn tokens(system: &System) -> Result<[PromptTokens; Profile::ALL.len()]> {
    let mut tokens = [PromptTokens::default(); Profile::ALL.len()];
    for profile in Profile::ALL {
        tokens[profile as usize] = system.fleet().prompt_tokens(profile.model()).await?;
    }
    Ok(tokens)
}

fn account(
    talks: Vec<Talked>,
    requests: usize,
    before: [PromptTokens; Profile::ALL.len()],
    after: [PromptTokens; Profile::ALL.len()],
) -> Replayed {
    let mut replayed = Replayed {
        results: Results::default(),
        conversation: Vec::new(),
        losses: Vec::new(),
    };
    for talk in talks {
        figures(&mut replayed.results, talk.profile)
            .first_tokens
            .extend(talk.first_tokens);
        if talk.loss.is_none() && talk.profile == Profile::Default {
            replayed.conversation = talk.messages;
        }
        replayed.losses.extend(talk.loss);
    }
    replayed.losses.truncate(5);
    for profile in Profile::ALL {
        let (before, after) = (before[profile as usize], after[profile as usize]);
        let served = PromptTokens {
            total: after.total - before.total,
            cached: after.cached - before.cached,
        };
        let figures = figures(&mut replayed.results, profile);
        figures.hit_share = served.hit_share();
        figures.lost = requests - figures.first_tokens.len();
    }
    replayed
}

fn figures(results: &mut Results, profile: Profile) -> &mut Figures {
    match profile {
        Profile::Random => &mut results.random,
        Profile::LeastRequest => &mut results.least_request,
        Profile::Default => &mut results.default,
    }
}

impl Talk {
    /// Takes all turns, or those up to the first that gets no whole answer: the later ones are lost with it.
    async fn hold(self) -> Talked {
        let shift = Workload::shift(self.number, self.profile as usize, Profile::ALL.len());
        let mut talked = Talked {
            profile: self.profile,
            first_tokens: Vec::with_capacity(TURNS),
            messages: self.conversation.opening(),
            loss: None,
        };
        for (turn, question) in self.conversation.questions.iter().enumerate() {
            sleep_until(self.begin + shift + self.conversation.due(turn)).await;
            talked.messages.push(Message::new("user", question.clone()));
            let chat = Chat {
                model: self.profile.model(),
                messages: &talked.messages,
                max_tokens: ANSWER_TOKENS,
                explain: false,
                within: PATIENCE,
            };
            match self.client.chat(chat).await {
                Ok(answer) => {
                    talked.first_tokens.push(answer.first_token);
                    talked.messages.push(Message::new("assistant", answer.text));
                    self.progress.answered[self.profile as usize].fetch_add(1, Relaxed);
                }
                Err(error) => {
                    self.progress.lost.fetch_add(TURNS - turn, Relaxed);
                    talked.loss = Some(format!("{}: {error:#}", self.profile.name()));
                    break;
                }
            }
        }
        talked
    }
}
