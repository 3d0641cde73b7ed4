//! Floating-point numbers as strings, as Redis reads, adds and writes them.
//!
//! Redis computes in the 80-bit format of x87, which is why 0.1 and 0.2 make 0.3 there, and writes
//! at most 17 decimals. The arithmetic is [`rustc_apfloat`]'s, the same on every machine. The text
//! is read by `strtold`'s rules in the C locale, and written as `%.17Lf` without trailing zeros.

use std::fmt::Write;

use rustc_apfloat::ieee::X87DoubleExtended;
use rustc_apfloat::{Float as _, Round};

/// A text from this length on is no number to Redis.
const MAX_TEXT: usize = 5 * 1024;

/// Decimals that are written at most.
const DECIMALS: usize = 17;
const SCALE: u128 = 10_u128.pow(DECIMALS as u32);

/// A number of 80 bits; infinite perhaps, but never NaN.
#[derive(Clone, Copy)]
pub(super) struct Float(X87DoubleExtended);

impl Float {
    pub(super) fn from_integer(number: i64) -> Self {
        // 64 bits of significand hold every `i64`.
        Self(X87DoubleExtended::from_i128(number.into()).value)
    }

    /// The number that all of `text` is. What is too large or too close to zero is none.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() >= MAX_TEXT {
            return None;
        }
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        let value = match text {
            _ if text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity") => {
                X87DoubleExtended::INFINITY
            }
            [b'0', b'x' | b'X', rest @ ..] => Numeral::read(rest, true)?.value()?,
            _ => Numeral::read(text, false)?.value()?,
        };
        Some(Self(if negative { -value } else { value }))
    }

    /// The sum, unless it is infinite or NaN.
    pub(super) fn checked_add(self, other: Self) -> Option<Self> {
        let sum = self.0.add_r(other.0, Round::NearestTiesToEven).value;
        sum.is_finite().then_some(Self(sum))
    }

    /// The decimal form of a finite number.
    pub(super) fn to_text(self) -> String {
        let bits = self.0.to_bits();
        let significand = u128::from(bits as u64);
        let exponent = (bits >> 64) as i32 & 0x7fff;
        // The value is the significand times two to this power.
        let power = exponent.max(1) - 16_383 - 63;
        let mut text = String::from(if self.0.is_negative() { "-" } else { "" });
        match u32::try_from(power) {
            Ok(power) => write_shifted(&mut text, significand, power),
            Err(_) => {
                let scaled = round_shift(significand * SCALE, power.unsigned_abs());
                // Infallible: the target is a string.
                let _ = write!(text, "{}", scaled / SCALE);
                let decimals = scaled % SCALE;
                if decimals > 0 {
                    let _ = write!(text, ".{decimals:0DECIMALS$}");
                    text.truncate(text.trim_end_matches('0').len());
                }
            }
        }
        if text == "-0" {
            text.remove(0);
        }
        text
    }
}

/// `number` divided by two to the power of `shift`, above zero, rounded to nearest, ties to even.
fn round_shift(number: u128, shift: u32) -> u128 {
    // `number` is below 2^121: with a larger shift, less than a half is left.
    if shift >= u128::BITS {
        return 0;
    }
    let (whole, rest, half) = (
        number >> shift,
        number & ((1 << shift) - 1),
        1 << (shift - 1),
    );
    whole + u128::from(rest > half || (rest == half && whole % 2 == 1))
}

/// Writes `number` times two to the power of `shift`.
fn write_shifted(text: &mut String, number: u128, shift: u32) {
    // Limbs of eighteen digits, the lowest first: one times 2^60 and a carry fit 128 bits.
    const LIMB: u128 = 10_u128.pow(18);
    let mut limbs = vec![number % LIMB, number / LIMB];
    let mut left = shift;
    while left > 0 {
        let step = left.min(60);
        left -= step;
        let mut carry = 0;
        for limb in &mut limbs {
            let shifted = (*limb << step) + carry;
            (*limb, carry) = (shifted % LIMB, shifted / LIMB);
        }
        if carry > 0 {
            limbs.push(carry);
        }
    }
    while limbs.len() > 1 && limbs.last() == Some(&0) {
        limbs.pop();
    }
    for (i, limb) in limbs.iter().rev().enumerate() {
        let digits = if i == 0 { 0 } else { 18 };
        let _ = write!(text, "{limb:0digits$}");
    }
}

