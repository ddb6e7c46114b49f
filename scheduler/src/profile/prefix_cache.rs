//! `prefix-cache`: prefers endpoints that already hold the beginning of the prompt: `100 * matched / total` blocks.
//!
//! Without a prompt it has no opinion. `maxBlocksToMatch` bounds the part of the prompt that is looked at; unset (or
//! null), the whole prompt counts, where Kthena looks at the first 8 KiB by default.

use std::num::NonZeroU32;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::plugin::{Candidates, Refusal, Score, UNSCORED, parse};
use super::residency::Residency;

/// Bytes in a block that make sense: from two tokens to a page of text.
const BLOCK_BYTES: std::ops::RangeInclusive<u32> = 8..=65_536;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Args {
    #[serde(rename = "blockSizeToHash", default = "default_block")]
    block_bytes: NonZeroU32,
    #[serde(rename = "maxBlocksToMatch", default)]
    max_blocks: Option<NonZeroU32>,
    #[serde(rename = "maxHashCacheSize", default = "default_capacity")]
    capacity: NonZeroU32,
    #[serde(rename = "topKMatches", default = "default_top")]
    top: NonZeroU32,
}

const fn default_block() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(63)
}

const fn default_capacity() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(49_999)
}

const fn default_top() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(4)
}

#[derive(Debug)]
struct PrefixCache {
    residency: Residency,
}

pub(super) fn score(args: &Map<String, Value>) -> Result<Box<dyn Score>, Refusal> {
    let args: Args = parse(args)?;
    if !BLOCK_BYTES.contains(&args.block_bytes.get()) {
        return Err(format!(
            "blockSizeToHash is {}: it must lie between {} and {} bytes",
            args.block_bytes,
            BLOCK_BYTES.start(),
            BLOCK_BYTES.end()
        ));
    }
    Ok(Box::new(PrefixCache {
        residency: Residency {
            block_bytes: args.block_bytes,
            max_blocks: args.max_blocks,
            capacity: args.capacity,
            top: args.top,
        },
    }))
}

impl Score for PrefixCache {
    fn score(&self, candidates: &Candidates<'_>, points: &mut [f32]) {
        if candidates.total_blocks == 0 {
            points.fill(UNSCORED);
            return;
        }
        let points_per_block = 100.0 / candidates.total_blocks as f32;
        for (point, matched) in points.iter_mut().zip(candidates.matched) {
            *point = (*matched).min(candidates.total_blocks) as f32 * points_per_block;
        }
    }

    fn residency(&self) -> Option<&Residency> {
        Some(&self.residency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::View;

    fn plugin(json: &str) -> Result<Box<dyn Score>, Refusal> {
        score(&serde_json::from_str(json).unwrap())
    }

    fn points(matched: &[u32], total_blocks: u32) -> Vec<f32> {
        let mut points = vec![0.0; matched.len()];
        let candidates = Candidates {
            views: &vec![View::default(); matched.len()],
            matched,
            total_blocks,
            seed: 0,
        };
        plugin("{}").unwrap().score(&candidates, &mut points);
        points
    }

    #[test]
    fn points_are_the_share_of_the_prompt_that_is_held() {
        assert_eq!(points(&[0, 5, 20], 20), [0.0, 25.0, 100.0]);
    }

    #[test]
    fn without_a_prompt_there_is_no_opinion() {
        assert!(points(&[0, 0], 0).iter().all(|p| p.is_nan()));
    }

    #[test]
    fn defaults_are_kthenas_but_the_whole_prompt_counts() {
        let plugin = plugin(r#"{"maxBlocksToMatch":null}"#).unwrap();
        let residency = plugin.residency().unwrap();
        assert_eq!(
            (
                residency.block_bytes.get(),
                residency.capacity.get(),
                residency.top.get()
            ),
            (64, 50_000, 5)
        );
        assert_eq!(residency.max_blocks, None);
        assert_eq!(residency.capacity_of(None), 50_000);
        assert_eq!(residency.capacity_of(Some(16_000)), 1_000);
    }

    #[test]
    fn sizes_out_of_range_and_unknown_arguments_are_refused() {
        for bad in [
            r#"{"blockSizeToHash":0}"#,
            r#"{"blockSizeToHash":7}"#,
            r#"{"blockSizeToHash":65537}"#,
            r#"{"topKMatches":-1}"#,
            r#"{"maxBlocksToMatch":0}"#,
            r#"{"maxHashCacheSize":"many"}"#,
            r#"{"blockSize":64}"#,
        ] {
            assert!(plugin(bad).is_err(), "{bad}");
        }
    }
}
