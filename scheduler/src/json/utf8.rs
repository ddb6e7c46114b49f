//! UTF-8 across cuts.
//!
//! All of a JSON text must be UTF-8, so whole chunks are validated before they are scanned, at the speed of a plain pass.
//! A sequence that the end of a chunk cuts is held back until it is complete: the scanner only ever sees valid text.

/// The beginning of a sequence whose end has not arrived.
#[derive(Debug, Clone, Default)]
pub(super) struct CutSequence {
    bytes: [u8; 4],
    len: usize,
}

/// What became of a cut sequence.
pub(super) enum Joined {
    /// Complete: the sequence, and how many bytes of the chunk went into it.
    Whole([u8; 4], usize, usize),
    /// The chunk was too short to complete it.
    Cut,
    /// No character begins like this.
    Invalid,
}

impl CutSequence {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Holds `bytes` back, which [`cut_suffix`] found; at most three.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.len = 0;
        for (slot, byte) in self.bytes.iter_mut().zip(bytes) {
            *slot = *byte;
            self.len += 1;
        }
    }

    /// Completes the sequence from the start of `chunk`.
    pub(super) fn join(&mut self, chunk: &[u8]) -> Joined {
        for (used, byte) in chunk.iter().enumerate() {
            let Some(slot) = self.bytes.get_mut(self.len) else {
                return Joined::Invalid;
            };
            *slot = *byte;
            self.len += 1;
            match std::str::from_utf8(&self.bytes[..self.len]) {
                Ok(_) => {
                    let len = std::mem::take(&mut self.len);
                    return Joined::Whole(self.bytes, len, used + 1);
                }
                Err(error) if error.error_len().is_some() => return Joined::Invalid,
                Err(_) => {}
            }
        }
        Joined::Cut
    }
}

/// How many bytes at the end of `chunk` begin a sequence that goes on behind it.
pub(super) fn cut_suffix(chunk: &[u8]) -> usize {
    for (index, byte) in chunk.iter().rev().take(3).enumerate() {
        let whole = match byte {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xFF => 4,
            _ => 1,
        };
        return if index + 1 < whole { index + 1 } else { 0 };
    }
    0
}
