//! The list commands that work at the ends of a list or at an index.
//!
//! A push or a pop is a step under the store's lock. What has to look at many elements does so on
//! a snapshot, under the key's latch, which keeps the key's writers away; only the effect is
//! applied under the store's lock.

use std::ops::Range;

use super::error::RmwError;
use super::list::{List, ListEdit, ListEnd};
use super::store::{Effect, Record, Store};
use super::value::Bytes;
use super::{Core, Rmw};
use crate::sync::unmodelled::{Arc, Ordering};

/// Elements that a command may look at under the store's lock.
const LOOK_UNDER_LOCK: usize = 128;

impl Record {
    /// The list of a key that may be missing.
    #[inline]
    pub(super) fn list_of(record: Option<&Record>) -> Result<Option<&Arc<List>>, RmwError> {
        record.map(|record| record.value.list()).transpose()
    }
}

impl List {
    /// Copies of up to `count` elements from an end on.
    pub(super) fn first_of(&self, end: ListEnd, count: usize) -> Vec<Bytes> {
        let elements = self.len().min(count);
        match end {
            ListEnd::Front => self.range(0..elements).cloned().collect(),
            ListEnd::Back => {
                let tail = self.range(self.len() - elements..self.len());
                tail.rev().cloned().collect()
            }
        }
    }

    /// What taking this many elements off amounts to.
    pub(super) fn popped<'e>(&self, end: ListEnd, count: usize) -> Effect<'e> {
        match count {
            0 => Effect::Keep,
            _ if count >= self.len() => Effect::Delete,
            _ => Effect::List(ListEdit::Pop { end, count }),
        }
    }
}

/// The half-open range that Redis's inclusive, possibly negative one means in a list.
fn range(len: usize, start: i64, stop: i64) -> Range<usize> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let absolute = |index: i64| match index {
        ..0 => index.saturating_add(len),
        _ => index,
    };
    let start = absolute(start).max(0);
    let end = absolute(stop).saturating_add(1).min(len);
    if start >= end {
        return 0..0;
    }
    start as usize..end as usize
}

/// The index that a possibly negative one means, if there is such an element.
fn index_in(len: usize, index: i64) -> Option<usize> {
    let index = match index {
        ..0 => len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
        _ => usize::try_from(index).ok()?,
    };
    (index < len).then_some(index)
}

impl<S: Store> Core<S> {
    pub(super) fn check_element(&self, value: &Bytes) -> Result<(), RmwError> {
        self.check_end(Some(value.len() as u64)).map(drop)
    }
}

impl<S: Store> Rmw<S> {
    /// Runs a command that looks longer than the store's lock may be held: `decide` sees a
    /// snapshot, outside that lock. The key's latch keeps it true until the effect is applied.
    pub(super) fn write_long<'e, R>(
        &self,
        key: &[u8],
        decide: impl FnOnce(Option<&Record>) -> Result<(Effect<'e>, R), RmwError>,
    ) -> Result<R, RmwError> {
        let core = &*self.core;
        let key = self.key(key);
        let _latch = self.latch(key)?;
        let (record, expired, seen) = core.store.load(key, |record, seen| {
            let expired = record.is_some_and(|record| core.is_expired(record));
            (record.filter(|_| !expired).cloned(), expired, seen)
        });
        if expired {
            core.store.publish(key, Effect::Delete, seen)?;
            core.counters.expired.fetch_add(1, Ordering::Relaxed);
        }
        let (effect, result) = decide(record.as_ref())?;
        // Unshared again, the list can be changed in place.
        drop(record);
        if !effect.is_keep() {
            core.store.publish(key, effect, seen)?;
        }
        Ok(result)
    }

    fn push<V: Into<Bytes>>(
        &self,
        key: &[u8],
        end: ListEnd,
        values: impl IntoIterator<Item = V>,
        if_present: bool,
    ) -> Result<u64, RmwError> {
        let values: Vec<Bytes> = values.into_iter().map(Into::into).collect();
        for value in &values {
            self.core.check_element(value)?;
        }
        self.write(key, |record| {
            let len = Record::list_of(record)?.map_or(0, |list| list.len());
            if values.is_empty() || (if_present && record.is_none()) {
                return Ok((Effect::Keep, len as u64));
            }
            let values = &values[..];
            let len = len + values.len();
            Ok((Effect::List(ListEdit::Push { end, values }), len as u64))
        })
    }

    fn pop(&self, key: &[u8], end: ListEnd) -> Result<Option<Bytes>, RmwError> {
        self.write(key, |record| match Record::list_of(record)? {
            None => Ok((Effect::Keep, None)),
            Some(list) => Ok((list.popped(end, 1), list.peek(end).cloned())),
        })
    }

