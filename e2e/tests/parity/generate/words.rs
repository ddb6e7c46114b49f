//! What people and programs write into prompts.

use super::draws::Draws;

const WORDS: [&str; 40] = [
    "the",
    "tide",
    "carries",
    "seven",
    "letters",
    "home",
    "before",
    "winter",
    "and",
    "nobody",
    "asks",
    "why",
    "a",
    "lamp",
    "stays",
    "lit",
    "naïve",
    "café",
    "Zürich",
    "東京",
    "привет",
    "שלום",
    "😀",
    "👩‍🚀",
    "say \"yes\"",
    "C:\\temp",
    "a/b",
    "tab\there",
    "line\nbreak",
    "bell\u{7}",
    "sep\u{2028}",
    "x²",
    "{\"model\":\"fake\"}",
    "</s>",
    "0.1e-2",
    "null",
    "[INST]",
    "\u{0}nul",
    "e\u{301}",
    "𝔘𝔫𝔦",
];

const PLAIN: usize = 16;

impl Draws {
    /// A text of so many words, of which some are odd.
    pub(crate) fn text(&mut self, words: usize) -> String {
        let mut text = String::new();
        for _ in 0..words {
            let pool = if self.percent(70) { &WORDS[..PLAIN] } else { &WORDS[..] };
            if !text.is_empty() {
                text.push(' ');
            }
            let word: &str = self.one::<&str>(pool);
            text.push_str(word);
        }
        text
    }

    /// A short text.
    pub(crate) fn sentence(&mut self) -> String {
        let words = 2 + self.below(8);
        self.text(words)
    }

    /// A text of several prompt blocks.
    pub(crate) fn paragraph(&mut self) -> String {
        let words = 30 + self.below(60);
        self.text(words)
    }

    /// Token ids.
    pub(crate) fn ids(&mut self, count: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(128_000) as u32).collect()
    }
}
