//! Values as bytes, for the log and the segments: borrowed on the way out, and on the way in as far
//! as the store does not keep them.

use std::fmt;

use latchwork::rmw::{Bytes, List, Record, Value};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest string that is read back: the longest that the server takes.
pub(super) const LONGEST: u64 = 512 << 20;

/// Bytes, written at once and read without a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(from).map(Raw)
    }
}

/// An element of a list.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Element(pub(super) Bytes);

impl Serialize for Element {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(from).map(|bytes| Element(Bytes::from(bytes)))
    }
}

/// Elements in order: a list's or a push's when written, a vector when read.
#[derive(Clone, Debug)]
pub(super) enum Elements<'a> {
    Of(&'a List),
    Pushed(&'a [Bytes]),
    Read(Vec<Bytes>),
}

impl Elements<'_> {
    pub(super) fn as_slice(&self) -> &[Bytes] {
        match self {
            Elements::Of(_) => &[],
            Elements::Pushed(elements) => elements,
            Elements::Read(elements) => elements,
        }
    }
}

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Elements::Of(list) => to.collect_seq(list.iter().map(|element| Raw(element))),
            _ => to.collect_seq(self.as_slice().iter().map(|element| Raw(element))),
        }
    }
}

impl<'de> Deserialize<'de> for Elements<'_> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<Bytes>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Bytes>, A::Error> {
                // What the bytes say of their number is not believed before they are read.
                let mut elements = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(4096));
                while let Some(Element(element)) = seq.next_element()? {
                    elements.push(element);
                }
                Ok(elements)
            }
        }

        from.deserialize_seq(Reader).map(Elements::Read)
    }
}

/// What a key holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Content<'a> {
    #[serde(borrow)]
    String(Raw<'a>),
    Integer(i64),
    List(Elements<'a>),
}

impl<'a> Content<'a> {
    /// `None`: a type that there was not when this was written.
    #[inline]
    pub(super) fn of(value: &'a Value) -> Option<Self> {
        Some(match value {
            Value::Bytes(bytes) => Content::String(Raw(bytes)),
            Value::Integer(number) => Content::Integer(*number),
            Value::List(list) => Content::List(Elements::Of(list)),
            _ => return None,
        })
    }

    pub(super) fn into_record(self, deadline: Option<u64>) -> Record {
        match self {
            Content::String(Raw(bytes)) => Record::new(bytes, deadline),
            Content::Integer(number) => Record::new(number, deadline),
            Content::List(elements) => {
                let list: List = match elements {
                    Elements::Of(list) => list.clone(),
                    Elements::Pushed(elements) => elements.iter().cloned().collect(),
                    Elements::Read(elements) => elements.into_iter().collect(),
                };
                Record::new(list, deadline)
            }
        }
    }
}

/// Appends to a vector, a string of bytes at once.
pub(super) struct Append<'a>(pub(super) &'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Encodes to the end of `to`.
#[inline]
pub(super) fn encode<T: Serialize>(value: &T, to: &mut Vec<u8>) -> postcard::Result<()> {
    postcard::serialize_with_flavor(value, Append(to))
}
