//! Which engines are measured, and what they are asked.
//!
//! What must always hold: every question of a run has a seed of its own, so that no two conversations begin alike.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

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

    pub(super) fn scheduling(self) -> Option<Value> {
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

impl Settings {
    /// The first of the seeds of a conversation; each turn has the next.
    pub(super) fn seed(&self, round: usize, profile: Profile, number: usize) -> u64 {
        let group = round * Profile::ALL.len() + profile as usize;
        let conversation = group * self.conversations + number;
        self.seed.wrapping_add((conversation * self.turns) as u64)
    }

    /// The one port of all endpoints.
    pub(super) fn port(&self) -> Result<u16> {
        let endpoints = &self.endpoints;
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
                    let first = settings.seed(round, profile, number);
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
        assert_eq!(settings().port().unwrap(), 8000);
        let refused = |texts| {
            Settings {
                endpoints: endpoints(texts),
                ..settings()
            }
            .port()
            .unwrap_err()
            .to_string()
        };
        assert!(refused(&["127.0.0.2:1", "127.0.0.3:2"]).contains("different ports"));
        assert!(refused(&["127.0.0.2:1", "127.0.0.2:1"]).contains("named twice"));
        assert!(refused(&[]).contains("--endpoint"));
    }
}
