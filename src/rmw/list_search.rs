//! The list commands that search: they look through a snapshot, outside the store's lock.

use std::num::NonZeroI64;

use super::Rmw;
use super::error::RmwError;
use super::list::{List, ListEdit, ListEnd};
use super::store::{Effect, Record, Store};
use super::value::Bytes;
use crate::sync::unmodelled::Arc;

const FIRST: NonZeroI64 = NonZeroI64::new(1).unwrap();

/// What [`linsert_before`](super::Rmw::linsert_before) did.
///
/// ```
/// use latchwork::rmw::{Inserted, Rmw};
///
/// let rmw = Rmw::new();
/// assert_eq!(rmw.linsert_before("k", "pivot", "v")?, Inserted::Missing);
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It inserted the value; the list has this many elements now.
    Len(u64),
    /// The list has no such element.
    NoPivot,
    /// There is no such key.
    Missing,
}

/// How [`lpos_with`](super::Rmw::lpos_with) searches: `RANK`, `COUNT`, `MAXLEN`.
///
/// ```
/// use std::num::NonZeroI64;
/// use latchwork::rmw::{PosOptions, Rmw};
///
/// let rmw = Rmw::new();
/// rmw.rpush("k", ["a", "b", "a", "a"])?;
/// let from_the_back = PosOptions::new().rank(NonZeroI64::new(-1).unwrap()).count(2);
/// assert_eq!(rmw.lpos_with("k", "a", &from_the_back)?, [3, 2]);
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct PosOptions {
    rank: NonZeroI64,
    count: u64,
    max_len: u64,
}

impl Default for PosOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl PosOptions {
    /// The first match from the front.
    ///
    /// ```
    /// # use latchwork::rmw::PosOptions;
    /// assert_eq!(PosOptions::new(), PosOptions::default());
    /// ```
    pub const fn new() -> Self {
        Self {
            rank: FIRST,
            count: 1,
            max_len: 0,
        }
    }

    /// Which match is the first to report: the second for 2. A negative rank searches from the
    /// back.
    ///
    /// ```
    /// # use std::num::NonZeroI64;
    /// # use latchwork::rmw::{PosOptions, Rmw};
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b", "a"])?;
    /// let second = PosOptions::new().rank(NonZeroI64::new(2).unwrap());
    /// assert_eq!(rmw.lpos_with("k", "a", &second)?, [2]);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub const fn rank(mut self, rank: NonZeroI64) -> Self {
        self.rank = rank;
        self
    }

    /// How many matches to report; zero for all.
    ///
    /// ```
    /// # use latchwork::rmw::{PosOptions, Rmw};
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b", "a"])?;
    /// assert_eq!(rmw.lpos_with("k", "a", &PosOptions::new().count(0))?, [0, 2]);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub const fn count(mut self, count: u64) -> Self {
        self.count = count;
        self
    }

    /// How many elements to look at; zero for all.
    ///
    /// ```
    /// # use latchwork::rmw::{PosOptions, Rmw};
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b"])?;
    /// assert!(rmw.lpos_with("k", "b", &PosOptions::new().max_len(1))?.is_empty());
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub const fn max_len(mut self, elements: u64) -> Self {
        self.max_len = elements;
        self
    }

    fn search(&self, list: &List, value: &[u8]) -> Vec<u64> {
        let all = |limit: u64| match limit {
            0 => usize::MAX,
            _ => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let skip = all(self.rank.get().unsigned_abs()) - 1;
        let is_match = |(_, element): &(usize, &Bytes)| ***element == *value;
        let (looks, count, last) = (all(self.max_len), all(self.count), list.len() - 1);
        let elements = list.iter().enumerate().take(looks);
        if self.rank.is_negative() {
            let elements = list.iter().rev().enumerate().take(looks);
            let found = elements.filter(is_match).skip(skip).take(count);
            found.map(|(i, _)| (last - i) as u64).collect()
        } else {
            let found = elements.filter(is_match).skip(skip).take(count);
            found.map(|(i, _)| i as u64).collect()
        }
    }
}

