//! The scheduling profiles that the demo compares, each with a ModelServer, endpoints and a model name of its own.

use serde_json::{Value, json};

use crate::system::fleet::Group;
use crate::system::manifests::model_route;

/// Endpoints of each profile.
pub(super) const ENDPOINTS: u8 = 8;

/// Tokens that the KV cache of an endpoint holds.
pub(super) const CACHE_TOKENS: usize = 24_576;

/// The engines: a GPU and a model whose prompts take long enough that it matters who serves them.
const ENGINE: &str = "profile=l4-qwen2-7b";

/// The name under which the engines serve the model that clients know by other names.
pub(super) const SERVED_MODEL: &str = "Qwen/Qwen2-7B-Instruct";

/// A scheduling profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    /// Any endpoint.
    Random,
    /// The least loaded endpoint.
    LeastRequest,
    /// What Kthena does when nobody says otherwise.
    Default,
}

impl Profile {
    /// All of them, in the order of their columns.
    pub(super) const ALL: [Self; 3] = [Self::Random, Self::LeastRequest, Self::Default];

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::LeastRequest => "least-request",
            Self::Default => "default",
        }
    }

    /// The model name that clients use, which is also the name of ModelRoute and ModelServer.
    pub(super) fn model(self) -> &'static str {
        match self {
            Self::Random => "assistant-random",
            Self::LeastRequest => "assistant-least-request",
            Self::Default => "assistant",
        }
    }

    /// The `scheduling` block of its ModelServer.
    fn scheduling(self) -> Option<Value> {
        let only = |score: &str| json!({"plugins": {"Score": {"enabled": [{"name": score}]}}});
        match self {
            Self::Random => Some(only("random")),
            Self::LeastRequest => Some(only("least-request")),
            Self::Default => None,
        }
    }

    fn group(self) -> Group {
        Group {
            name: self.model().to_owned(),
            model: SERVED_MODEL.to_owned(),
            adapters: Vec::new(),
            endpoints: ENDPOINTS,
            figures: format!("{ENGINE},kv_tokens={CACHE_TOKENS}"),
            scheduling: self.scheduling(),
        }
    }
}

/// All groups of the demo's fleet: one for each profile, and two endpoints of another model with an adapter.
pub(super) fn groups() -> Vec<Group> {
    let coder = Group {
        name: "coder".to_owned(),
        model: "meta-llama/Llama-3.1-8B-Instruct".to_owned(),
        adapters: vec!["sql".to_owned()],
        endpoints: 2,
        figures: "profile=h100-llama3-8b".to_owned(),
        scheduling: None,
    };
    Profile::ALL.into_iter().map(Profile::group).chain([coder]).collect()
}

/// All routes of the demo: a model name for each profile, and `coder` with its adapter.
pub(super) fn routes() -> Vec<Value> {
    let mut coder = model_route("coder", "coder", "coder");
    coder["spec"]["loraAdapters"] = json!(["sql"]);
    let profiles = Profile::ALL.map(|profile| model_route(profile.model(), profile.model(), profile.model()));
    profiles.into_iter().chain([coder]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_differ_in_their_scores_alone() {
        let mut groups: Vec<Group> = Profile::ALL.into_iter().map(Profile::group).collect();
        let blocks: Vec<bool> = groups.iter().map(|group| group.scheduling.is_some()).collect();
        assert_eq!(blocks, [true, true, false]);
        for group in &mut groups {
            group.name.clear();
            group.scheduling = None;
        }
        assert!(groups.iter().all(|group| *group == groups[0]));
    }
}
