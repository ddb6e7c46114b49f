//! Text for prompts: English words in an order that comes from a seed, so that nobody has to fetch a data set to repeat a run.
//!
//! What must always hold: the same seed gives the same text, texts of other seeds differ within their first words, and no character needs
//! more than one byte.

const WORDS: [&str; 64] = [
    "river", "stone", "market", "letter", "window", "garden", "engine", "winter", "copper", "signal", "harbor",
    "method", "forest", "paper", "silver", "number", "bridge", "record", "summer", "valley", "kernel", "matrix",
    "branch", "vector", "planet", "candle", "mirror", "violin", "ladder", "basket", "anchor", "meadow", "orchard",
    "turbine", "compass", "lantern", "pattern", "cabinet", "journey", "station", "library", "mineral", "current",
    "quarter", "journal", "picture", "chapter", "climate", "measure", "balance", "texture", "voltage", "gravity",
    "element", "feather", "fabric", "ribbon", "saddle", "timber", "marble", "pepper", "walnut", "thunder", "glacier",
];

/// Words in an order that depends on the seed, exactly this many bytes.
#[must_use]
pub fn text(seed: u64, bytes: usize) -> String {
    let mut state = seed;
    let mut text = String::with_capacity(bytes + 8);
    while text.len() < bytes {
        // SplitMix64 (Steele, Lea and Flood 2014).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        text.push_str(WORDS[(mixed % WORDS.len() as u64) as usize]);
        text.push(' ');
    }
    text.truncate(bytes);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_text_of_the_length_asked_for() {
        assert_eq!(text(7, 600), text(7, 600));
        let neighbours = [text(7, 600), text(8, 600)];
        assert!(neighbours.iter().all(|text| text.len() == 600 && text.is_ascii()));
        assert_ne!(neighbours[0][..40], neighbours[1][..40]);
    }
}
