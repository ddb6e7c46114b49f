//! The plugin's configuration: one JSON object, checked as a whole before anything runs.
//!
//! What must always hold: a field that is not known, or a value out of range, refuses the configuration with the field's
//! name, so that Envoy keeps the one before it. Every bound of the filter is a field here.

use kthena_scheduler::exchange::{Settings, WhenNoState as NoState, WhenSaturated as Saturated};
use kthena_scheduler::state::{Limits, OutboxLimits, is_namespace};
use serde::Deserialize;

/// Memory that a byte of state takes, as it comes over the wire: kept to be left for the next plugin, in its domain form
/// twice while it changes, and encoded once more when it is left.
const STATE_FACTOR: u64 = 4;
/// Memory of a VM that has no state, bytes.
const BASE_BYTES: u64 = 2 << 20;

/// What the operator sets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The Envoy cluster of the controller's state service; HTTP/2.
    pub controller: String,
    /// Only what is in these namespaces is asked of the controller. Empty = all that it lets us see.
    pub namespaces: Vec<String>,
    /// Hosts whose requests are routed; others pass untouched. Empty = all.
    pub hosts: Vec<String>,
    /// Whether the head of a request is held until its body is there.
    pub hold: Hold,
    /// The largest body accepted, bytes; a larger one is answered 413.
    pub max_body_bytes: u64,
    /// How long a request is held while there is no state yet, milliseconds.
    pub state_wait_ms: u64,
    /// Requests of one VM that are held while there is no state yet; those beyond are not held at all.
    pub max_held: usize,
    /// What happens to a request when there is still no state then, or no room to hold it.
    pub when_no_state: WhenNoState,
    /// What happens when the filters leave no endpoint.
    pub when_saturated: WhenSaturated,
    /// Whether a client may ask why its request went where it went (`x-kthena-explain`).
    pub explain: bool,
    /// Where the usage of an answer is read.
    pub usage: Usage,
    /// Endpoints there is room for; further ones are left out and told.
    pub max_endpoints: u32,
    /// Memory of one VM beside its requests in progress, bytes: the prefix index, and what is known of the controller's
    /// state, which is bounded by what the index leaves.
    pub memory_bytes: u64,
    /// Memory of the prefix index of one VM, bytes.
    pub prefix_index_bytes: u64,
    /// The largest resource of the controller, and all that are incomplete, bytes.
    pub max_resource_bytes: usize,
    /// Placements of one VM that wait to be sent.
    pub max_placements: usize,
    /// Bytes of placements that one VM sends a second.
    pub placement_bytes_per_s: u64,
    /// Least time between two reports of what is in flight, milliseconds.
    pub report_ms: u64,
    /// Kinds of requests that are told apart between two messages to the controller; further ones are counted together.
    pub max_metric_series: usize,
    /// The largest state kept in Envoy's shared data for the next plugin, bytes; 0 keeps none.
    pub shared_state_bytes: usize,
}

/// Whether the host can hold the head of a request until its body is there. Nothing is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// It can: the body decides.
    On,
    /// It cannot: header and path alone decide, and bodies are neither read nor changed.
    Off,
}

/// What happens to a request when there is no state to decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenNoState {
    /// The client gets 503.
    Reject,
    /// It goes on undecided, to where Envoy's own routes send it.
    Pass,
}

/// What happens when the filters leave no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenSaturated {
    /// The least loaded endpoint serves.
    Serve,
    /// The client gets 429.
    Reject,
}

/// Where the usage of an answer is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Usage {
    /// The filter reads it as the answer passes.
    Answer,
    /// Envoy's own metadata filters read it: the filter does not look at answers.
    Envoy,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is not what is expected.
    #[error("the plugin's configuration is refused: {0}")]
    Json(#[from] serde_json::Error),
    /// It is JSON of another kind, or no JSON.
    #[error("the plugin's configuration is refused: it must be a JSON object")]
    NotAnObject,
    /// A value is out of range.
    #[error("the plugin's configuration is refused: `{field}` must be {range}")]
    Range {
        /// Which.
        field: &'static str,
        /// What would be right.
        range: &'static str,
    },
}

impl Default for Config {
    fn default() -> Self {
        Self {
            controller: "kthena-controller".to_owned(),
            namespaces: Vec::new(),
            hosts: Vec::new(),
            hold: Hold::On,
            max_body_bytes: 16 << 20,
            state_wait_ms: 5_000,
            max_held: 1_000,
            when_no_state: WhenNoState::Reject,
            when_saturated: WhenSaturated::Serve,
            explain: false,
            usage: Usage::Answer,
            max_endpoints: 4_096,
            memory_bytes: 32 << 20,
            prefix_index_bytes: 8 << 20,
            max_resource_bytes: 8 << 20,
            max_placements: 2_000,
            placement_bytes_per_s: 1 << 20,
            report_ms: 50,
            max_metric_series: 500,
            shared_state_bytes: 4 << 20,
        }
    }
}

