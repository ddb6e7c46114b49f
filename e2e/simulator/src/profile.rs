//! What a profile says of a GPU and a model: how long a step takes, and how much the KV cache holds.
//!
//! One step of an engine reads all weights and the context of every sequence in the batch from memory, and computes
//! every token of the batch. Whichever takes longer decides (the roofline model):
//!
//! `step = overhead + max(weights + context_tokens × context_token, batch_tokens × token)`
//!
//! The figures are arithmetic on data sheets, not measurements, and say so in `source`. What they must get right is the
//! proportions: prefill is bound by arithmetic and decode by memory, a cached prefix costs nothing, batching is nearly
//! free until the batch is bound by arithmetic.

use std::time::Duration;

/// How long a step takes. See the formula above; nanoseconds, finite and not negative.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// Launching kernels, scheduling and sampling.
    pub overhead_ns: f64,
    /// Reading the weights once.
    pub weights_ns: f64,
    /// Reading the keys and values of one token of context.
    pub context_token_ns: f64,
    /// Computing one token.
    pub token_ns: f64,
}

impl Timing {
    /// The same times `factor` as long.
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        Self {
            overhead_ns: self.overhead_ns * factor,
            weights_ns: self.weights_ns * factor,
            context_token_ns: self.context_token_ns * factor,
            token_ns: self.token_ns * factor,
        }
    }

    /// How long a step takes that computes `batch_tokens` over `context_tokens`, times `factor`.
    pub(crate) fn step(&self, batch_tokens: u64, context_tokens: u64, factor: f64) -> Duration {
        let memory = self.weights_ns + context_tokens as f64 * self.context_token_ns;
        let arithmetic = batch_tokens as f64 * self.token_ns;
        let nanoseconds = (self.overhead_ns + memory.max(arithmetic)) * factor;
        // The conversion saturates, so no figure can make it fail.
        Duration::from_nanos(nanoseconds as u64)
    }
}

/// A GPU and a model, as an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// The name in `--fleet profile=NAME`.
    pub name: &'static str,
    /// The model that is served unless `model=` says otherwise.
    pub model: &'static str,
    /// Where the figures come from.
    pub source: &'static str,
    /// Times.
    pub timing: Timing,
    /// Tokens that the KV cache holds.
    pub kv_tokens: u32,
    /// Tokens in a block of the KV cache.
    pub block_size: u32,
    /// Sequences in a batch (vLLM's `--max-num-seqs`).
    pub max_num_seqs: u32,
    /// Tokens in a step (vLLM's `--max-num-batched-tokens`), which cuts long prefills into chunks.
    pub max_num_batched_tokens: u32,
    /// Tokens of prompt and answer together.
    pub max_model_len: u32,
    /// Tokens of an answer whose request names no limit.
    pub answer_tokens: u32,
}

/// All profiles.
///
/// The arithmetic: weights and context are read at 70 % of the data sheet's memory bandwidth; a token costs 2 FLOP per
/// parameter at 50 % of the dense bf16 rate; the cache has what is left of 92 % of the memory after weights and 3 GB
/// (H100) or 1.5 GB (L4) of activations; the overhead of a step is taken as 1 ms.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "h100-llama3-8b",
        model: "meta-llama/Llama-3.1-8B-Instruct",
        source: "arithmetic: H100 SXM 80 GB data sheet (3.35 TB/s, 989 TFLOP/s bf16 dense); 8.03e9 parameters, 16.06 GB \
                 in bf16; 32 layers x 8 KV heads x 128 x 2 x 2 B = 131,072 B of KV per token",
        timing: Timing {
            overhead_ns: 1e6,
            weights_ns: 6.85e6,
            context_token_ns: 55.9,
            token_ns: 32_500.0,
        },
        kv_tokens: 416_000,
        block_size: 16,
        max_num_seqs: 256,
        max_num_batched_tokens: 8192,
        max_model_len: 131_072,
        answer_tokens: 128,
    },
    Profile {
        name: "l4-qwen2-7b",
        model: "Qwen/Qwen2-7B-Instruct",
        source: "arithmetic: L4 24 GB data sheet (300 GB/s, 121 TFLOP/s bf16 dense); 7.62e9 parameters, 15.24 GB in \
                 bf16; 28 layers x 4 KV heads x 128 x 2 x 2 B = 57,344 B of KV per token",
        timing: Timing {
            overhead_ns: 1e6,
            weights_ns: 72.6e6,
            context_token_ns: 273.0,
            token_ns: 252_000.0,
        },
        kv_tokens: 93_000,
        block_size: 16,
        max_num_seqs: 256,
        max_num_batched_tokens: 2048,
        max_model_len: 32_768,
        answer_tokens: 128,
    },
    Profile {
        name: "test-nodelay",
        model: "nodelay",
        source: "no hardware: every step takes no time, so that what is measured is everything else; with itl_ms=4 \
                 answers stream a token every 4 ms",
        timing: Timing {
            overhead_ns: 0.0,
            weights_ns: 0.0,
            context_token_ns: 0.0,
            token_ns: 0.0,
        },
        kv_tokens: 16 << 20,
        block_size: 256,
        max_num_seqs: 4096,
        max_num_batched_tokens: u32::MAX,
        max_model_len: 16 << 20,
        answer_tokens: 8,
    },
];

/// The profile of that name.
pub(crate) fn named(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(profile: &str, batch_tokens: u64, context_tokens: u64) -> f64 {
        named(profile)
            .unwrap()
            .timing
            .step(batch_tokens, context_tokens, 1.0)
            .as_secs_f64()
            * 1e3
    }

    #[test]
    fn decode_is_bound_by_memory_and_prefill_by_arithmetic() {
        assert!((7.8..7.9).contains(&milliseconds("h100-llama3-8b", 1, 100)));
        let batch = milliseconds("h100-llama3-8b", 64, 64 * 1000);
        assert!(
            (11.0..12.0).contains(&batch),
            "64 sequences of 1,000 tokens cost half as much again: {batch}"
        );
        let prefill = milliseconds("h100-llama3-8b", 8192, 8192);
        assert!(
            (260.0..275.0).contains(&prefill),
            "8,192 tokens at 30,000 tokens/s: {prefill}"
        );
    }

    #[test]
    fn no_delay_is_no_delay() {
        assert_eq!(milliseconds("test-nodelay", 1_000_000, 1_000_000), 0.0);
    }
}
