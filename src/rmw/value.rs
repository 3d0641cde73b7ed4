//! Values: immutable, typed, cheap to clone.
//!
//! A value is never changed in place while anybody else can see it: writers publish another one.
//! That is what lets a reader keep what it found without a lock. Sizes are chosen so that a key,
//! its value and its expiry fit one cache line: up to [`Bytes::INLINE`] bytes live in the value
//! itself, longer ones behind one shared allocation. Only a string that grew by an append keeps
//! spare room behind it, so that appending costs its own bytes and not the whole string's.

use std::fmt;
use std::ops::Deref;

use super::list::List;
use super::number;
use crate::sync::unmodelled::Arc;

/// What a key holds.
///
/// A string is either bytes or an integer; the two are one type to every command. An integer *is*
/// the string of its decimal digits, and two values are equal when their strings are. The
/// difference is cost: [`incr_by`](super::Rmw::incr_by) leaves an integer, so that the next
/// increment parses nothing.
///
/// A list is a type of its own, which no string command takes.
///
/// Cloning copies at most 24 bytes and counts a reference for longer strings and for lists.
///
/// ```
/// use latchwork::rmw::Value;
///
/// let number = Value::from(42);
/// assert_eq!(number, Value::from("42"));
/// assert_eq!(&*number.text(), b"42");
/// assert_eq!(Value::from("42").as_integer(), Some(42));
/// assert_eq!(Value::from("042").as_integer(), None);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Value {
    /// A string of bytes.
    Bytes(Bytes),
    /// A string that is the decimal form of this number.
    Integer(i64),
    /// A list. An empty one is stored as a missing key.
    List(Arc<List>),
}

impl Value {
    /// The string: borrowed, or the digits of an integer. A list has none: it is empty.
    ///
    /// ```
    /// # use latchwork::rmw::Value;
    /// assert_eq!(&*Value::from(-7).text(), b"-7");
    /// assert_eq!(&*Value::from("abc").text(), b"abc");
    /// ```
    #[inline]
    pub fn text(&self) -> Text<'_> {
        Text(match self {
            Value::Bytes(bytes) => Repr::Borrowed(bytes),
            Value::Integer(number) => {
                let (digits, len) = number::digits(*number);
                Repr::Digits { digits, len }
            }
            Value::List(_) => Repr::Borrowed(b""),
        })
    }

    /// The string's length in bytes, or how many elements the list has.
    ///
    /// ```
    /// # use latchwork::rmw::Value;
    /// assert_eq!(Value::from(-7).len(), 2);
    /// ```
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Value::Bytes(bytes) => bytes.len(),
            Value::Integer(_) => self.text().len(),
            Value::List(list) => list.len(),
        }
    }

    /// Whether the string or list is empty.
    ///
    /// ```
    /// # use latchwork::rmw::Value;
    /// assert!(Value::from("").is_empty());
    /// ```
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of the string, as [`text`](Self::text).
    ///
    /// ```
    /// # use latchwork::rmw::Value;
    /// assert_eq!(Value::from("abc").to_vec(), b"abc");
    /// ```
    pub fn to_vec(&self) -> Vec<u8> {
        self.text().to_vec()
    }

    /// The number, if the string is the canonical decimal form of an `i64`: no spaces, no `+`, no
    /// leading zeros, no `-0`. This is Redis's rule, and what `incr_by` accepts.
    ///
    /// ```
    /// # use latchwork::rmw::Value;
    /// assert_eq!(Value::from("-12").as_integer(), Some(-12));
    /// assert_eq!(Value::from(" 12").as_integer(), None);
    /// assert_eq!(Value::from("-0").as_integer(), None);
    /// ```
    #[inline]
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Value::Bytes(bytes) => number::parse(bytes),
            Value::Integer(number) => Some(*number),
            Value::List(_) => None,
        }
    }

    /// Bytes of memory behind the value itself.
    pub(super) fn heap(&self) -> u64 {
        match self {
            Value::Bytes(bytes) => bytes.heap(),
            Value::Integer(_) => 0,
            // What is behind long elements is not known without a look at each.
            Value::List(list) => (list.len() * size_of::<Bytes>()) as u64,
        }
    }

    /// The type that commands check.
    ///
    /// ```
    /// # use latchwork::rmw::{Value, ValueType};
    /// assert_eq!(Value::from(1).value_type(), ValueType::String);
    /// ```
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::Bytes(_) | Value::Integer(_) => ValueType::String,
            Value::List(_) => ValueType::List,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Integer(a), Value::Integer(b)) => a == b,
            (Value::List(a), Value::List(b)) => Arc::ptr_eq(a, b) || a == b,
            (Value::List(_), _) | (_, Value::List(_)) => false,
            _ => *self.text() == *other.text(),
        }
    }
}

