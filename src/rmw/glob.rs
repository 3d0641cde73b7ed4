//! Patterns for keys, as Redis's `KEYS` and `SCAN` take them.
//!
//! `*` is any bytes, `?` any one, `[a-cx]` one of a class, `[^…]` one outside it, and a backslash
//! takes the next byte as it is. Only the last star is ever gone back to: what those before it took
//! is as good as anything else they could have taken. So a match costs no more than the product of
//! the two lengths.

/// Whether all of `text` matches.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        // Redis's rule: of the patterns for any bytes, one star alone matches nothing at all.
        return matches!(pattern, [] | [b'*']);
    }
    let (mut pattern, mut text) = (pattern, text);
    // The pattern after the last star, and the text where that was tried last.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        let next = match (pattern, text) {
            ([b'*', rest @ ..], _) => {
                star = Some((rest, text));
                pattern = rest;
                continue;
            }
            ([], []) => return true,
            (_, []) => return false,
            (_, [byte, after @ ..]) => one(pattern, *byte).map(|rest| (rest, after)),
        };
        (pattern, text) = match (next, star) {
            (Some(next), _) => next,
            (None, Some((rest, [_, later @ ..]))) => {
                star = Some((rest, later));
                (rest, later)
            }
            (None, _) => return false,
        };
    }
}

/// The rest of the pattern, if what it begins with matches `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (matched, rest) = match pattern {
        [] => return None,
        [b'?', rest @ ..] => (true, rest),
        [b'[', rest @ ..] => class(rest, byte),
        [b'\\', escaped, rest @ ..] => (*escaped == byte, rest),
        [literal, rest @ ..] => (*literal == byte, rest),
    };
    matched.then_some(rest)
}

/// Whether the class that `pattern` begins with, after its bracket, has `byte`; and what follows
/// it. The end of the pattern ends a class, and the end of a range may be its bracket.
fn class(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let mut found = false;
    loop {
        rest = match rest {
            [b'\\', escaped, rest @ ..] => {
                found |= *escaped == byte;
                rest
            }
            [b']', rest @ ..] => return (found != negated, rest),
            [] => return (found != negated, rest),
            &[from, b'-', to, ref rest @ ..] => {
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                rest
            }
            [literal, rest @ ..] => {
                found |= *literal == byte;
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("**", "", false),
            ("", "a", false),
            ("*", "abc", true),
            ("**", "abc", true),
            ("a*", "a", true),
            ("a*c", "abcbc", true),
            ("a*c", "abcb", false),
            ("*a*b*", "xxaxxbxx", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hallo", true),
            ("[a-]", "_", true),
            ("[a-]x", "_", true),
            ("[a-]x", "_x", false),
            ("[abc", "b", true),
            ("[^", "x", true),
            ("[", "[", false),
            ("[]", "]", false),
            ("[^]", "x", true),
            ("[\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("a?", "a", false),
            ("?*?", "ab", true),
            ("?*?", "a", false),
        ] {
            let matched = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(matched, expected, "{pattern:?} and {text:?}");
        }
    }

    #[test]
    fn many_stars_cost_no_more_than_the_product_of_the_lengths() {
        // With a branch for every star this would not end.
        let pattern = "a*".repeat(1_000) + "b";
        assert!(!matches(pattern.as_bytes(), &[b'a'; 20_000]));
    }
}