impl<S: Store> Rmw<S> {
    fn linsert(
        &self,
        key: &[u8],
        pivot: &[u8],
        value: Bytes,
        after: usize,
    ) -> Result<Inserted, RmwError> {
        let value = &value;
        self.core.check_element(value)?;
        self.write_long(key, |record| {
            let Some(list) = Record::list_of(record)? else {
                return Ok((Effect::Keep, Inserted::Missing));
            };
            let Some(found) = list.iter().position(|element| **element == *pivot) else {
                return Ok((Effect::Keep, Inserted::NoPivot));
            };
            let index = found + after;
            let done = Inserted::Len(list.len() as u64 + 1);
            Ok((Effect::List(ListEdit::Insert { index, value }), done))
        })
    }

    /// Inserts a value before the first element that is equal to `pivot` (`LINSERT … BEFORE`).
    ///
    /// ```
    /// # use latchwork::rmw::{Inserted, Rmw};
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "c"])?;
    /// assert_eq!(rmw.linsert_before("k", "c", "b")?, Inserted::Len(3));
    /// assert_eq!(rmw.linsert_before("k", "x", "y")?, Inserted::NoPivot);
    /// assert_eq!(rmw.lindex("k", 1)?, Some("b".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lpush`](Self::lpush).
    pub fn linsert_before(
        &self,
        key: impl AsRef<[u8]>,
        pivot: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
    ) -> Result<Inserted, RmwError> {
        self.linsert(key.as_ref(), pivot.as_ref(), value.into(), 0)
    }

    /// Inserts a value after the first element that is equal to `pivot` (`LINSERT … AFTER`).
    ///
    /// ```
    /// # use latchwork::rmw::{Inserted, Rmw};
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "c"])?;
    /// assert_eq!(rmw.linsert_after("k", "a", "b")?, Inserted::Len(3));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lpush`](Self::lpush).
    pub fn linsert_after(
        &self,
        key: impl AsRef<[u8]>,
        pivot: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
    ) -> Result<Inserted, RmwError> {
        self.linsert(key.as_ref(), pivot.as_ref(), value.into(), 1)
    }

    /// Removes elements that are equal to `value` and says how many they were (`LREM`): up to
    /// `count` from the front, up to `-count` from the back if it is negative, all for zero.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b", "a", "a"])?;
    /// assert_eq!(rmw.lrem("k", -2, "a")?, 2);
    /// assert_eq!(rmw.lrange("k", 0, -1)?, ["a".into(), "b".into()]);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lpop`](Self::lpop).
    pub fn lrem(
        &self,
        key: impl AsRef<[u8]>,
        count: i64,
        value: impl AsRef<[u8]>,
    ) -> Result<u64, RmwError> {
        let value = value.as_ref();
        let wanted = match count {
            0 => usize::MAX,
            _ => usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX),
        };
        let end = match count {
            ..0 => ListEnd::Back,
            _ => ListEnd::Front,
        };
        self.write_long(key.as_ref(), |record| {
            let Some(list) = Record::list_of(record)? else {
                return Ok((Effect::Keep, 0));
            };
            let all = list.iter().filter(|element| ***element == *value);
            let limit = all.take(wanted).count();
            let effect = match limit {
                0 => Effect::Keep,
                _ if limit == list.len() => Effect::Delete,
                _ => Effect::List(ListEdit::Remove { end, limit, value }),
            };
            Ok((effect, limit as u64))
        })
    }

    /// The index of the first element that is equal to `value` (`LPOS`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b"])?;
    /// assert_eq!(rmw.lpos("k", "b")?, Some(1));
    /// assert_eq!(rmw.lpos("k", "x")?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType).
    pub fn lpos(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Option<u64>, RmwError> {
        let found = self.lpos_with(key, value, &PosOptions::new())?;
        Ok(found.first().copied())
    }

    /// The indices of elements that are equal to `value`, in the order of the search (`LPOS` with
    /// its options).
    ///
    /// ```
    /// # use latchwork::rmw::{PosOptions, Rmw};
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b", "a", "a"])?;
    /// assert_eq!(rmw.lpos_with("k", "a", &PosOptions::new().count(2))?, [0, 2]);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType).
    pub fn lpos_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &PosOptions,
    ) -> Result<Vec<u64>, RmwError> {
        let list = self.view(key.as_ref(), |record| {
            Record::list_of(record).map(|list| list.map(Arc::clone))
        })?;
        Ok(list.map_or(Vec::new(), |list| options.search(&list, value.as_ref())))
    }
}
