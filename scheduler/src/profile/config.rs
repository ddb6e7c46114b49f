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
mod tests {
    use super::*;

    fn file(json: &str) -> Result<(PluginSet, Vec<Warning>), String> {
        let file: ConfigFile = serde_json::from_str(json).map_err(|error| error.to_string())?;
        file.plugins().map_err(|error| error.to_string())
    }

    fn names(plugins: &[PluginConfig]) -> Vec<(&str, u32)> {
        plugins.iter().map(|plugin| (&*plugin.name, plugin.weight)).collect()
    }

    const HELM: &str = r#"{"scheduler":{
        "pluginConfig":[
            {"name":"least-request","args":{"maxWaitingRequests":10}},
            {"name":"least-latency","args":{"TTFTTPOTWeightFactor":0.5}},
            {"name":"prefix-cache","args":{"blockSizeToHash":64,"maxBlocksToMatch":128,"maxHashCacheSize":50000,"topKMatches":5}}],
        "plugins":{
            "Filter":{"enabled":["least-request"],"disabled":["lora-affinity"]},
            "Score":{"enabled":[{"name":"least-request","weight":1},{"name":"gpu-usage","weight":1},
                                {"name":"least-latency","weight":1},{"name":"prefix-cache","weight":1}]}}},
        "auth":{"issuer":"i","audiences":["a"],"jwksUri":"https://x"}}"#;

    #[test]
    fn the_helm_charts_file_is_the_default_with_a_warning_for_auth() {
        let (set, warnings) = file(HELM).unwrap();
        assert_eq!(names(&set.filters), names(&PluginSet::default().filters));
        assert_eq!(names(&set.scores), names(&PluginSet::default().scores));
        assert!(warnings.len() == 1 && warnings[0].0.contains("auth"), "{warnings:?}");
        let profile = Profile::compile("default", &set.filters, &set.scores).unwrap();
        assert_eq!(profile.residency().unwrap().max_blocks.unwrap().get(), 128);
    }

    #[test]
    fn a_file_that_says_nothing_gives_the_defaults() {
        for json in [
            "{}",
            r#"{"scheduler":{}}"#,
            r#"{"scheduler":{"plugins":{"Filter":{},"Score":null}}}"#,
        ] {
            assert_eq!(file(json).unwrap().0, PluginSet::default(), "{json}");
        }
    }

    #[test]
    fn disabled_takes_a_plugin_off_the_defaults() {
        let (set, _) = file(r#"{"scheduler":{"plugins":{"Filter":{"disabled":["least-request"]},"Score":{"disabled":["gpu-usage","random"]}}}}"#).unwrap();
        assert!(set.filters.is_empty());
        assert_eq!(
            names(&set.scores),
            [("least-request", 1), ("least-latency", 1), ("prefix-cache", 1)]
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_name() {
        for (json, word) in [
            (
                r#"{"scheduler":{"plugins":{"Score":{"enabled":[{"name":"fastest"}]}}}}"#,
                "fastest",
            ),
            (
                r#"{"scheduler":{"plugins":{"Filter":{"disabled":["fastest"]}}}}"#,
                "fastest",
            ),
            (r#"{"scheduler":{"pluginConfig":[{"name":"fastest"}]}}"#, "fastest"),
            (
                r#"{"scheduler":{"plugins":{"Score":{"enabled":[{"name":"lora-affinity"}]}}}}"#,
                "not a score",
            ),
            (
                r#"{"scheduler":{"plugins":{"Filter":{"enabled":["gpu-usage"]}}}}"#,
                "not a filter",
            ),
            (
                r#"{"scheduler":{"plugins":{"Score":{"enabled":[{"name":"random"},{"name":"gpu-usage"}]}}}}"#,
                "gpu-usage",
            ),
            (
                r#"{"scheduler":{"plugins":{"Filter":{"enabled":["lora-affinity"],"disabled":["lora-affinity"]}}}}"#,
                "both",
            ),
            (
                r#"{"scheduler":{"plugins":{"Filter":{"enabled":["lora-affinity","lora-affinity"]}}}}"#,
                "twice",
            ),
            (
                r#"{"scheduler":{"pluginConfig":[{"name":"random"},{"name":"random"}]}}"#,
                "twice",
            ),
            (
                r#"{"scheduler":{"pluginConfig":[{"name":"least-latency","args":{"TTFTTPOTWeightFactor":2}}]}}"#,
                "between 0 and 1",
            ),
            (
                r#"{"scheduler":{"pluginConfig":[{"name":"prefix-cache","args":{"blockSize":64}}]}}"#,
                "blockSize",
            ),
            (
                r#"{"scheduler":{"plugins":{"Score":{"enabled":[{"name":"gpu-usage","weight":-1}]}}}}"#,
                "-1",
            ),
            (r#"{"scheduler":{"plugins":{"score":{}}}}"#, "score"),
            (r#"{"schedular":{}}"#, "schedular"),
        ] {
            let error = file(json).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        }
    }

    #[test]
    fn kvcache_aware_is_known_left_out_and_said_so() {
        let (set, warnings) = file(
            r#"{"scheduler":{"pluginConfig":[{"name":"kvcache-aware","args":{"blockSizeToHash":128}}],
                "plugins":{"Score":{"enabled":[{"name":"least-request","weight":2},{"name":"kvcache-aware","weight":1}]}}}}"#,
        )
        .unwrap();
        assert_eq!(names(&set.scores), [("least-request", 2)]);
        assert!(warnings.iter().all(|w| w.0.contains("kvcache-aware")) && !warnings.is_empty());
    }

    fn server(json: &str) -> Result<(PluginSet, Vec<Warning>), ProfileError> {
        let block: Scheduler = serde_json::from_str(json).unwrap();
        block.for_server(&file(HELM).unwrap().0)
    }

    #[test]
    fn a_servers_block_lies_over_the_file() {
        let (set, _) = server(
            r#"{"pluginConfig":[{"name":"prefix-cache","args":{"topKMatches":9}}],
                "plugins":{"Filter":{"enabled":["lora-affinity","least-request"]},"Score":{"disabled":["gpu-usage"]}}}"#,
        )
        .unwrap();
        assert_eq!(names(&set.filters), [("lora-affinity", 1), ("least-request", 1)]);
        let profile = Profile::compile("ns/server", &set.filters, &set.scores).unwrap();
        let residency = profile.residency().unwrap();
        assert_eq!((residency.top.get(), residency.max_blocks.unwrap().get()), (9, 128));
    }

    #[test]
    fn a_server_cannot_have_blocks_of_its_own_size() {
        let block = |bytes| {
            server(&format!(
                r#"{{"pluginConfig":[{{"name":"prefix-cache","args":{{"blockSizeToHash":{bytes}}}}}]}}"#
            ))
        };
        assert_eq!(block(128), Err(ProfileError::BlockSizePerServer));
        assert!(block(64).is_ok(), "saying what holds anyway is no change");
    }

    #[test]
    fn arguments_travel_as_text() {
        let plugin = PluginConfig::from_json("prefix-cache", 1, r#"{"topKMatches":3}"#).unwrap();
        assert_eq!(plugin.args_json(), r#"{"topKMatches":3}"#);
        assert_eq!(PluginConfig::from_json("random", 1, "").unwrap().args_json(), "");
        assert!(PluginConfig::from_json("random", 1, "[1]").is_err());
    }
}
