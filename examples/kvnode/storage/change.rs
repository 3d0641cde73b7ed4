//! A record of the log: one change of one key, those of one transaction, or the end of all keys.
//!
//! The first byte is the format's version, the second says what follows: nothing, or changes one
//! after the other to the end. Each change is the store's effect, which is absolute (see
//! [`Effect`]), but for one thing: an effect that depends on what the key held says whether to its
//! command the key was missing. Expired keys are removed without a record, so that a replay may
//! find a key there that had long been gone.

use latchwork::rmw::{Bytes, Effect, Key, KeyHasher, ListEdit, ListEnd, Record, Value};
use serde::{Deserialize, Serialize};

use super::content::{Content, Element, Elements, LONGEST, Raw, encode};

/// The version of the format.
const VERSION: u8 = 1;
const CLEAR: u8 = 0;
const CHANGES: u8 = 1;

/// What one key's effect looks like in the log.
#[derive(Debug, Serialize, Deserialize)]
struct Change<'a> {
    #[serde(borrow)]
    key: Raw<'a>,
    /// The key was missing.
    is_new: bool,
    kind: Kind<'a>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Kind<'a> {
    Put {
        #[serde(borrow)]
        content: Content<'a>,
        deadline: Option<u64>,
    },
    Write {
        offset: u64,
        bytes: Raw<'a>,
    },
    Expire(Option<u64>),
    Delete,
    Push {
        end: End,
        values: Elements<'a>,
    },
    Pop {
        end: End,
        count: u64,
    },
    Rotate {
        from: End,
        to: End,
    },
    Set {
        index: u64,
        value: Element,
    },
    Insert {
        index: u64,
        value: Element,
    },
    Remove {
        end: End,
        limit: u64,
        value: Raw<'a>,
    },
    Trim {
        start: u64,
        end: u64,
    },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum End {
    Front,
    Back,
}

impl From<ListEnd> for End {
    fn from(end: ListEnd) -> Self {
        match end {
            ListEnd::Front => End::Front,
            ListEnd::Back => End::Back,
        }
    }
}

impl From<End> for ListEnd {
    fn from(end: End) -> Self {
        match end {
            End::Front => ListEnd::Front,
            End::Back => ListEnd::Back,
        }
    }
}

impl<'a> Kind<'a> {
    /// `None`: nothing to log, or an effect that there was not when this was written.
    #[inline]
    fn of(effect: &'a Effect<'_>) -> Option<Self> {
        Some(match effect {
            Effect::Put(record) => Kind::Put {
                content: Content::of(&record.value)?,
                deadline: record.expires_at(),
            },
            Effect::Write { offset, bytes } => Kind::Write {
                offset: *offset as u64,
                bytes: Raw(bytes),
            },
            Effect::Expire(at) => Kind::Expire(*at),
            Effect::Delete => Kind::Delete,
            Effect::List(edit) => Self::of_edit(edit)?,
            _ => return None,
        })
    }

    fn of_edit(edit: &'a ListEdit<'_>) -> Option<Self> {
        Some(match *edit {
            ListEdit::Push { end, values } => Kind::Push {
                end: end.into(),
                values: Elements::Pushed(values),
            },
            ListEdit::Pop { end, count } => Kind::Pop {
                end: end.into(),
                count: count as u64,
            },
            ListEdit::Rotate { from, to } => Kind::Rotate {
                from: from.into(),
                to: to.into(),
            },
            ListEdit::Set { index, value } => Kind::Set {
                index: index as u64,
                value: Element(Bytes::clone(value)),
            },
            ListEdit::Insert { index, value } => Kind::Insert {
                index: index as u64,
                value: Element(Bytes::clone(value)),
            },
            ListEdit::Remove { end, limit, value } => Kind::Remove {
                end: end.into(),
                limit: limit as u64,
                value: Raw(value),
            },
            ListEdit::Trim { start, end } => Kind::Trim {
                start: start as u64,
                end: end as u64,
            },
            _ => return None,
        })
    }

    /// Whether it may be applied to what the key holds; a store takes that for granted.
    fn fits(&self, record: Option<&Record>) -> bool {
        let is_list = record.map(|record| matches!(record.value, Value::List(_)));
        match self {
            Kind::Put { .. } | Kind::Expire(_) | Kind::Delete => true,
            Kind::Write { offset, bytes } => {
                let end = offset.checked_add(bytes.0.len() as u64);
                is_list != Some(true) && end.is_some_and(|end| end <= LONGEST)
            }
            _ => is_list != Some(false),
        }
    }

    fn effect<'e>(&'e self) -> Effect<'e>
    where
        'a: 'e,
    {
        let at = |index: &u64| usize::try_from(*index).unwrap_or(usize::MAX);
        Effect::List(match self {
            Kind::Put { content, deadline } => {
                let record = content.clone().into_record(*deadline);
                return match record.value.value_type() {
                    latchwork::rmw::ValueType::List if record.value.is_empty() => Effect::Delete,
                    _ => Effect::Put(record),
                };
            }
            Kind::Write { offset, bytes } => {
                return Effect::Write {
                    offset: at(offset),
                    bytes: bytes.0,
                };
            }
            Kind::Expire(deadline) => return Effect::Expire(*deadline),
            Kind::Delete => return Effect::Delete,
            Kind::Push { end, values } => ListEdit::Push {
                end: (*end).into(),
                values: values.as_slice(),
            },
            Kind::Pop { end, count } => ListEdit::Pop {
                end: (*end).into(),
                count: at(count),
            },
            Kind::Rotate { from, to } => ListEdit::Rotate {
                from: (*from).into(),
                to: (*to).into(),
            },
            Kind::Set { index, value } => ListEdit::Set {
                index: at(index),
                value: &value.0,
            },
            Kind::Insert { index, value } => ListEdit::Insert {
                index: at(index),
                value: &value.0,
            },
            Kind::Remove { end, limit, value } => ListEdit::Remove {
                end: (*end).into(),
                limit: at(limit),
                value: value.0,
            },
            Kind::Trim { start, end } => ListEdit::Trim {
                start: at(start),
                end: at(end),
            },
        })
    }
}

