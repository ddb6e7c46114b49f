//! Escapes that are at hand as a whole: what they stand for, in UTF-8.
//!
//! Programs that write ASCII alone, as Python's do unless told otherwise, write every other character as `\uXXXX`, so that a
//! text may be nothing but these: up to four in a row are decoded at once, without a question for what each of them is. A
//! surrogate that stands alone becomes U+FFFD. What is no escape, and what may be cut, is not decoded.

use wide::bytemuck::cast;
use wide::{i32x4, u8x16, u16x8, u32x4};

/// Bytes that must be there from the beginning of an escape on: four of `\uXXXX`, the last of which is read as a word.
pub(super) const LONGEST: usize = 32;

/// Bytes of an escape of one UTF-16 unit.
pub(super) const UNIT: usize = 6;

/// A lone surrogate has no UTF-8 form.
const REPLACEMENT: u32 = char::REPLACEMENT_CHARACTER as u32;

/// Decodes the escape at the beginning of `bytes`, with its other half if it is one of a pair, into `buffer` from `filled` on,
/// where more may be written than counts. Returns how many bytes were read; 0 where it is wrong or cut.
#[inline(always)]
pub(super) fn decode(bytes: &[u8; LONGEST], buffer: &mut [u8], filled: &mut usize) -> usize {
    let letter = PLAIN[usize::from(bytes[1])];
    if letter != 0 {
        if let Some(place) = buffer.get_mut(*filled) {
            *place = letter;
        }
        *filled += 1;
        return 2;
    }
    let Some((character, read)) = one(bytes) else { return 0 };
    let mut utf8 = [0; 4];
    let length = char::from_u32(character)
        .unwrap_or(char::REPLACEMENT_CHARACTER)
        .encode_utf8(&mut utf8)
        .len();
    write(u32::from_le_bytes(utf8), length, buffer, filled);
    read
}

/// Writes the first bytes of a word.
#[inline(always)]
fn write(word: u32, length: usize, buffer: &mut [u8], filled: &mut usize) {
    if let Some(place) = buffer.get_mut(*filled..).and_then(|rest| rest.first_chunk_mut()) {
        *place = word.to_le_bytes();
    }
    *filled += length;
}

/// Whether `\uXXXX` is followed by another escape.
#[inline(always)]
pub(super) fn units_follow(bytes: &[u8; LONGEST]) -> bool {
    bytes[1] == b'u' && bytes[UNIT] == b'\\'
}

/// Decodes the first `count` of four escapes `\uXXXX` in a row, two at least, if their characters are two bytes each, or
/// three bytes each.
#[inline(always)]
pub(super) fn units(bytes: &[u8; LONGEST], count: usize, buffer: &mut [u8], filled: &mut usize) -> bool {
    let spelled: [u32; 4] = std::array::from_fn(|index| {
        let digits = bytes.get(index * UNIT + 2..).and_then(|rest| rest.first_chunk());
        u32::from_le_bytes(*digits.unwrap_or(&[0; 4]))
    });
    let spelled: u8x16 = cast(u32x4::new(spelled));
    let counts: u32x4 = COUNTS[count & 3];
    let digits = spelled - u8x16::splat(b'0');
    let letters = (spelled | u8x16::splat(0x20)) - u8x16::splat(b'a');
    let is_digit = digits.min(u8x16::splat(9)).simd_eq(digits);
    let is_letter = letters.min(u8x16::splat(5)).simd_eq(letters);
    let values: u16x8 = cast((digits & is_digit) | ((letters + u8x16::splat(10)) & is_letter));
    let pairs: u32x4 = cast(((values << 4) | (values >> 8)) & u16x8::splat(0xFF));
    let units: u32x4 = ((pairs << 8) | (pairs >> 16)) & u32x4::splat(0xFFFF);
    let surrogate_bits = units & u32x4::splat(0xF800);
    let is_surrogate: u32x4 = surrogate_bits.simd_eq(u32x4::splat(0xD800));
    let is_unit: u8x16 = cast(!counts | !is_surrogate);
    let is_other: u8x16 = cast(!counts);
    if ((is_digit | is_letter | is_other) & is_unit).to_bitmask() != 0xFFFF {
        return false;
    }
    let signed: i32x4 = cast(units);
    let [is_long, is_longer] = [0x7F, 0x7FF].map(|below| {
        let mask: i32x4 = signed.simd_gt(i32x4::splat(below));
        cast::<_, u32x4>(mask)
    });
    let last = (units & u32x4::splat(0x3F)) | u32x4::splat(0x80);
    let all = |mask: u32x4| cast::<_, u8x16>(mask | !counts).to_bitmask() == 0xFFFF;
    let (utf8, length): (u32x4, usize) = if all(is_longer) {
        let first = (units >> 12) | u32x4::splat(0xE0);
        let second = ((units << 2) & u32x4::splat(0x3F00)) | u32x4::splat(0x8000);
        (first | second | (last << 16), 3)
    } else if all(is_long & !is_longer) {
        (((units >> 6) | u32x4::splat(0xC0)) | (last << 8), 2)
    } else {
        return false;
    };
    let Some(place) = buffer.get_mut(*filled..).and_then(|rest| rest.first_chunk_mut::<16>()) else {
        return false;
    };
    for (index, utf8) in utf8.to_array().into_iter().enumerate() {
        if let Some(place) = place.get_mut(index * length..).and_then(|rest| rest.first_chunk_mut()) {
            *place = utf8.to_le_bytes();
        }
    }
    *filled += count * length;
    true
}

