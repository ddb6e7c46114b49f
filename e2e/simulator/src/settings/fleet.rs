//! One `--fleet` option: which addresses serve which model, on which profile, with which figures changed.
//!
//! `addresses=127.0.1.1-127.0.1.8,profile=h100-llama3-8b,model=llama,lora=sql+chat,kv_tokens=65536`. Unknown keys, keys
//! given twice and figures that cannot work together are refused, naming the key.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::{AddressRange, EngineKind, ModelServer};
use crate::engine::EngineConfig;
use crate::profile::{self, PROFILES, Profile};

/// Endpoints that serve the same.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetGroup {
    /// Their addresses.
    pub(crate) addresses: Vec<Ipv4Addr>,
    /// What each of them serves.
    pub(crate) server: ModelServer,
}

/// A `--fleet` option that cannot be; displays as a sentence that names the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidFleet(String);

/// The keys and values of one option, taken out one by one, so that what is left over is unknown.
struct Keys<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Keys<'a> {
    fn parse(text: &'a str) -> Result<Self, InvalidFleet> {
        let mut keys = BTreeMap::new();
        for pair in text.split(',') {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(InvalidFleet(format!("`{pair}` is not key=value")));
            };
            if value.is_empty() {
                return Err(InvalidFleet(format!("`{key}` has no value")));
            }
            if keys.insert(key, value).is_some() {
                return Err(InvalidFleet(format!("`{key}` is given twice")));
            }
        }
        Ok(Self(keys))
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        self.0.remove(key)
    }

    /// A whole number from 1 on.
    fn count(&mut self, key: &str) -> Result<Option<u32>, InvalidFleet> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.parse() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(InvalidFleet(format!(
                "`{key}={value}`: a whole number from 1 on is needed"
            ))),
        }
    }

    /// A time in units of `unit_ns`, as nanoseconds.
    fn time(&mut self, key: &str, unit_ns: f64, default_ns: f64) -> Result<f64, InvalidFleet> {
        let Some(value) = self.take(key) else {
            return Ok(default_ns);
        };
        match value.parse::<f64>() {
            Ok(number) if (0.0..=1e9).contains(&number) => Ok(number * unit_ns),
            _ => Err(InvalidFleet(format!("`{key}={value}`: a number from 0 on is needed"))),
        }
    }

    fn switch(&mut self, key: &str) -> Result<bool, InvalidFleet> {
        match self.take(key) {
            None | Some("on") => Ok(true),
            Some("off") => Ok(false),
            Some(value) => Err(InvalidFleet(format!("`{key}={value}`: on or off is needed"))),
        }
    }

    fn nothing_left(self) -> Result<(), InvalidFleet> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(key) => Err(InvalidFleet(format!("unknown key `{key}`; known are {KNOWN}"))),
        }
    }
}

const KNOWN: &str = "addresses, profile, model, lora, engine, kv_tokens, block_size, max_num_seqs, \
                     max_num_batched_tokens, max_model_len, max_loras, max_queued, answer_tokens, prefix_caching, \
                     prompt_tokens_details, step_ms, token_us";

impl FromStr for FleetGroup {
    type Err = InvalidFleet;

    fn from_str(text: &str) -> Result<Self, InvalidFleet> {
        let mut keys = Keys::parse(text)?;
        let addresses = keys
            .take("addresses")
            .ok_or_else(|| InvalidFleet("`addresses` is missing".to_owned()))?;
        let addresses = AddressRange::parse_all(addresses).map_err(InvalidFleet)?;
        let server = model_server(&mut keys)?;
        keys.nothing_left()?;
        Ok(Self {
            addresses: addresses.iter().flat_map(AddressRange::iter).collect(),
            server,
        })
    }
}

