//! How much of a prompt each candidate holds: the result of a look-up, by slot.
//!
//! What must always hold: only slots that were admitted for this look-up get credit. Marks of former look-ups are told
//! apart by a round number, so that nothing is cleared between them.

/// Blocks held, by slot index. Reused from request to request.
#[derive(Debug, Default)]
pub struct Overlap {
    marks: Vec<Mark>,
    round: u32,
    admitted: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    round: u32,
    blocks: u32,
}

impl Overlap {
    /// Starts a new look-up.
    pub fn begin(&mut self) {
        self.admitted = 0;
        self.round = match self.round.checked_add(1) {
            Some(round) => round,
            None => {
                self.marks.clear();
                1
            }
        };
    }

    /// Lets the endpoint of this slot be found.
    pub fn admit(&mut self, slot: u32) {
        let at = slot as usize;
        if at >= self.marks.len() {
            self.marks.resize(at + 1, Mark::default());
        }
        self.marks[at] = Mark {
            round: self.round,
            blocks: 0,
        };
        self.admitted += 1;
    }

    /// Blocks that the endpoint of this slot holds.
    pub fn blocks(&self, slot: u32) -> u32 {
        match self.marks.get(slot as usize) {
            Some(mark) if mark.round == self.round => mark.blocks,
            _ => 0,
        }
    }

    /// How many endpoints can be found.
    pub(super) fn admitted(&self) -> u32 {
        self.admitted
    }

    /// Credits an endpoint with the longest beginning it holds; whether it had none so far and can be found.
    pub(super) fn credit(&mut self, slot: u32, blocks: u32) -> bool {
        match self.marks.get_mut(slot as usize) {
            Some(mark) if mark.round == self.round && mark.blocks == 0 => {
                mark.blocks = blocks;
                true
            }
            _ => false,
        }
    }
}
