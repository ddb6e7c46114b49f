//! The scheduler configuration file of Kthena, and the `scheduling` block of a ModelServer, which has the form of its
//! `scheduler` section.
//!
//! ```yaml
//! scheduler:
//!   pluginConfig:
//!   - {name: least-request, args: {maxWaitingRequests: 10}}
//!   plugins:
//!     Filter: {enabled: [least-request], disabled: [lora-affinity]}
//!     Score:  {enabled: [{name: least-request, weight: 1}, {name: prefix-cache, weight: 1}], disabled: [gpu-usage]}
//! ```
//!
//! A section starts from a base: the Helm chart's defaults for the file, the file's result for a ModelServer. For
//! filters and scores alike, `enabled` replaces the base's list (left out, the list stays), then the names in `disabled`
//! are taken off. Arguments in `pluginConfig` are laid over the base's, one by one. A plugin that is only configured is
//! checked and not used. What must always hold: a [`PluginSet`] that comes out of here compiles. Everything unknown,
//! contradictory or out of range is refused; what Kthena has and this product has not yet gives a warning.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Profile, ProfileError, check, find};

/// The weight of a score that names none.
const DEFAULT_WEIGHT: u32 = 1;

/// One plugin with its weight and arguments, not yet checked.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginConfig {
    /// The plugin's name.
    pub name: Box<str>,
    /// Its points are multiplied by this; no meaning for a filter.
    pub weight: u32,
    /// Its arguments.
    pub args: Map<String, Value>,
}

/// The plugins of a profile.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginSet {
    /// In the order in which they filter.
    pub filters: Vec<PluginConfig>,
    /// In the order in which they are shown.
    pub scores: Vec<PluginConfig>,
    /// Arguments of all plugins, enabled or not, for a ModelServer that enables one more.
    args: Vec<(Box<str>, Map<String, Value>)>,
}

/// The configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// How endpoints are chosen.
    #[serde(default)]
    pub scheduler: Option<Scheduler>,
    /// Kthena's JWT settings: known, without effect here.
    #[serde(default)]
    pub auth: Option<Value>,
}

/// The `scheduler` section of the file, or the `scheduling` block of a ModelServer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduler {
    /// Arguments by plugin.
    #[serde(rename = "pluginConfig", default)]
    pub plugin_config: Option<Vec<PluginArgs>>,
    /// Which plugins run.
    #[serde(default)]
    pub plugins: Option<Plugins>,
}

/// Arguments of one plugin.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginArgs {
    /// The plugin's name.
    pub name: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Option<Map<String, Value>>,
}

/// Which plugins run, by role.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plugins {
    /// Filters.
    #[serde(rename = "Filter", default)]
    pub filter: Option<Filters>,
    /// Scores.
    #[serde(rename = "Score", default)]
    pub score: Option<Scores>,
}

/// Filters that run, and that do not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filters {
    /// Instead of the base's list.
    #[serde(default)]
    pub enabled: Option<Vec<String>>,
    /// Taken off the list.
    #[serde(default)]
    pub disabled: Option<Vec<String>>,
}

/// Scores that run, and that do not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// Instead of the base's list.
    #[serde(default)]
    pub enabled: Option<Vec<WeightedScore>>,
    /// Taken off the list.
    #[serde(default)]
    pub disabled: Option<Vec<String>>,
}

/// A score and its weight.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedScore {
    /// The plugin's name.
    pub name: String,
    /// Its points are multiplied by this; 1 where it is left out.
    #[serde(default)]
    pub weight: Option<u32>,
}

/// Something in the configuration that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub String);

// === impl PluginConfig ===

impl PluginConfig {
    /// A plugin with a weight, and arguments as JSON text; empty text = none.
    ///
    /// # Errors
    ///
    /// [`ProfileError::Args`] when the text is not a JSON object.
    pub fn from_json(name: &str, weight: u32, args: &str) -> Result<Self, ProfileError> {
        let args = match args {
            "" => Map::new(),
            text => serde_json::from_str(text).map_err(|error| ProfileError::Args {
                name: name.into(),
                reason: format!("arguments must be a JSON object: {error}"),
            })?,
        };
        Ok(Self {
            name: name.into(),
            weight,
            args,
        })
    }

    /// The arguments as JSON text; empty = none.
    pub fn args_json(&self) -> String {
        if self.args.is_empty() {
            return String::new();
        }
        Value::Object(self.args.clone()).to_string()
    }
}

// === impl PluginSet ===

impl Default for PluginSet {
    /// What Kthena's Helm chart configures, but for `maxBlocksToMatch`: unset, the whole prompt counts.
    fn default() -> Self {
        let plugin = |name: &str| PluginConfig {
            name: name.into(),
            weight: DEFAULT_WEIGHT,
            args: Map::new(),
        };
        Self {
            filters: vec![plugin("least-request")],
            scores: ["least-request", "gpu-usage", "least-latency", "prefix-cache"]
                .map(plugin)
                .into(),
            args: Vec::new(),
        }
    }
}

impl PluginSet {
    /// The size of a prompt block that this set asks for, as written.
    fn block_size(&self) -> Option<&Value> {
        let (_, args) = self.args.iter().find(|(name, _)| **name == *"prefix-cache")?;
        args.get("blockSizeToHash")
    }