impl Eq for Value {}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bytes(bytes) => f.debug_tuple("Bytes").field(bytes).finish(),
            Value::Integer(number) => f.debug_tuple("Integer").field(number).finish(),
            Value::List(list) => f.debug_tuple("List").field(list).finish(),
        }
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Integer(number)
    }
}

impl From<List> for Value {
    fn from(list: List) -> Self {
        Value::List(Arc::new(list))
    }
}

impl<T: Into<Bytes>> From<T> for Value {
    fn from(bytes: T) -> Self {
        Value::Bytes(bytes.into())
    }
}

/// The type of a value, as the `TYPE` command names it.
///
/// ```
/// use latchwork::rmw::ValueType;
///
/// assert_eq!(ValueType::String.name(), "string");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ValueType {
    /// Bytes or an integer.
    String,
    /// A list of byte strings.
    List,
}

impl ValueType {
    /// Redis's name for the type.
    ///
    /// ```
    /// # use latchwork::rmw::ValueType;
    /// assert_eq!(ValueType::String.name(), "string");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            ValueType::String => "string",
            ValueType::List => "list",
        }
    }
}

/// The string of a [`Value`]: derefs to its bytes.
///
/// ```
/// use latchwork::rmw::Value;
///
/// let value = Value::from(1_000);
/// let mut reply = Vec::new();
/// reply.extend_from_slice(&value.text());
/// assert_eq!(reply, b"1000");
/// ```
#[derive(Clone)]
pub struct Text<'a>(Repr<'a>);

#[derive(Clone)]
enum Repr<'a> {
    Borrowed(&'a [u8]),
    Digits {
        digits: [u8; number::DIGITS],
        len: u8,
    },
}

impl Deref for Text<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Borrowed(bytes) => bytes,
            Repr::Digits { digits, len } => &digits[..usize::from(*len)],
        }
    }
}

impl AsRef<[u8]> for Text<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_bytes(self, f)
    }
}

/// An immutable string of bytes: short ones inline, longer ones shared.
///
/// ```
/// use latchwork::rmw::Bytes;
///
/// let short = Bytes::from("held in the value");
/// let long = Bytes::from(vec![0; 100]);
/// assert_eq!(&*short, b"held in the value");
/// assert_eq!(long.clone().len(), 100); // no copy
/// ```
#[derive(Clone)]
pub struct Bytes(Store);

#[derive(Clone)]
enum Store {
    Inline { len: u8, bytes: [u8; Bytes::INLINE] },
    Shared(Arc<[u8]>),
    // A second allocation, for two cases that earn it: a large `Vec` is taken over without a
    // copy, and a string that grew keeps room to grow.
    Roomy(Arc<Vec<u8>>),
}

impl Bytes {
    /// Strings up to this length need no allocation.
    pub const INLINE: usize = 22;

    /// From this length on, a `Vec` is taken over and not copied.
    const TAKE_OVER: usize = 4096;

    fn inline(from: &[u8]) -> Self {
        let mut bytes = [0; Self::INLINE];
        bytes[..from.len()].copy_from_slice(from);
        Self(Store::Inline {
            len: from.len() as u8,
            bytes,
        })
    }

    /// `bytes` with room to grow, or inline.
    fn roomy(bytes: Vec<u8>) -> Self {
        if bytes.len() <= Self::INLINE {
            Self::inline(&bytes)
        } else {
            Self(Store::Roomy(Arc::new(bytes)))
        }
    }

    /// Bytes of memory behind the string itself, the counts of an `Arc` included.
    pub(super) fn heap(&self) -> u64 {
        const COUNTS: usize = 2 * size_of::<usize>();
        let bytes = match &self.0 {
            Store::Inline { .. } => 0,
            Store::Shared(bytes) => COUNTS + bytes.len(),
            Store::Roomy(bytes) => COUNTS + size_of::<Vec<u8>>() + bytes.capacity(),
        };
        bytes as u64
    }