    pub(super) fn pop_many(
        &self,
        key: &[u8],
        end: ListEnd,
        count: u64,
    ) -> Result<Option<Vec<Bytes>>, RmwError> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let decide = |record: Option<&Record>| match Record::list_of(record)? {
            None => Ok((Effect::Keep, None)),
            Some(list) => Ok((list.popped(end, count), Some(list.first_of(end, count)))),
        };
        if count <= LOOK_UNDER_LOCK {
            self.write(key, decide)
        } else {
            self.write_long(key, decide)
        }
    }

    /// Pushes values onto the front of a list, one after the other, a missing key being an empty
    /// list, and returns the new length (`LPUSH`): the last value is the first element then.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.lpush("k", ["a", "b"])?, 2);
    /// assert_eq!(rmw.lrange("k", 0, -1)?, ["b".into(), "a".into()]);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType), [`TooLong`](RmwError::TooLong) for an element above the
    /// limit for strings; [`Reentrant`](RmwError::Reentrant), [`Busy`](RmwError::Busy).
    ///
    /// # Blocking
    /// While another thread writes the key.
    pub fn lpush<V: Into<Bytes>>(
        &self,
        key: impl AsRef<[u8]>,
        values: impl IntoIterator<Item = V>,
    ) -> Result<u64, RmwError> {
        self.push(key.as_ref(), ListEnd::Front, values, false)
    }

    /// Pushes values onto the back of a list, a missing key being an empty one, and returns the
    /// new length (`RPUSH`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.rpush("k", ["a", "b"])?, 2);
    /// assert_eq!(rmw.lrange("k", 0, -1)?, ["a".into(), "b".into()]);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lpush`](Self::lpush).
    pub fn rpush<V: Into<Bytes>>(
        &self,
        key: impl AsRef<[u8]>,
        values: impl IntoIterator<Item = V>,
    ) -> Result<u64, RmwError> {
        self.push(key.as_ref(), ListEnd::Back, values, false)
    }

    /// As [`lpush`](Self::lpush), if the list exists; otherwise it returns zero (`LPUSHX`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.lpush_if_present("k", ["a"])?, 0);
    /// assert!(!rmw.contains("k"));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lpush`](Self::lpush).
    pub fn lpush_if_present<V: Into<Bytes>>(
        &self,
        key: impl AsRef<[u8]>,
        values: impl IntoIterator<Item = V>,
    ) -> Result<u64, RmwError> {
        self.push(key.as_ref(), ListEnd::Front, values, true)
    }

    /// As [`rpush`](Self::rpush), if the list exists; otherwise it returns zero (`RPUSHX`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a"])?;
    /// assert_eq!(rmw.rpush_if_present("k", ["b"])?, 2);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lpush`](Self::lpush).
    pub fn rpush_if_present<V: Into<Bytes>>(
        &self,
        key: impl AsRef<[u8]>,
        values: impl IntoIterator<Item = V>,
    ) -> Result<u64, RmwError> {
        self.push(key.as_ref(), ListEnd::Back, values, true)
    }

    /// Takes the first element of a list (`LPOP`). With its last element, the key is gone.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b"])?;
    /// assert_eq!(rmw.lpop("k")?, Some("a".into()));
    /// assert_eq!(rmw.lpop("missing")?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType), [`Reentrant`](RmwError::Reentrant),
    /// [`Busy`](RmwError::Busy).
    pub fn lpop(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, RmwError> {
        self.pop(key.as_ref(), ListEnd::Front)
    }

    /// Takes the last element of a list (`RPOP`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b"])?;
    /// assert_eq!(rmw.rpop("k")?, Some("b".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lpop`](Self::lpop).
    pub fn rpop(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, RmwError> {
        self.pop(key.as_ref(), ListEnd::Back)
    }

    /// Takes up to `count` elements off the front of a list (`LPOP` with a count); `None` if the
    /// key is missing.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b", "c"])?;
    /// assert_eq!(rmw.lpop_many("k", 2)?, Some(vec!["a".into(), "b".into()]));
    /// assert_eq!(rmw.lpop_many("missing", 2)?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lpop`](Self::lpop).
    pub fn lpop_many(
        &self,
        key: impl AsRef<[u8]>,
        count: u64,
    ) -> Result<Option<Vec<Bytes>>, RmwError> {
        self.pop_many(key.as_ref(), ListEnd::Front, count)
    }

    /// Takes up to `count` elements off the back of a list, the last one first (`RPOP` with a
    /// count); `None` if the key is missing.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b", "c"])?;
    /// assert_eq!(rmw.rpop_many("k", 2)?, Some(vec!["c".into(), "b".into()]));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lpop`](Self::lpop).
    pub fn rpop_many(
        &self,
        key: impl AsRef<[u8]>,
        count: u64,
    ) -> Result<Option<Vec<Bytes>>, RmwError> {
        self.pop_many(key.as_ref(), ListEnd::Back, count)
    }

    /// The length of a list, zero if it is missing (`LLEN`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b"])?;
    /// assert_eq!(rmw.llen("k")?, 2);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType).
    pub fn llen(&self, key: impl AsRef<[u8]>) -> Result<u64, RmwError> {
        self.view(key.as_ref(), |record| {
            Ok(Record::list_of(record)?.map_or(0, |list| list.len() as u64))
        })
    }

    /// The element at an index, a negative one counting from the end (`LINDEX`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b", "c"])?;
    /// assert_eq!(rmw.lindex("k", -1)?, Some("c".into()));
    /// assert_eq!(rmw.lindex("k", 3)?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType).
    pub fn lindex(&self, key: impl AsRef<[u8]>, index: i64) -> Result<Option<Bytes>, RmwError> {
        let look = |list: &List| Some(list.get(index_in(list.len(), index)?)?.clone());
        let far = self.view(key.as_ref(), |record| {
            let Some(list) = Record::list_of(record)? else {
                return Ok::<_, RmwError>(Err(None));
            };
            let at = index_in(list.len(), index).unwrap_or(0);
            if list.walk(at) <= LOOK_UNDER_LOCK {
                return Ok(Err(look(list)));
            }
            Ok(Ok(Arc::clone(list)))
        })?;
        match far {
            Ok(list) => Ok(look(&list)),
            Err(found) => Ok(found),
        }
    }

    /// Replaces the element at an index, a negative one counting from the end (`LSET`).
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, RmwError};
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b"])?;
    /// rmw.lset("k", -1, "x")?;
    /// assert_eq!(rmw.lrange("k", 0, -1)?, ["a".into(), "x".into()]);
    /// assert_eq!(rmw.lset("k", 2, "y"), Err(RmwError::IndexOutOfRange));
    /// # Ok::<(), RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`NoSuchKey`](RmwError::NoSuchKey), [`IndexOutOfRange`](RmwError::IndexOutOfRange), and as
    /// [`lpush`](Self::lpush).
    pub fn lset(
        &self,
        key: impl AsRef<[u8]>,
        index: i64,
        value: impl Into<Bytes>,
    ) -> Result<(), RmwError> {
        let value = &value.into();
        self.core.check_element(value)?;
        self.write(key.as_ref(), |record| {
            let list = Record::list_of(record)?.ok_or(RmwError::NoSuchKey)?;
            let index = index_in(list.len(), index).ok_or(RmwError::IndexOutOfRange)?;
            Ok((Effect::List(ListEdit::Set { index, value }), ()))
        })
    }

    /// The elements from `start` to `stop`, both included; negative ones count from the end
    /// (`LRANGE`). What is out of range is cut; a missing key is an empty list.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b", "c"])?;
    /// assert_eq!(rmw.lrange("k", -2, 9)?, ["b".into(), "c".into()]);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType).
    pub fn lrange(
        &self,
        key: impl AsRef<[u8]>,
        start: i64,
        stop: i64,
    ) -> Result<Vec<Bytes>, RmwError> {
        let far = self.view(key.as_ref(), |record| {
            let Some(list) = Record::list_of(record)? else {
                return Ok::<_, RmwError>(Err(Vec::new()));
            };
            let range = range(list.len(), start, stop);
            if range.len() + list.walk(range.start) <= LOOK_UNDER_LOCK {
                return Ok(Err(list.range(range).cloned().collect()));
            }
            Ok(Ok((Arc::clone(list), range)))
        })?;
        match far {
            Ok((list, range)) => Ok(list.range(range).cloned().collect()),
            Err(found) => Ok(found),
        }
    }

    /// Keeps the elements from `start` to `stop` only, counted as in [`lrange`](Self::lrange)
    /// (`LTRIM`). If there are none, the key is gone.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("k", ["a", "b", "c"])?;
    /// rmw.ltrim("k", 0, 1)?;
    /// assert_eq!(rmw.llen("k")?, 2);
    /// rmw.ltrim("k", 5, 9)?;
    /// assert!(!rmw.contains("k"));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lpop`](Self::lpop).
    pub fn ltrim(&self, key: impl AsRef<[u8]>, start: i64, stop: i64) -> Result<(), RmwError> {
        self.write(key.as_ref(), |record| {
            let Some(list) = Record::list_of(record)? else {
                return Ok((Effect::Keep, ()));
            };
            let Range { start, end } = range(list.len(), start, stop);
            let effect = match start == end {
                true => Effect::Delete,
                false => Effect::List(ListEdit::Trim { start, end }),
            };
            Ok((effect, ()))
        })
    }
}
