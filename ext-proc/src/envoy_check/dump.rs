//! Finding one's way in a config dump: listeners, connection managers, filters, routes and clusters, whoever put them there.
//!
//! A part that is not there reads as nothing; no form of dump makes these functions fail.

use serde_json::Value;

/// Whether any text in the value holds the word.
pub(super) fn holds(value: &Value, word: &str) -> bool {
    match value {
        Value::String(text) => text.contains(word),
        Value::Array(values) => values.iter().any(|value| holds(value, word)),
        Value::Object(fields) => fields.values().any(|value| holds(value, word)),
        _ => false,
    }
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Protobuf's JSON prints 64-bit numbers as text.
pub(super) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Protobuf's JSON prints durations as seconds with an `s`, with up to nine decimals.
pub(super) fn milliseconds(value: &Value) -> Option<u64> {
    let (whole, fraction) = {
        let seconds = value.as_str()?.strip_suffix('s')?;
        seconds.split_once('.').unwrap_or((seconds, ""))
    };
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1000)?
        .checked_add(fraction.parse().ok()?)
}

fn sections<'a>(dump: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    list(&dump["configs"])
        .iter()
        .filter(move |section| text(&section["@type"]).ends_with(kind))
}

pub(super) fn listeners(dump: &Value) -> Vec<&Value> {
    sections(dump, "ListenersConfigDump")
        .flat_map(|section| {
            let fixed = list(&section["static_listeners"])
                .iter()
                .map(|entry| &entry["listener"]);
            fixed.chain(
                list(&section["dynamic_listeners"])
                    .iter()
                    .map(|entry| &entry["active_state"]["listener"]),
            )
        })
        .collect()
}

pub(super) fn clusters(dump: &Value) -> Vec<&Value> {
    sections(dump, "ClustersConfigDump")
        .flat_map(|section| {
            list(&section["static_clusters"])
                .iter()
                .chain(list(&section["dynamic_active_clusters"]))
        })
        .map(|entry| &entry["cluster"])
        .collect()
}

/// The HTTP connection managers of a listener, its default filter chain included.
pub(super) fn managers(listener: &Value) -> Vec<&Value> {
    list(&listener["filter_chains"])
        .iter()
        .chain(std::iter::once(&listener["default_filter_chain"]))
        .flat_map(|chain| list(&chain["filters"]))
        .map(|filter| &filter["typed_config"])
        .filter(|config| text(&config["@type"]).ends_with("HttpConnectionManager"))
        .collect()
}

pub(super) fn http_filter<'a>(manager: &'a Value, kind: &str) -> Option<&'a Value> {
    list(&manager["http_filters"])
        .iter()
        .map(|filter| &filter["typed_config"])
        .find(|config| text(&config["@type"]).ends_with(kind))
}

/// The routes of a connection manager: written in it, or pushed to Envoy under the name that it gives.
pub(super) fn route_configs<'a>(dump: &'a Value, manager: &'a Value) -> Vec<&'a Value> {
    if manager["route_config"].is_object() {
        return vec![&manager["route_config"]];
    }
    let name = &manager["rds"]["route_config_name"];
    sections(dump, "RoutesConfigDump")
        .flat_map(|section| list(&section["dynamic_route_configs"]))
        .map(|entry| &entry["route_config"])
        .filter(|routes| routes["name"] == *name)
        .collect()
}