    /// Overwrites `self` from `offset` on if nobody else can see it and the result fits where it
    /// is; the bytes between the end and `offset` become zeros. `false`: nothing was done.
    ///
    /// At most `budget` bytes are written, so that this may run under a lock.
    pub(super) fn write_in_place(&mut self, offset: usize, new: &[u8], budget: usize) -> bool {
        let end = offset + new.len();
        match &mut self.0 {
            Store::Inline { len, bytes } if end <= Self::INLINE => {
                // Past `len` the array is zeros: no string ever gets shorter in place.
                bytes[offset..end].copy_from_slice(new);
                *len = (*len).max(end as u8);
                true
            }
            Store::Roomy(shared) => match Arc::get_mut(shared) {
                Some(bytes)
                    if end <= bytes.capacity() && end - offset.min(bytes.len()) <= budget =>
                {
                    overwrite(bytes, offset, new);
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether [`write_in_place`](Self::write_in_place) would do if nobody else could see `self`.
    pub(super) fn has_room(&self, offset: usize, len: usize, budget: usize) -> bool {
        let end = offset + len;
        match &self.0 {
            Store::Inline { .. } => end <= Self::INLINE,
            Store::Shared(_) => false,
            Store::Roomy(bytes) => {
                end <= bytes.capacity() && end - offset.min(bytes.len()) <= budget
            }
        }
    }

    /// A copy of `old` overwritten from `offset` on, with room to grow.
    pub(super) fn overwritten(old: &[u8], offset: usize, new: &[u8]) -> Self {
        let end = old.len().max(offset + new.len());
        // Doubling to 1 MiB and a quarter beyond: a constant number of copies a byte, with a
        // bounded share of memory unused.
        // A string that is just being made gets none: it may never grow.
        let room = match old.len() {
            0 => 0,
            _ if end < 1 << 20 => end,
            _ => end / 4,
        };
        let mut bytes = Vec::with_capacity(end + room);
        bytes.extend_from_slice(old);
        overwrite(&mut bytes, offset, new);
        Self::roomy(bytes)
    }
}

fn overwrite(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    if bytes.len() < offset {
        bytes.resize(offset, 0);
    }
    let within = new.len().min(bytes.len() - offset);
    bytes[offset..offset + within].copy_from_slice(&new[..within]);
    bytes.extend_from_slice(&new[within..]);
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Store::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Store::Shared(bytes) => bytes,
            Store::Roomy(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Bytes {}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_bytes(self, f)
    }
}

/// A string literal of at most 64 bytes, and the length of what was cut.
fn fmt_bytes(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let shown = &bytes[..bytes.len().min(64)];
    write!(f, "b\"{}\"", shown.escape_ascii())?;
    if shown.len() < bytes.len() {
        write!(f, "… ({} bytes)", bytes.len())?;
    }
    Ok(())
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        if bytes.len() <= Self::INLINE {
            Self::inline(bytes)
        } else {
            Self(Store::Shared(bytes.into()))
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(mut bytes: Vec<u8>) -> Self {
        if bytes.len() < Self::TAKE_OVER {
            return Self::from(&*bytes);
        }
        if bytes.capacity() - bytes.len() > bytes.len() / 4 {
            bytes.shrink_to_fit();
        }
        Self(Store::Roomy(Arc::new(bytes)))
    }
}

impl<const N: usize> From<&[u8; N]> for Bytes {
    fn from(bytes: &[u8; N]) -> Self {
        Self::from(bytes.as_slice())
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self::from(text.as_bytes())
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self::from(text.into_bytes())
    }
}

impl From<&Vec<u8>> for Bytes {
    fn from(bytes: &Vec<u8>) -> Self {
        Self::from(bytes.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_key_is_one_cache_line() {
        assert_eq!(size_of::<Bytes>(), 24);
        assert_eq!(size_of::<Value>(), 24);
    }

    #[test]
    fn appends_in_place_until_the_room_is_used_and_never_under_a_reader() {
        let mut value = Bytes::overwritten(&[b'a'; 30], 30, b"b");
        assert!(value.write_in_place(31, b"c", 4096));
        let reader = value.clone();
        assert!(!value.write_in_place(32, b"d", 4096));
        assert_eq!(reader.len(), 32);
        drop(reader);
        assert!(value.write_in_place(32, b"d", 4096));
        assert!(value.ends_with(b"abcd"));
        assert!(!value.write_in_place(33, &[b'e'; 1000], 4096));
    }

    #[test]
    fn a_write_past_the_end_pads_with_zeros() {
        let mut short = Bytes::from("ab");
        assert!(short.write_in_place(4, b"cd", 0));
        assert_eq!(&*short, b"ab\0\0cd");
        assert!(!short.write_in_place(20, b"too far", 4096));
        assert_eq!(&*Bytes::overwritten(b"abc", 1, b"X"), b"aXc");
        let long = Bytes::overwritten(b"abc", 30, b"end");
        assert_eq!(long.len(), 33);
        assert!(long.starts_with(b"abc\0\0"));
    }

    #[test]
    fn a_write_over_the_budget_is_left_to_the_slow_path() {
        let mut value = Bytes::overwritten(&[b'a'; 3000], 3000, b"b");
        assert!(!value.write_in_place(3001, &[0; 65], 64));
        assert!(value.write_in_place(3001, &[0; 64], 64));
    }
}
