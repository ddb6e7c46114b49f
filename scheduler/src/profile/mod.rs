//! What decides among the endpoints of a ModelServer: a profile names filters and weighted scores.
//!
//! A plugin is one file here and one line in `registry`. What must always hold: a [`Profile`] exists only if every
//! plugin in it exists and accepts its arguments, so nothing can fail when it is used; plugins are pure, see `plugin`.
//! A bad profile is refused with the plugin, the argument and what would be right.

pub mod config;
mod demand;
mod fade;
mod gpu_usage;
mod least_latency;
mod least_request;
mod lora_affinity;
mod plugin;
mod prefix_cache;
mod random;
mod registry;
mod residency;

use std::num::NonZeroU32;

use serde_json::{Map, Value};
use thiserror::Error;

pub use config::PluginConfig;
pub use demand::demand;
pub use plugin::{Candidates, Filter, Score, Subject, UNSCORED};
pub use residency::Residency;

/// What decides among the endpoints of a ModelServer.
#[derive(Debug)]
pub struct Profile {
    /// "default", or the `namespace/name` of the ModelServer it belongs to.
    pub name: Box<str>,
    filters: Vec<NamedFilter>,
    scores: Vec<NamedScore>,
    residency: Option<Residency>,
}

/// A filter of a profile.
#[derive(Debug)]
pub struct NamedFilter {
    /// The plugin's name.
    pub name: &'static str,
    /// What it does.
    pub plugin: Box<dyn Filter>,
}

/// A score of a profile.
#[derive(Debug)]
pub struct NamedScore {
    /// The plugin's name.
    pub name: &'static str,
    /// Its points are multiplied by this.
    pub weight: u32,
    /// What it does.
    pub plugin: Box<dyn Score>,
}

/// Why a profile is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProfileError {
    /// No plugin has this name.
    #[error("unknown scheduling plugin `{name}`; there are: {}", Profile::plugin_names().join(", "))]
    Unknown {
        /// The name given.
        name: Box<str>,
    },
    /// Kthena has this plugin, this product does not have it yet.
    #[error("the scheduling plugin `{name}` is known but not built yet; it is left out")]
    NotBuilt {
        /// The name given.
        name: Box<str>,
    },
    /// The plugin cannot be used like this.
    #[error("the scheduling plugin `{name}` is not a {role}")]
    WrongRole {
        /// The plugin.
        name: Box<str>,
        /// "filter" or "score".
        role: &'static str,
    },
    /// The plugin refuses its arguments.
    #[error("scheduling plugin `{name}`: {reason}")]
    Args {
        /// The plugin.
        name: Box<str>,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// The plugin is named twice.
    #[error("the scheduling plugin `{name}` is listed twice as a {role}; name it once")]
    Duplicate {
        /// The plugin.
        name: Box<str>,
        /// "filter" or "score".
        role: &'static str,
    },
    /// The plugin is both enabled and disabled.
    #[error("the scheduling plugin `{name}` is listed both as an enabled and as a disabled {role}; choose one")]
    EnabledAndDisabled {
        /// The plugin.
        name: Box<str>,
        /// "filter" or "score".
        role: &'static str,
    },
    /// A random draw beside other scores.
    #[error("the score `random` cannot be combined with other scores ({others}); keep either it or them")]
    RandomNotAlone {
        /// The other scores.
        others: String,
    },
    /// One ModelServer asks for another size of prompt blocks.
    #[error(
        "prefix-cache: blockSizeToHash may be set only in the global configuration: prompts are hashed before the \
         ModelServer is known; remove it here"
    )]
    BlockSizePerServer,
}

// === impl Profile ===

impl Profile {
    /// Compiles a profile.
    ///
    /// # Errors
    ///
    /// A plugin that is unknown, not built, listed twice or in the wrong role, arguments that are unknown or out of
    /// range, `random` beside other scores.
    pub fn compile(name: &str, filters: &[PluginConfig], scores: &[PluginConfig]) -> Result<Self, ProfileError> {
        refuse_duplicates(filters, "filter")?;
        refuse_duplicates(scores, "score")?;
        refuse_random_in_company(scores)?;
        let filters = filters.iter().map(NamedFilter::make).collect::<Result<Vec<_>, _>>()?;
        let scores = scores.iter().map(NamedScore::make).collect::<Result<Vec<_>, _>>()?;
        let residency = scores.iter().find_map(|score| score.plugin.residency().copied());
        Ok(Self {
            name: name.into(),
            filters,
            scores,
            residency,
        })
    }

    /// The profile of Kthena's Helm chart: filter least-request; scores least-request, gpu-usage, least-latency and
    /// prefix-cache, all of weight 1.
    pub fn default_profile() -> Self {
        let plugins = config::PluginSet::default();
        // The built-in list compiles, as a test shows; were it ever not to, an empty profile still serves, at random.
        Self::compile("default", &plugins.filters, &plugins.scores).unwrap_or_else(|_| Self {
            name: "default".into(),
            filters: Vec::new(),
            scores: Vec::new(),
            residency: None,
        })
    }

