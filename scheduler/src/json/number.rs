//! Numbers: the grammar, byte by byte.

use super::machine::{JsonScan, Number, State, malformed};
use super::{Kind, Visit, Want};

impl JsonScan {
    /// Reads a number from `pos` on, as far as it goes. Returns the position after it.
    pub(super) fn number<V: Visit>(
        &mut self,
        mut number: Number,
        bytes: &[u8],
        start: usize,
        visitor: &mut V,
    ) -> Result<usize, V::Error> {
        if number == Number::Start && self.want == Want::Ids {
            let after = self.ids(bytes, start, visitor);
            if after > start {
                return Ok(after);
            }
        }
        let mut pos = start;
        let mut ended = false;
        while let Some(&byte) = bytes.get(pos) {
            match number.next(byte) {
                Some(next) => number = next,
                None => {
                    ended = true;
                    break;
                }
            }
            pos += 1;
        }
        if self.want != Want::End {
            visitor.text(&bytes[start..pos]);
        }
        if !ended {
            self.state = State::InNumber(number);
            return Ok(pos);
        }
        let offset = self.base + pos as u64;
        if !number.may_end() {
            return Err(malformed(offset, "a digit").into());
        }
        self.value_ended(Kind::Number, offset, visitor)?;
        Ok(pos)
    }
}