fn model_server(keys: &mut Keys<'_>) -> Result<ModelServer, InvalidFleet> {
    let profile = the_profile(keys)?;
    let kind = match keys.take("engine") {
        None | Some("vllm") => EngineKind::Vllm,
        Some("sglang") => EngineKind::Sglang,
        Some(other) => return Err(InvalidFleet(format!("`engine={other}`: vllm or sglang is needed"))),
    };
    let model = keys.take("model").unwrap_or(profile.model).to_owned();
    let adapters: Vec<String> = keys
        .take("lora")
        .map(|names| names.split('+').map(str::to_owned).collect())
        .unwrap_or_default();
    if let Some(name) = adapters.iter().find(|name| name.is_empty() || **name == model) {
        return Err(InvalidFleet(format!(
            "`lora`: `{name}` cannot be the name of an adapter of `{model}`"
        )));
    }
    let engine = engine(keys, profile)?;
    let cache_tokens = engine.blocks.saturating_mul(engine.block_size);
    let max_model_len = match keys.count("max_model_len")? {
        None => profile.max_model_len.min(cache_tokens),
        Some(length) if length <= cache_tokens => length,
        Some(length) => {
            let message = format!("`max_model_len={length}` does not fit a KV cache of {cache_tokens} tokens");
            return Err(InvalidFleet(message));
        }
    };
    Ok(ModelServer {
        model,
        adapters,
        kind,
        profile: profile.name,
        engine,
        max_model_len,
        answer_tokens: keys.count("answer_tokens")?.unwrap_or(profile.answer_tokens),
        prompt_tokens_details: keys.switch("prompt_tokens_details")?,
    })
}

fn the_profile(keys: &mut Keys<'_>) -> Result<&'static Profile, InvalidFleet> {
    let names = || {
        PROFILES
            .iter()
            .map(|profile| profile.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let name = keys
        .take("profile")
        .ok_or_else(|| InvalidFleet(format!("`profile` is missing; there are {}", names())))?;
    profile::named(name).ok_or_else(|| InvalidFleet(format!("`profile={name}` is unknown; there are {}", names())))
}

fn engine(keys: &mut Keys<'_>, profile: &Profile) -> Result<EngineConfig, InvalidFleet> {
    let mut timing = profile.timing;
    timing.overhead_ns = keys.time("step_ms", 1e6, timing.overhead_ns)?;
    timing.token_ns = keys.time("token_us", 1e3, timing.token_ns)?;
    let block_size = keys.count("block_size")?.unwrap_or(profile.block_size);
    let kv_tokens = keys.count("kv_tokens")?.unwrap_or(profile.kv_tokens);
    let blocks = kv_tokens / block_size;
    if block_size > 1 << 16 || blocks == 0 || blocks > 1 << 24 {
        let message = format!(
            "`kv_tokens={kv_tokens}` in blocks of `block_size={block_size}`: 1 to 16777216 blocks of at \
                               most 65536 tokens are needed"
        );
        return Err(InvalidFleet(message));
    }
    Ok(EngineConfig {
        timing,
        blocks,
        block_size,
        max_num_seqs: keys.count("max_num_seqs")?.unwrap_or(profile.max_num_seqs),
        max_num_batched_tokens: keys
            .count("max_num_batched_tokens")?
            .unwrap_or(profile.max_num_batched_tokens),
        max_loras: keys.count("max_loras")?.unwrap_or(4),
        max_queued: keys.count("max_queued")?.unwrap_or(8192),
        prefix_caching: keys.switch("prefix_caching")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(text: &str) -> Result<FleetGroup, String> {
        text.parse().map_err(|error: InvalidFleet| error.to_string())
    }

    #[test]
    fn a_profile_is_changed_by_keys() {
        let text = "addresses=127.0.1.1-127.0.1.8,profile=h100-llama3-8b,model=chat,lora=a+b,kv_tokens=65536,step_ms=2";
        let group = group(text).unwrap();
        assert_eq!(group.addresses.len(), 8);
        assert_eq!((group.server.model.as_str(), group.server.adapters.len()), ("chat", 2));
        assert_eq!((group.server.engine.blocks, group.server.max_model_len), (4096, 65536));
        assert_eq!(group.server.engine.timing.overhead_ns, 2e6);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let base = "addresses=127.0.1.1,profile=test-nodelay";
        let error = |more: &str| group(&format!("{base}{more}")).unwrap_err();
        assert!(error(",modle=x").starts_with("unknown key `modle`"));
        assert!(error(",model=a,model=b").contains("given twice"));
        assert!(error(",model=").contains("no value"));
        assert!(error(",engine=tgi").contains("vllm or sglang"));
        assert!(error(",kv_tokens=0").contains("`kv_tokens=0`"));
        assert!(error(",kv_tokens=100").contains("blocks"));
        assert!(error(",kv_tokens=2048,max_model_len=4096").contains("does not fit"));
        assert!(error(",lora=nodelay").contains("adapter"));
        assert!(error(",step_ms=-1").contains("from 0 on"));
        assert!(
            group("profile=test-nodelay")
                .unwrap_err()
                .contains("`addresses` is missing")
        );
        assert!(
            group("addresses=127.0.1.1,profile=b200")
                .unwrap_err()
                .contains("h100-llama3-8b")
        );
    }
}
