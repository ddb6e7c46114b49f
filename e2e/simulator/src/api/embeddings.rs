//! `/v1/embeddings`: unit vectors that depend on the prompt alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use twox_hash::XxHash3_64;

use super::json::{Json, object};
use super::request::Ask;
use super::{Choice, Heading, Usage};

/// A vector of length one; its direction is drawn from `seed`.
fn vector(seed: u64, dimensions: u32) -> Vec<f32> {
    let draw = |index: u32| {
        let hash = XxHash3_64::oneshot_with_seed(seed, &index.to_le_bytes());
        // The upper 24 bits make an exact f32 from -1 to 1.
        (hash >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let drawn: Vec<f32> = (0..dimensions).map(draw).collect();
    let length = drawn
        .iter()
        .map(|number| number * number)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    drawn.into_iter().map(|number| number / length).collect()
}

pub(super) fn plain(ask: &Ask, heading: &Heading, choices: &[Choice], usage: Usage) -> Json {
    let entry = |(index, choice): (usize, &Choice)| {
        let vector = vector(choice.seed, ask.dimensions);
        let embedding = if ask.base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            Json::from(STANDARD.encode(bytes))
        } else {
            Json::from(vector)
        };
        object! {"index": index, "object": "embedding", "embedding": embedding}
    };
    object! {
        "id": format!("embd-{}", heading.id), "object": "list", "created": heading.created, "model": heading.model.as_str(),
        "data": choices.iter().enumerate().map(entry).collect::<Vec<_>>(), "usage": usage.plain(heading),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_and_differ() {
        let one = vector(1, 64);
        assert!((one.iter().map(|number| number * number).sum::<f32>() - 1.0).abs() < 1e-5);
        assert_ne!(one, vector(2, 64));
        assert_eq!(vector(1, 3).len(), 3);
    }
}
