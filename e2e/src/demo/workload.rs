//! The demo's traffic: conversations that grow turn by turn, on a fixed timetable.
//!
//! Every request repeats the whole conversation so far, as chat clients do, so an endpoint that served the last turn has all but the
//! newest question in its cache. The conversations are of the demo's own making and the same in every run: all text comes from a seed.
//! All profiles get the same conversations on the same timetable, shifted by a part of a second in turn, so that none is first always.
//! What must always hold: the prefixes of all conversations together are at least twice what one endpoint's cache holds.

use std::time::Duration;

use crate::openai::Message;
use crate::prose::text;

/// Turns of a conversation.
pub(super) const TURNS: usize = 6;

/// Time from one turn of a conversation to the next; a turn whose predecessor is not answered yet follows its answer.
const PAUSE: Duration = Duration::from_millis(1600);

/// Time from the beginning of one conversation to that of the next.
const EVERY: Duration = Duration::from_millis(400);

/// Tokens of an answer.
pub(super) const ANSWER_TOKENS: u32 = 16;

/// Bytes of the instructions that all conversations of an application begin with, and of a question.
const INSTRUCTIONS_BYTES: usize = 1600;
const QUESTION_BYTES: usize = 2400;

/// Applications, each with instructions of its own.
const APPLICATIONS: usize = 4;

/// Bytes to a token, the usual rule of thumb and that of the simulated engines.
const TOKEN_BYTES: usize = 4;

/// One conversation, before anybody has answered.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    /// When its first turn is due, from the beginning of the replay.
    pub(super) starts: Duration,
    /// What the application tells the model beforehand.
    pub(super) instructions: String,
    /// What the user says, turn by turn.
    pub(super) questions: Vec<String>,
}

impl Conversation {
    /// When a turn (0 and on) is due, from the beginning of the replay.
    pub(super) fn due(&self, turn: usize) -> Duration {
        self.starts + PAUSE * turn as u32
    }

    /// The messages before the first question.
    pub(super) fn opening(&self) -> Vec<Message> {
        vec![Message::new("system", self.instructions.clone())]
    }
}

/// All conversations of a replay.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    /// In the order in which they begin.
    pub(super) conversations: Vec<Conversation>,
}

impl Workload {
    /// As many conversations as have their last turn due within `length`, at least one.
    pub(super) fn of_length(length: Duration) -> Self {
        let whole = PAUSE * (TURNS as u32 - 1);
        let count = 1 + (length.saturating_sub(whole).as_millis() / EVERY.as_millis()) as u64;
        let conversations = (0..count).map(|number| Conversation {
            starts: EVERY * number as u32,
            instructions: text(number % APPLICATIONS as u64, INSTRUCTIONS_BYTES),
            questions: (0..TURNS as u64)
                .map(|turn| text(1_000 + number * TURNS as u64 + turn, QUESTION_BYTES))
                .collect(),
        });
        Self {
            conversations: conversations.collect(),
        }
    }

    /// Requests of one profile.
    pub(super) fn requests(&self) -> usize {
        self.conversations.len() * TURNS
    }

    /// Tokens of all prefixes that differ, shared ones counted once.
    pub(super) fn distinct_tokens(&self) -> usize {
        let per_turn = QUESTION_BYTES / TOKEN_BYTES + ANSWER_TOKENS as usize;
        let shared = APPLICATIONS.min(self.conversations.len()) * INSTRUCTIONS_BYTES / TOKEN_BYTES;
        shared + self.requests() * per_turn
    }

    /// How much later a profile (0 and on, of `profiles`) begins a conversation.
    pub(super) fn shift(number: usize, profile: usize, profiles: usize) -> Duration {
        EVERY / profiles.max(1) as u32 * ((number + profile) % profiles.max(1)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn conversations_share_instructions_by_application_and_no_question() {
        let workload = Workload::of_length(Duration::from_secs(20));
        let instructions: BTreeSet<_> = workload.conversations.iter().map(|one| &one.instructions).collect();
        let questions: BTreeSet<_> = workload.conversations.iter().flat_map(|one| &one.questions).collect();
        assert_eq!(instructions.len(), APPLICATIONS);
        assert_eq!(questions.len(), workload.requests());
        assert!(questions.iter().all(|question| question.len() == QUESTION_BYTES));
    }

    #[test]
    fn every_turn_is_due_within_the_length_of_the_replay() {
        for seconds in [9, 17, 45] {
            let length = Duration::from_secs(seconds);
            let workload = Workload::of_length(length);
            let last = workload.conversations.last().unwrap();
            assert!(last.due(TURNS - 1) <= length, "{seconds}");
            assert!(last.due(TURNS - 1) + EVERY > length, "no time is wasted: {seconds}");
        }
    }

    #[test]
    fn profiles_take_turns_in_being_first() {
        let firsts: BTreeSet<usize> = (0..3)
            .map(|number| {
                (0..3)
                    .min_by_key(|profile| Workload::shift(number, *profile, 3))
                    .unwrap()
            })
            .collect();
        assert_eq!(firsts, BTreeSet::from([0, 1, 2]));
    }
}
