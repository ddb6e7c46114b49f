//! Numbers: the grammar, byte by byte.

use super::scan::{JsonScan, State, malformed};
use super::{Kind, Visit, Want};

/// How far a number has come; named for what was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Start,
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigit,
}

impl Number {
    pub(super) fn may_end(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigit)
    }

    /// The state after `byte`, if the number goes on with it.
    #[inline]
    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Start, b'-') => Self::Minus,
            (Self::Start | Self::Minus, b'0') => Self::Zero,
            (Self::Start | Self::Minus, b'1'..=b'9') => Self::Integer,
            (Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::Exponent,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Exponent, b'+' | b'-') => Self::ExponentSign,
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigit, b'0'..=b'9') => Self::ExponentDigit,
            _ => return None,
        })
    }
}

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
