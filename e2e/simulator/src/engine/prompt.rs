//! Text to tokens, tokens to block hashes, and the text that an engine "generates".
//!
//! The tokenizer is four bytes of UTF-8 to one token (the usual rule of thumb for English), each segment of a prompt
//! apart, the last token of a segment padded. Generated tokens are words of exactly four bytes, and so come back as the
//! same tokens when a client sends an answer as part of its next prompt: multi-turn conversations hit the cache as they
//! do on a real engine. What must always hold: equal prefixes give equal hashes, and an engine's answer depends on the
//! prompt alone, never on who served it.

use twox_hash::XxHash3_64;

/// One token: four bytes of text.
pub(crate) type Token = u32;

/// The hash of a block's tokens and of all tokens before them. 64 bits: a collision is possible and harmless here.
pub(crate) type BlockHash = u64;

/// The words that answers are made of: four bytes each, nothing that JSON would escape.
const WORDS: [&str; 32] = [
    " the", " and", " you", " for", " are", " not", " but", " had", " was", " all", " any", " can", " her", " one",
    " our", " out", " day", " get", " has", " him", " how", " man", " new", " now", " old", " see", " two", " way",
    " who", " its", " did", " yes",
];

/// The tokens of one segment of text.
pub(crate) fn push_tokens(text: &str, tokens: &mut Vec<Token>) {
    let (whole, rest) = text.as_bytes().as_chunks::<4>();
    tokens.extend(whole.iter().map(|word| Token::from_le_bytes(*word)));
    if !rest.is_empty() {
        let mut word = [0; 4];
        word[..rest.len()].copy_from_slice(rest);
        tokens.push(Token::from_le_bytes(word));
    }
}

/// The word at place `index` of the answer to the prompt whose seed is `seed`.
pub(crate) fn word(seed: u64, index: u32) -> &'static str {
    let mixed = (seed ^ u64::from(index)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    WORDS[(mixed >> 59) as usize]
}

/// A tokenized prompt, hashed block by block; its answer is appended to it as it is generated.
#[derive(Debug, Clone)]
pub(crate) struct Prompt {
    block_size: u32,
    salt: u64,
    seed: u64,
    prompt_tokens: u32,
    generated: u32,
    hashes: Vec<BlockHash>,
    tail: Vec<u8>,
}

impl Prompt {
    /// Hashes `tokens` in blocks of `block_size`. Prompts of different `salt` (adapter, cache salt) share no block.
    pub(crate) fn new(tokens: &[Token], block_size: u32, salt: u64) -> Self {
        let mut prompt = Self {
            block_size,
            salt,
            seed: 0,
            prompt_tokens: tokens.len() as u32,
            generated: 0,
            hashes: Vec::with_capacity(tokens.len() / block_size as usize),
            tail: Vec::with_capacity(block_size as usize * 4),
        };
        for block in tokens.chunks(block_size as usize) {
            prompt.push_block(block);
        }
        prompt.seed = XxHash3_64::oneshot_with_seed(prompt.parent(), &prompt.tail);
        prompt
    }

    /// What the answer's words are drawn from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Tokens of the prompt alone.
    pub(crate) fn prompt_tokens(&self) -> u32 {
        self.prompt_tokens
    }

    /// Tokens generated so far.
    pub(crate) fn generated(&self) -> u32 {
        self.generated
    }

    /// Tokens of the prompt and of the answer so far.
    pub(crate) fn total_tokens(&self) -> u32 {
        self.prompt_tokens + self.generated
    }

    /// Hashes of all full blocks.
    pub(crate) fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }

    /// Appends the next token of the answer.
    pub(crate) fn generate(&mut self) {
        let [a, b, c, d] = word(self.seed, self.generated).as_bytes() else {
            return;
        };
        self.push(Token::from_le_bytes([*a, *b, *c, *d]));
        self.generated += 1;
    }

    fn parent(&self) -> u64 {
        self.hashes.last().copied().unwrap_or(self.salt)
    }

    /// Appends at most a block of tokens to full blocks: long prompts are hashed in pieces, not token by token.
    fn push_block(&mut self, tokens: &[Token]) {
        self.tail.resize(tokens.len() * 4, 0);
        for (bytes, token) in self.tail.chunks_exact_mut(4).zip(tokens) {
            bytes.copy_from_slice(&token.to_le_bytes());
        }
        self.hash_full_block();
    }

    fn push(&mut self, token: Token) {
        self.tail.extend_from_slice(&token.to_le_bytes());
        self.hash_full_block();
    }

    fn hash_full_block(&mut self) {
        if self.tail.len() == self.block_size as usize * 4 {
            self.hashes
                .push(XxHash3_64::oneshot_with_seed(self.parent(), &self.tail));
            self.tail.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        let mut tokens = Vec::new();
        push_tokens(text, &mut tokens);
        tokens
    }

    #[test]
    fn every_word_is_one_token_and_needs_no_escape() {
        for word in WORDS {
            assert_eq!(word.len(), 4);
            assert_eq!(tokens(word).len(), 1);
            assert_eq!(serde_json::to_string(word).unwrap().len(), 6);
        }
    }

    #[test]
    fn the_last_token_of_a_text_is_padded() {
        assert_eq!(tokens("").len(), 0);
        assert_eq!(tokens("abcd").len(), 1);
        assert_eq!(tokens("abcde").len(), 2);
    }

    #[test]
    fn an_answer_sent_back_continues_the_same_blocks() {
        let question = tokens("a question of some length");
        let mut first = Prompt::new(&question, 2, 0);
        let mut answer = String::new();
        for index in 0..9 {
            answer.push_str(word(first.seed(), index));
            first.generate();
        }
        let again = Prompt::new(&[question, tokens(&answer)].concat(), 2, 0);
        assert_eq!(first.hashes(), again.hashes());
        assert_eq!(first.total_tokens(), again.prompt_tokens());
    }

    #[test]
    fn salt_and_every_earlier_token_count() {
        let text = tokens("eight chars and more");
        let plain = Prompt::new(&text, 2, 0);
        assert_ne!(plain.hashes()[0], Prompt::new(&text, 2, 1).hashes()[0]);
        let mut changed = text.clone();
        changed[0] ^= 1;
        let changed = Prompt::new(&changed, 2, 0);
        assert!(plain.hashes().iter().zip(changed.hashes()).all(|(a, b)| a != b));
    }
}