/// A numeral without sign.
struct Numeral {
    hex: bool,
    /// The digits, without leading zeros and without the point.
    digits: String,
    /// How many of them, leading zeros included, stand after the point.
    decimals: i64,
    exponent: i64,
}

impl Numeral {
    /// Reads all of `text`: digits with perhaps a point among them, and perhaps an exponent.
    fn read(text: &[u8], hex: bool) -> Option<Self> {
        let is_digit = |byte: &u8| match hex {
            true => byte.is_ascii_hexdigit(),
            false => byte.is_ascii_digit(),
        };
        let marks = if hex { *b"pP" } else { *b"eE" };
        let (digits, exponent) = match text.iter().position(|byte| marks.contains(byte)) {
            Some(at) => (&text[..at], Self::read_exponent(&text[at + 1..])?),
            None => (text, 0),
        };
        let point = digits.iter().position(|&byte| byte == b'.');
        let (whole, part) = match point {
            Some(at) => (&digits[..at], &digits[at + 1..]),
            None => (digits, &[][..]),
        };
        let all = || whole.iter().chain(part);
        if all().next().is_none() || !all().all(is_digit) {
            return None;
        }
        let significant = all().skip_while(|&&byte| byte == b'0');
        Some(Self {
            hex,
            digits: significant.map(|&byte| char::from(byte)).collect(),
            decimals: part.len() as i64,
            exponent,
        })
    }

    fn read_exponent(text: &[u8]) -> Option<i64> {
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        // A thousand times what any text of the permitted length could make up for.
        const MOST: i64 = 100_000_000;
        let exponent = digits.iter().fold(0, |sum: i64, byte| {
            (sum * 10 + i64::from(byte - b'0')).min(MOST)
        });
        Some(if negative { -exponent } else { exponent })
    }

    /// The number, correctly rounded, unless it overflows or becomes zero.
    fn value(self) -> Option<X87DoubleExtended> {
        if self.digits.is_empty() {
            return Some(X87DoubleExtended::ZERO);
        }
        let text = match self.hex {
            true => format!("0x{}p{}", self.digits, self.exponent - 4 * self.decimals),
            false => format!("{}e{}", self.digits, self.exponent - self.decimals),
        };
        let parsed = X87DoubleExtended::from_str_r(&text, Round::NearestTiesToEven);
        let value = parsed.ok()?.value;
        value.is_finite_non_zero().then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_128_bits_are_written_in_full() {
        let two_to = |power: &str| Float::parse(format!("0x1p{power}").as_bytes()).unwrap();
        assert_eq!(two_to("0").to_text(), "1");
        assert_eq!(two_to("63").to_text(), "9223372036854775808");
        assert_eq!(
            two_to("200").to_text(),
            "1606938044258990275541962092341162602522202993782792835301376"
        );
        assert_eq!(two_to("16383").to_text().len(), 4932);
    }

    #[test]
    fn the_last_decimal_is_rounded_to_even() {
        assert_eq!(round_shift(0b101, 1), 0b10);
        assert_eq!(round_shift(0b111, 1), 0b100);
        assert_eq!(round_shift(0b1011, 2), 0b11);
        assert_eq!(round_shift(u128::MAX, 128), 0);
    }

    #[test]
    fn integers_are_exact() {
        for number in [0, 1, -1, i64::MAX, i64::MIN, 1 << 53, (1 << 62) + 1] {
            assert_eq!(Float::from_integer(number).to_text(), number.to_string());
        }
    }
}