    fn overlay(&mut self, given: &[PluginArgs], warnings: &mut Vec<Warning>) -> Result<(), ProfileError> {
        for (at, plugin) in given.iter().enumerate() {
            if given[..at].iter().any(|earlier| earlier.name == plugin.name) {
                return Err(ProfileError::Duplicate {
                    name: plugin.name.as_str().into(),
                    role: "pluginConfig",
                });
            }
            let args = plugin.args.clone().unwrap_or_default();
            match check(&plugin.name, &args) {
                Err(error @ ProfileError::NotBuilt { .. }) => warnings.push(Warning(error.to_string())),
                checked => checked?,
            }
            match self.args.iter_mut().find(|(name, _)| **name == *plugin.name) {
                Some((_, base)) => base.extend(args),
                None => self.args.push((plugin.name.as_str().into(), args)),
            }
        }
        Ok(())
    }

    fn with_args(&self, name: &str, weight: u32) -> PluginConfig {
        let args = self
            .args
            .iter()
            .find(|(of, _)| **of == *name)
            .map(|(_, args)| args.clone());
        PluginConfig {
            name: name.into(),
            weight,
            args: args.unwrap_or_default(),
        }
    }
}

// === impl ConfigFile ===

impl ConfigFile {
    /// The plugins of the global profile, and what in the file has no effect.
    ///
    /// # Errors
    ///
    /// As [`Profile::compile`]; and a plugin that is both enabled and disabled.
    pub fn plugins(&self) -> Result<(PluginSet, Vec<Warning>), ProfileError> {
        let (set, mut warnings) = match &self.scheduler {
            Some(scheduler) => scheduler.over(&PluginSet::default())?,
            None => (PluginSet::default(), Vec::new()),
        };
        if self.auth.is_some() {
            warnings.push(Warning(
                "`auth` has no effect: let Envoy check tokens (its JWT filter)".to_owned(),
            ));
        }
        Ok((set, warnings))
    }
}

// === impl Scheduler ===

impl Scheduler {
    /// The plugins of a ModelServer with this `scheduling` block, where `global` is what the file configures.
    ///
    /// # Errors
    ///
    /// As [`ConfigFile::plugins`], and another size of prompt blocks than the global one.
    pub fn for_server(&self, global: &PluginSet) -> Result<(PluginSet, Vec<Warning>), ProfileError> {
        let (set, warnings) = self.over(global)?;
        let default = Value::from(64);
        if set.block_size().unwrap_or(&default) != global.block_size().unwrap_or(&default) {
            return Err(ProfileError::BlockSizePerServer);
        }
        Ok((set, warnings))
    }

    fn over(&self, base: &PluginSet) -> Result<(PluginSet, Vec<Warning>), ProfileError> {
        let mut set = base.clone();
        let mut warnings = Vec::new();
        set.overlay(self.plugin_config.as_deref().unwrap_or_default(), &mut warnings)?;
        let Plugins { filter, score } = self.plugins.clone().unwrap_or_default();
        let filter = filter.unwrap_or_default();
        let score = score.unwrap_or_default();
        set.filters = List {
            role: "filter",
            base: &base.filters,
            enabled: filter
                .enabled
                .map(|names| names.into_iter().map(|name| (name, DEFAULT_WEIGHT)).collect()),
            disabled: filter.disabled.unwrap_or_default(),
        }
        .resolve(&set, &mut warnings)?;
        set.scores = List {
            role: "score",
            base: &base.scores,
            enabled: score
                .enabled
                .map(|scores| scores.into_iter().map(WeightedScore::pair).collect()),
            disabled: score.disabled.unwrap_or_default(),
        }
        .resolve(&set, &mut warnings)?;
        Profile::compile("", &set.filters, &set.scores)?;
        Ok((set, warnings))
    }
}

impl WeightedScore {
    fn pair(self) -> (String, u32) {
        (self.name, self.weight.unwrap_or(DEFAULT_WEIGHT))
    }
}

/// One role's part of a section.
struct List<'a> {
    role: &'static str,
    base: &'a [PluginConfig],
    enabled: Option<Vec<(String, u32)>>,
    disabled: Vec<String>,
}

impl List<'_> {
    fn resolve(self, args: &PluginSet, warnings: &mut Vec<Warning>) -> Result<Vec<PluginConfig>, ProfileError> {
        let named = match &self.enabled {
            Some(enabled) => enabled.clone(),
            None => self
                .base
                .iter()
                .map(|plugin| (plugin.name.to_string(), plugin.weight))
                .collect(),
        };
        for name in &self.disabled {
            match find(name) {
                Ok(_) | Err(ProfileError::NotBuilt { .. }) => {}
                Err(error) => return Err(error),
            }
            if self.enabled.is_some() && named.iter().any(|(enabled, _)| enabled == name) {
                return Err(ProfileError::EnabledAndDisabled {
                    name: name.as_str().into(),
                    role: self.role,
                });
            }
        }
        let mut plugins = Vec::with_capacity(named.len());
        for (name, weight) in named {
            if self.disabled.contains(&name) {
                continue;
            }
            match find(&name) {
                Err(error @ ProfileError::NotBuilt { .. }) => warnings.push(Warning(error.to_string())),
                Err(error) => return Err(error),
                Ok(_) => plugins.push(args.with_args(&name, weight)),
            }
        }
        Ok(plugins)
    }
}

#[cfg(test)]
mod tests;
