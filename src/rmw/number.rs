//! Integers as strings: Redis's strict reading, and writing.

/// Room for the digits of any `i64`, with its sign.
pub(super) const DIGITS: usize = 20;

/// The number whose canonical decimal form `text` is.
///
/// Strict as Redis's `string2ll`: `parse` and [`digits`] are each other's inverse, so a string
/// that parses can be stored as a number and read back byte for byte.
#[inline]
pub(super) fn parse(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() < DIGITS => {}
        _ => return None,
    }
    // Nineteen digits fit a u64.
    let mut magnitude = 0_u64;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        magnitude = magnitude * 10 + u64::from(digit);
    }
    if negative {
        0_i64.checked_sub_unsigned(magnitude)
    } else {
        i64::try_from(magnitude).ok()
    }
}

/// The canonical decimal form and its length.
#[inline]
pub(super) fn digits(number: i64) -> ([u8; DIGITS], u8) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(number).as_bytes();
    let mut digits = [0; DIGITS];
    digits[..text.len()].copy_from_slice(text);
    (digits, text.len() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_an_integer() {
        for good in [
            "0",
            "1",
            "-1",
            "10",
            "9223372036854775807",
            "-9223372036854775808",
        ] {
            assert_eq!(
                parse(good.as_bytes()),
                Some(good.parse().unwrap()),
                "{good}"
            );
        }
        for bad in [
            "",
            "-",
            "+1",
            "-0",
            "00",
            "01",
            "-01",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "0x1",
            "1\0",
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551617",
            "99999999999999999999",
            "123456789012345678901234567890",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn digits_and_parse_are_inverse() {
        for number in [0, 7, -7, 1_000_000, i64::MAX, i64::MIN, i64::MIN + 1] {
            let (digits, len) = digits(number);
            assert_eq!(parse(&digits[..usize::from(len)]), Some(number));
        }
    }
}