/// The lanes that count of so many; of four, where it is none.
static COUNTS: [u32x4; 4] = {
    const NO: u32 = 0;
    const YES: u32 = u32::MAX;
    [
        u32x4::new([YES, YES, YES, YES]),
        u32x4::new([YES, NO, NO, NO]),
        u32x4::new([YES, YES, NO, NO]),
        u32x4::new([YES, YES, YES, NO]),
    ]
};

/// The character of one `\uXXXX`, or of two that are a pair, and how many bytes it was read from.
#[inline(always)]
fn one(bytes: &[u8; LONGEST]) -> Option<(u32, usize)> {
    let [_, b'u', a, b, c, d, ..] = *bytes else { return None };
    match unit([a, b, c, d]) {
        high @ 0xD800..=0xDBFF => pair(bytes, high),
        0xDC00..=0xDFFF => Some((REPLACEMENT, UNIT)),
        unit @ 0..=0xFFFF => Some((unit, UNIT)),
        _ => None,
    }
}

/// The same where the first unit is the surrogate `high`.
fn pair(bytes: &[u8; LONGEST], high: u32) -> Option<(u32, usize)> {
    match bytes[UNIT..] {
        // Zeros stand behind the end of the bytes.
        [0, ..] | [b'\\', 0, ..] => None,
        [b'\\', b'u', a, b, c, d, ..] => match unit([a, b, c, d]) {
            low @ 0xDC00..=0xDFFF => Some((joined(high, low), 2 * UNIT)),
            0..=0xFFFF => Some((REPLACEMENT, UNIT)),
            _ => None,
        },
        _ => Some((REPLACEMENT, UNIT)),
    }
}

/// The code point of a pair of surrogates.
pub(super) fn joined(high: u32, low: u32) -> u32 {
    0x1_0000 + ((high & 0x3FF) << 10) + (low & 0x3FF)
}

/// The UTF-16 unit of four hexadecimal digits; more than 16 bits where one of them is none.
#[inline(always)]
fn unit(digits: [u8; 4]) -> u32 {
    let [a, b, c, d] = digits.map(|digit| HEX[usize::from(digit)]);
    a << 12 | b << 8 | c << 4 | d
}

/// What the one-letter escapes stand for; 0 for every other byte.
pub(super) static PLAIN: [u8; 256] = {
    let mut table = [0; 256];
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[b'/' as usize] = b'/';
    table[b'b' as usize] = 0x08;
    table[b'f' as usize] = 0x0C;
    table[b'n' as usize] = b'\n';
    table[b'r' as usize] = b'\r';
    table[b't' as usize] = b'\t';
    table
};

/// The values of hexadecimal digits; more than 16 bits, wherever it is shifted to, for every other byte.
static HEX: [u32; 256] = {
    let mut table = [0x1_0000; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit] as usize] = digit as u32;
        table[b"0123456789ABCDEF"[digit] as usize] = digit as u32;
        digit += 1;
    }
    table
};