/// Begins a record that will hold changes.
#[inline]
pub(super) fn begin(to: &mut Vec<u8>) {
    to.clear();
    to.extend_from_slice(&[VERSION, CHANGES]);
}

/// Adds a change. `false`: it cannot be logged.
#[inline]
pub(super) fn push(to: &mut Vec<u8>, key: &[u8], is_new: bool, effect: &Effect<'_>) -> bool {
    let Some(kind) = Kind::of(effect) else {
        return false;
    };
    let change = Change {
        key: Raw(key),
        is_new,
        kind,
    };
    encode(&change, to).is_ok()
}

/// The record that ends all keys.
pub(super) const CLEARED: [u8; 2] = [VERSION, CLEAR];

/// What a record says.
pub(super) enum Logged<'a> {
    Clear,
    Changes(Changes<'a>),
}

/// Why a record cannot be replayed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    Version(u8),
    Form(&'static str),
}

impl<'a> Logged<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Self, Bad> {
        match body {
            [VERSION, CLEAR] => Ok(Logged::Clear),
            [VERSION, CHANGES, changes @ ..] => Ok(Logged::Changes(Changes(changes))),
            [VERSION, ..] => Err(Bad::Form("a record of no known kind")),
            [version, ..] => Err(Bad::Version(*version)),
            [] => Err(Bad::Form("an empty record")),
        }
    }
}

/// The changes of a record, in order.
pub(super) struct Changes<'a>(&'a [u8]);

impl<'a> Iterator for Changes<'a> {
    type Item = Result<Replayed<'a>, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        match postcard::take_from_bytes(self.0) {
            Ok((change, rest)) => {
                self.0 = rest;
                Some(Ok(Replayed(change)))
            }
            Err(_) => {
                self.0 = &[];
                Some(Err(Bad::Form("a change that cannot be read")))
            }
        }
    }
}

/// A change that was read.
pub(super) struct Replayed<'a>(Change<'a>);

impl<'a> Replayed<'a> {
    pub(super) fn key(&self, hasher: &KeyHasher) -> Key<'a> {
        hasher.key(self.0.key.0)
    }

    /// What it does to the key, which holds this.
    pub(super) fn effect(&self, record: Option<&Record>) -> Result<Effect<'_>, Bad> {
        let Change { is_new, kind, .. } = &self.0;
        let is_gone = *is_new && record.is_some();
        if !kind.fits(record.filter(|_| !is_gone)) {
            return Err(Bad::Form("a change that does not fit what its key holds"));
        }
        let effect = kind.effect();
        Ok(match (is_gone, effect) {
            // Expired, and removed without a record.
            (true, effect) => match effect.apply_to(None) {
                Some(record) => Effect::Put(record),
                None => Effect::Delete,
            },
            (false, effect) => effect,
        })
    }
}