    /// Names of all plugins there are, sorted.
    pub fn plugin_names() -> &'static [&'static str] {
        const NAMES: [&str; registry::PLUGINS.len()] = {
            let mut names = [""; registry::PLUGINS.len()];
            let mut at = 0;
            while at < names.len() {
                names[at] = registry::PLUGINS[at].name;
                at += 1;
            }
            names
        };
        &NAMES
    }

    /// Bytes in a prompt block, if prompts matter to this profile.
    pub fn block_bytes(&self) -> Option<NonZeroU32> {
        self.residency.map(|residency| residency.block_bytes)
    }

    /// How this profile uses the prefix index; `None` if it does not.
    pub fn residency(&self) -> Option<&Residency> {
        self.residency.as_ref()
    }

    /// The filters, in order.
    pub fn filters(&self) -> &[NamedFilter] {
        &self.filters
    }

    /// The scores, in order.
    pub fn scores(&self) -> &[NamedScore] {
        &self.scores
    }
}

impl NamedFilter {
    fn make(config: &PluginConfig) -> Result<Self, ProfileError> {
        let plugin = find(&config.name)?;
        let make = plugin.filter.ok_or_else(|| wrong_role(&config.name, "filter"))?;
        Ok(Self {
            name: plugin.name,
            plugin: make(&config.args).map_err(|reason| refused(&config.name, reason))?,
        })
    }
}

impl NamedScore {
    fn make(config: &PluginConfig) -> Result<Self, ProfileError> {
        let plugin = find(&config.name)?;
        let make = plugin.score.ok_or_else(|| wrong_role(&config.name, "score"))?;
        Ok(Self {
            name: plugin.name,
            weight: config.weight,
            plugin: make(&config.args).map_err(|reason| refused(&config.name, reason))?,
        })
    }
}

fn find(name: &str) -> Result<&'static registry::Registered, ProfileError> {
    registry::find(name).ok_or_else(|| match registry::NOT_BUILT.contains(&name) {
        true => ProfileError::NotBuilt { name: name.into() },
        false => ProfileError::Unknown { name: name.into() },
    })
}

/// Checks the arguments of a plugin that may or may not be enabled.
fn check(name: &str, args: &Map<String, Value>) -> Result<(), ProfileError> {
    let plugin = find(name)?;
    let checked = match (plugin.score, plugin.filter) {
        (Some(score), _) => score(args).map(drop),
        (None, Some(filter)) => filter(args).map(drop),
        (None, None) => Ok(()),
    };
    checked.map_err(|reason| refused(name, reason))
}

fn wrong_role(name: &str, role: &'static str) -> ProfileError {
    ProfileError::WrongRole {
        name: name.into(),
        role,
    }
}

fn refused(name: &str, reason: String) -> ProfileError {
    ProfileError::Args {
        name: name.into(),
        reason,
    }
}

fn refuse_duplicates(plugins: &[PluginConfig], role: &'static str) -> Result<(), ProfileError> {
    for (at, plugin) in plugins.iter().enumerate() {
        if plugins[..at].iter().any(|earlier| earlier.name == plugin.name) {
            return Err(ProfileError::Duplicate {
                name: plugin.name.clone(),
                role,
            });
        }
    }
    Ok(())
}

fn refuse_random_in_company(scores: &[PluginConfig]) -> Result<(), ProfileError> {
    let (random, others): (Vec<_>, Vec<_>) = scores.iter().partition(|score| *score.name == *random::NAME);
    if random.is_empty() || others.is_empty() {
        return Ok(());
    }
    let others: Vec<&str> = others.iter().map(|score| &*score.name).collect();
    Err(ProfileError::RandomNotAlone {
        others: others.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_is_the_helm_charts() {
        let profile = Profile::default_profile();
        let filters: Vec<_> = profile.filters().iter().map(|filter| filter.name).collect();
        let scores: Vec<_> = profile
            .scores()
            .iter()
            .map(|score| (score.name, score.weight))
            .collect();
        assert_eq!(filters, ["least-request"]);
        assert_eq!(
            scores,
            [
                ("least-request", 1),
                ("gpu-usage", 1),
                ("least-latency", 1),
                ("prefix-cache", 1)
            ]
        );
        assert_eq!(profile.block_bytes().map(NonZeroU32::get), Some(64));
    }

    #[test]
    fn plugin_names_are_sorted_and_unique() {
        assert!(Profile::plugin_names().is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_plugin_that_is_not_built_yet_is_told_from_one_that_nobody_knows() {
        let compile = |name| Profile::compile("p", &[], &[PluginConfig::from_json(name, 1, "").unwrap()]).unwrap_err();
        assert!(matches!(compile("kvcache-aware"), ProfileError::NotBuilt { .. }));
        assert!(
            compile("fastest")
                .to_string()
                .contains("there are: gpu-usage, least-latency")
        );
    }

    #[test]
    fn a_profile_without_prefix_cache_asks_for_no_prompt() {
        let profile = Profile::compile("p", &[], &[PluginConfig::from_json("random", 1, "").unwrap()]).unwrap();
        assert_eq!(profile.block_bytes(), None);
    }
}
