//! `lora-affinity`: keeps endpoints whose engine lists the adapter (or model) that is asked for.
//!
//! The name compared is the one the engine knows, not the client's alias. An endpoint that has not told its models yet
//! is kept: an answer of 404 from it is worth less than an empty list of candidates, but more than refusing to try.

use serde_json::{Map, Value};

use super::plugin::{Filter, Refusal, Subject, none};

#[derive(Debug)]
struct LoraAffinity;

pub(super) fn filter(args: &Map<String, Value>) -> Result<Box<dyn Filter>, Refusal> {
    none(args)?;
    Ok(Box::new(LoraAffinity))
}

impl Filter for LoraAffinity {
    fn keep(&self, subject: &Subject<'_>) -> bool {
        let models = (subject.models)();
        models.is_empty() || models.iter().any(|name| **name == *subject.model)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::View;

    #[test]
    fn only_who_lists_the_adapter_or_has_not_said_is_kept() {
        let keep = |models: &[&str]| {
            let models: Vec<Box<str>> = models.iter().map(|m| (*m).into()).collect();
            LoraAffinity.keep(&Subject {
                view: &View::default(),
                models: &|| &models,
                model: "sql",
            })
        };
        assert!(keep(&["base", "sql"]));
        assert!(!keep(&["base"]));
        assert!(keep(&[]));
    }
}
