//! Token counts: as an answer spells them, and as all APIs mean them.

/// Token counts as the engine reported them; `None` is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, those that came from a cache included.
    pub input_tokens: Option<u64>,
    /// Tokens generated.
    pub output_tokens: Option<u64>,
    /// Those of `input_tokens` that the engine had in its cache.
    pub cached_tokens: Option<u64>,
}

/// Counts as they are spelled in an answer; a later report replaces an earlier one, field by field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) input: Option<u64>,
    pub(super) output: Option<u64>,
    pub(super) cached: Option<u64>,
    /// Anthropic counts these two apart from `input_tokens`.
    pub(super) cache_read: Option<u64>,
    pub(super) cache_creation: Option<u64>,
}

impl Counts {
    pub(super) fn update(&mut self, newer: Self) {
        self.input = newer.input.or(self.input);
        self.output = newer.output.or(self.output);
        self.cached = newer.cached.or(self.cached);
        self.cache_read = newer.cache_read.or(self.cache_read);
        self.cache_creation = newer.cache_creation.or(self.cache_creation);
    }

    pub(super) fn usage(self) -> Usage {
        let apart = self
            .cache_read
            .unwrap_or(0)
            .saturating_add(self.cache_creation.unwrap_or(0));
        Usage {
            input_tokens: self.input.map(|input| input.saturating_add(apart)),
            output_tokens: self.output,
            cached_tokens: self.cached.or(self.cache_read),
        }
    }
}
