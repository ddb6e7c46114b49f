//! One conversation of a run: each question repeats all that was said, as chat clients do.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::settings::{Profile, Settings};
use crate::openai::{Chat, Message, OpenAi};
use crate::prose::text;

/// The longest that a client waits for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// One conversation.
pub(super) struct Talk {
    pub(super) settings: Arc<Settings>,
    pub(super) profile: Profile,
    pub(super) seed: u64,
    pub(super) starts: Duration,
    pub(super) client: OpenAi,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Talked {
    pub(super) first_tokens: Vec<Duration>,
    pub(super) prompt_tokens: u64,
    pub(super) loss: Option<String>,
}

impl Talk {
    /// Takes all turns, or those up to the first that gets no whole answer: the later ones are lost with it.
    pub(super) async fn hold(self) -> Talked {
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