impl Config {
    /// Reads the plugin's configuration; none at all means the defaults.
    ///
    /// # Errors
    /// When it is no JSON object, has a field that is not known, or a value is out of range.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = match json.trim_ascii().first() {
            None => Self::default(),
            Some(b'{') => serde_json::from_slice(json)?,
            // A list would be taken for the fields in order.
            Some(_) => return Err(ConfigError::NotAnObject),
        };
        let check = |holds: bool, field, range| {
            if holds {
                Ok(())
            } else {
                Err(ConfigError::Range { field, range })
            }
        };
        check(
            !config.controller.is_empty(),
            "controller",
            "the name of an Envoy cluster",
        )?;
        check(
            config.namespaces.iter().all(|name| is_namespace(name)),
            "namespaces",
            "names of namespaces",
        )?;
        check(config.max_body_bytes > 0, "max_body_bytes", "above 0")?;
        check(
            (1..=65_536).contains(&config.max_endpoints),
            "max_endpoints",
            "1 to 65536",
        )?;
        check(
            (64 << 10..=1 << 30).contains(&config.prefix_index_bytes),
            "prefix_index_bytes",
            "64 KiB to 1 GiB",
        )?;
        check(
            (8 << 20..=1 << 30).contains(&config.memory_bytes) && config.prefix_index_bytes <= config.memory_bytes / 2,
            "memory_bytes",
            "8 MiB to 1 GiB, and at least twice prefix_index_bytes",
        )?;
        check(config.max_resource_bytes > 0, "max_resource_bytes", "above 0")?;
        check(config.max_placements > 0, "max_placements", "above 0")?;
        check(config.max_metric_series > 0, "max_metric_series", "above 0")?;
        check(config.placement_bytes_per_s > 0, "placement_bytes_per_s", "above 0")?;
        Ok(config)
    }

    /// The settings of every exchange.
    pub fn settings(&self) -> Settings {
        Settings {
            hosts: self.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            max_body_bytes: self.max_body_bytes,
            state_wait_ms: self.state_wait_ms,
            when_no_state: match self.when_no_state {
                WhenNoState::Reject => NoState::Reject,
                WhenNoState::Pass => NoState::Pass,
            },
            when_saturated: match self.when_saturated {
                WhenSaturated::Serve => Saturated::Serve,
                WhenSaturated::Reject => Saturated::Reject,
            },
            explain: self.explain,
            by_head: self.hold == Hold::Off,
            ..Settings::default()
        }
    }

    /// Bytes of the controller's state, as it comes over the wire, that there is memory for.
    fn state_bytes(&self) -> u64 {
        let taken = self.prefix_index_bytes.saturating_add(BASE_BYTES);
        self.memory_bytes.saturating_sub(taken) / STATE_FACTOR
    }

    /// What is kept of the controller's state.
    pub fn limits(&self) -> Limits {
        Limits {
            max_resource_bytes: self.max_resource_bytes,
            max_bytes: usize::try_from(self.state_bytes()).unwrap_or(usize::MAX),
            keep_bodies: self.shared_state_bytes > 0,
            ..Limits::default()
        }
    }

    /// What may wait to be sent to the controller.
    pub fn outbox(&self) -> OutboxLimits {
        OutboxLimits {
            placements: self.max_placements,
            bytes_per_s: self.placement_bytes_per_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_its_default() {
        assert_eq!(Config::parse(b"").unwrap(), Config::default());
        assert_eq!(Config::parse(b" {} ").unwrap(), Config::default());
        let config =
            Config::parse(br#"{"controller":"c","when_saturated":"reject","usage":"answer","hold":"off"}"#).unwrap();
        assert_eq!((config.controller.as_str(), config.usage), ("c", Usage::Answer));
        assert!(
            Config::default().limits().max_bytes > 5_000_000,
            "a state of 5 MB has room"
        );
        assert!(config.settings().by_head && !Config::default().settings().by_head);
        assert_eq!(config.settings().when_saturated, Saturated::Reject);
    }

    #[test]
    fn what_is_not_known_or_out_of_range_is_refused_by_name() {
        for (json, named) in [
            (r#"{"controler":"c"}"#, "controler"),
            (r#"{"controller":""}"#, "controller"),
            (r#"{"namespaces":["Team"]}"#, "namespaces"),
            (r#"{"max_endpoints":0}"#, "max_endpoints"),
            (r#"{"prefix_index_bytes":1}"#, "prefix_index_bytes"),
            (r#"{"when_saturated":"drop"}"#, "drop"),
            (r#"{"hold":"maybe"}"#, "maybe"),
            (r#"{"memory_bytes":1048576}"#, "memory_bytes"),
            (r#"{"prefix_index_bytes":33554432}"#, "memory_bytes"),
            (r#"{"max_held":-1}"#, "-1"),
            ("[]", "configuration"),
            ("{", "configuration"),
        ] {
            let error = Config::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(named), "{json}: {error}");
        }
    }
}
