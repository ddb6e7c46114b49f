//! What the configuration file may say, and what it is told.

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
