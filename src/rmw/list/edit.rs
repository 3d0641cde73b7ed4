//! A change of a list as data: what a log would hold, absolute and repeatable.

use super::super::value::Bytes;
use super::{List, ListEnd};

/// A change of a list: what the list commands do to their key, as data.
///
/// ```
/// use latchwork::rmw::{List, ListEdit, ListEnd};
///
/// let mut list: List = ["a", "b", "c"].into_iter().collect();
/// ListEdit::Pop { end: ListEnd::Front, count: 2 }.apply_to(&mut list);
/// assert_eq!(list.iter().collect::<Vec<_>>(), [&"c".into()]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListEdit<'a> {
    /// The values are pushed one after the other; a missing key becomes a list.
    Push {
        /// Where to.
        end: ListEnd,
        /// At least one.
        values: &'a [Bytes],
    },
    /// Elements are taken off.
    Pop {
        /// Where from.
        end: ListEnd,
        /// How many; no more than there are.
        count: usize,
    },
    /// One element is taken off an end and pushed onto an end.
    Rotate {
        /// Where from.
        from: ListEnd,
        /// Where to.
        to: ListEnd,
    },
    /// An element is replaced.
    Set {
        /// Its index from the front.
        index: usize,
        /// The new element.
        value: &'a Bytes,
    },
    /// An element is inserted.
    Insert {
        /// The index that it will have.
        index: usize,
        /// The element.
        value: &'a Bytes,
    },
    /// Elements that are equal to a value are removed.
    Remove {
        /// Where the search begins.
        end: ListEnd,
        /// How many at most.
        limit: usize,
        /// The value.
        value: &'a [u8],
    },
    /// A part is kept.
    Trim {
        /// The first index to keep.
        start: usize,
        /// The first index after the part.
        end: usize,
    },
}

impl ListEdit<'_> {
    /// Changes a list.
    ///
    /// ```
    /// # use latchwork::rmw::{List, ListEdit};
    /// let mut list: List = ["a", "b"].into_iter().collect();
    /// ListEdit::Trim { start: 0, end: 1 }.apply_to(&mut list);
    /// assert_eq!(list.len(), 1);
    /// ```
    pub fn apply_to(self, list: &mut List) {
        match self {
            ListEdit::Push { end, values } => {
                values.iter().for_each(|v| list.push(end, v.clone()));
            }
            ListEdit::Pop { end, count } => list.drop_end(end, count),
            ListEdit::Rotate { from, to } => {
                if let Some(value) = list.pop(from) {
                    list.push(to, value);
                }
            }
            ListEdit::Set { index, value } => {
                list.set(index, value.clone());
            }
            ListEdit::Insert { index, value } => list.insert(index, value.clone()),
            ListEdit::Remove { end, limit, value } => {
                list.remove(end, limit, value);
            }
            ListEdit::Trim { start, end } => list.trim(start..end),
        }
    }

    /// About how many steps of a few nanoseconds it takes, beside the copy of one chunk.
    pub(in super::super) fn cost(self, list: &List, is_shared: bool) -> usize {
        let spine = if is_shared { list.chunks.len() } else { 0 };
        let own = match self {
            ListEdit::Push { values, .. } => values.len(),
            ListEdit::Pop { count, .. } => count.min(list.len),
            ListEdit::Rotate { .. } => 1,
            ListEdit::Set { index, .. } | ListEdit::Insert { index, .. } => list.walk(index),
            ListEdit::Remove { value, .. } => list.len.saturating_mul(1 + value.len() / 16),
            ListEdit::Trim { start, end } => list.len - end.saturating_sub(start).min(list.len),
        };
        spine.saturating_add(own)
    }
}
