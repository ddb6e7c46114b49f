//! Scheduling profiles: the global one from the router configuration file, and those of ModelServers with a `scheduling`
//! block. The scheduler's own configuration types read and judge both.

use kthena_gateway_api::FieldIssue;
use kthena_scheduler::profile::PluginConfig;
use kthena_scheduler::profile::config::{ConfigFile, PluginSet, Scheduler};
use kthena_scheduler::state::proto;
use serde_json::Value;

/// Name of the resource that holds the global profile.
pub(super) const DEFAULT: &str = "default";

/// The global profile, and the base of every other. Without a file, that of Kthena's Helm chart.
#[derive(Clone, Debug, Default)]
pub struct Profiles {
    global: PluginSet,
}

/// A router configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfiguration {
    /// It is not of the right form.
    #[error("{0}")]
    Form(String),
    /// It names plugins or arguments that cannot be.
    #[error(transparent)]
    Profile(#[from] kthena_scheduler::profile::ProfileError),
}

impl Profiles {
    /// Reads a router configuration file (YAML or JSON). Gives what in it has no effect, too.
    ///
    /// # Errors
    /// When the text is not of the file's form, or names plugins or arguments that cannot be.
    pub fn from_configuration(text: &str) -> Result<(Self, Vec<String>), InvalidConfiguration> {
        // An empty file, or one of comments, configures nothing.
        let file: Option<ConfigFile> = serde_saphyr::from_str(text)
            .map_err(|error| InvalidConfiguration::Form(error.without_snippet().to_string()))?;
        let (global, warnings) = file.unwrap_or_default().plugins()?;
        Ok((Self { global }, warnings.into_iter().map(|warning| warning.0).collect()))
    }

    /// The global profile.
    pub(super) fn default_profile(&self) -> proto::Profile {
        message(DEFAULT, &self.global)
    }

    /// The profile of a ModelServer with this `scheduling` block, and what in the block has no effect.
    pub(super) fn of_server(&self, name: &str, block: &Value) -> Result<(proto::Profile, Vec<FieldIssue>), FieldIssue> {
        let path = "spec.scheduling";
        let scheduler: Scheduler = serde_path_to_error::deserialize(block).map_err(|error| {
            let field = error.path().to_string();
            let inner = error.into_inner().to_string();
            match field.as_str() {
                "." => FieldIssue::new(path, inner),
                field => FieldIssue::new(format!("{path}.{field}"), inner),
            }
        })?;
        let (plugins, warnings) = scheduler
            .for_server(&self.global)
            .map_err(|error| FieldIssue::new(path, error.to_string()))?;
        let warnings = warnings
            .into_iter()
            .map(|warning| FieldIssue::new(path, warning.0))
            .collect();
        Ok((message(name, &plugins), warnings))
    }
}

fn message(name: &str, plugins: &PluginSet) -> proto::Profile {
    let plugin = |config: &PluginConfig, weight: u32| proto::Plugin {
        name: config.name.to_string(),
        weight,
        args: config.args_json(),
    };
    proto::Profile {
        name: name.to_owned(),
        filters: plugins.filters.iter().map(|config| plugin(config, 0)).collect(),
        scores: plugins
            .scores
            .iter()
            .map(|config| plugin(config, config.weight))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scores(profile: &proto::Profile) -> Vec<(&str, u32)> {
        profile.scores.iter().map(|p| (p.name.as_str(), p.weight)).collect()
    }

    #[test]
    fn a_file_of_kthena_becomes_the_default_profile() {
        let (profiles, warnings) = Profiles::from_configuration(
            "scheduler:\n  pluginConfig:\n  - name: least-request\n    args: {maxWaitingRequests: 7}\n  plugins:\n    \
             Filter: {enabled: [least-request]}\n    Score: {enabled: [{name: gpu-usage, weight: 3}]}\nauth: {issuer: x}\n",
        )
        .unwrap();
        let profile = profiles.default_profile();
        assert_eq!(profile.filters[0].args, r#"{"maxWaitingRequests":7}"#);
        assert_eq!(scores(&profile), [("gpu-usage", 3)]);
        assert_eq!(warnings.len(), 1);
        let (empty, _) = Profiles::from_configuration("# nothing\n").unwrap();
        assert_eq!(empty.default_profile(), Profiles::default().default_profile());
    }

    #[test]
    fn a_file_with_an_unknown_plugin_or_field_is_refused() {
        let error = |text: &str| Profiles::from_configuration(text).unwrap_err().to_string();
        assert!(error("scheduler: {plugins: {Filter: {enabled: [fastest]}}}").contains("fastest"));
        assert!(error("sheduler: {}").contains("sheduler"));
    }

    #[test]
    fn a_block_starts_from_the_file_and_names_its_faults() {
        let profiles = Profiles::default();
        let (profile, warnings) = profiles
            .of_server("a/b", &json!({"plugins": {"Score": {"disabled": ["gpu-usage"]}}}))
            .unwrap();
        assert_eq!(profile.name, "a/b");
        assert!(!scores(&profile).iter().any(|(name, _)| *name == "gpu-usage"));
        assert_eq!(warnings, []);
        let issue = profiles
            .of_server(
                "a/b",
                &json!({"plugins": {"Score": {"enabled": [{"name": "random", "weight": "x"}]}}}),
            )
            .unwrap_err();
        assert_eq!(issue.path, "spec.scheduling.plugins.Score.enabled[0].weight");
    }
}
