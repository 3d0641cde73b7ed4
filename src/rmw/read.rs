//! The commands that only look. None takes a latch.

use std::time::Duration;

use super::Rmw;
use super::error::RmwError;
use super::list::List;
use super::options::Ttl;
use super::store::{Key, Record, Store};
use super::value::{Bytes, Value, ValueType};
use crate::sync::unmodelled::Arc;

impl Value {
    /// The value, if it is a string.
    #[inline]
    pub(super) fn string(&self) -> Result<&Value, RmwError> {
        match self {
            Value::Bytes(_) | Value::Integer(_) => Ok(self),
            Value::List(_) => Err(RmwError::WrongType),
        }
    }

    /// The list, if it is one.
    #[inline]
    pub(super) fn list(&self) -> Result<&Arc<List>, RmwError> {
        match self {
            Value::List(list) => Ok(list),
            Value::Bytes(_) | Value::Integer(_) => Err(RmwError::WrongType),
        }
    }

    #[inline]
    pub(super) fn integer(&self) -> Result<i64, RmwError> {
        self.string()?.as_integer().ok_or(RmwError::NotAnInteger)
    }
}

impl Record {
    #[inline]
    pub(super) fn string(&self) -> Result<&Value, RmwError> {
        self.value.string()
    }

    #[inline]
    pub(super) fn integer(&self) -> Result<i64, RmwError> {
        self.value.integer()
    }

    /// The length of a string that may be missing.
    #[inline]
    pub(super) fn len_of(record: Option<&Record>) -> Result<usize, RmwError> {
        record.map_or(Ok(0), |record| record.string().map(Value::len))
    }
}

impl<S: Store> Rmw<S> {
    /// Shows the live record to `look`, under the store's lock.
    #[inline]
    pub(super) fn view<R>(&self, key: &[u8], look: impl FnOnce(Option<&Record>) -> R) -> R {
        self.core.store.view(self.key(key), |record| {
            look(record.filter(|record| !self.core.is_expired(record)))
        })
    }

    /// Shows several live records, as of one moment.
    fn view_many<K: AsRef<[u8]>>(&self, keys: &[K], mut look: impl FnMut(Option<&Record>)) {
        if let [key] = keys {
            return self.view(key.as_ref(), look);
        }
        let keys: Vec<Key<'_>> = keys.iter().map(|key| self.key(key.as_ref())).collect();
        let now = self.core.clock.now();
        self.core.store.view_many(&keys, |_, record| {
            look(record.filter(|record| !record.is_expired(now)));
        });
    }

    /// The value of a key (`GET`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("k", "v")?;
    /// assert_eq!(rmw.get("k")?, Some("v".into()));
    /// assert_eq!(rmw.get("missing")?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType).
    #[inline]
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, RmwError> {
        self.view(key.as_ref(), |record| {
            record.map(|record| record.string().cloned()).transpose()
        })
    }

    /// Calls `look` with the value of a key, whatever its type. No lock is held meanwhile.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("k", "v")?;
    /// let mut reply = Vec::new();
    /// rmw.get_with("k", |value| reply.extend_from_slice(&value.unwrap().text()));
    /// assert_eq!(reply, b"v");
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    #[inline]
    pub fn get_with<R>(&self, key: impl AsRef<[u8]>, look: impl FnOnce(Option<&Value>) -> R) -> R {
        let value = self.view(key.as_ref(), |record| record.map(|r| r.value.clone()));
        look(value.as_ref())
    }

    /// The values of several keys as of one moment (`MGET`); of another type than string: `None`.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.mset([("a", 1), ("b", 2)])?;
    /// assert_eq!(rmw.mget(&["a", "x", "b"]), [Some(1.into()), None, Some(2.into())]);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn mget<K: AsRef<[u8]>>(&self, keys: &[K]) -> Vec<Option<Value>> {
        let mut values = Vec::with_capacity(keys.len());
        self.view_many(keys, |record| {
            values.push(record.and_then(|record| record.string().ok().cloned()));
        });
        values
    }

    /// How many of the keys exist as of one moment, a repeated one counted again (`EXISTS`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("a", 1)?;
    /// assert_eq!(rmw.exists(&["a", "a", "b"]), 2);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn exists<K: AsRef<[u8]>>(&self, keys: &[K]) -> u64 {
        let mut count = 0;
        self.view_many(keys, |record| count += u64::from(record.is_some()));
        count
    }

    /// Whether the key exists.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// assert!(!Rmw::new().contains("k"));
    /// ```
    pub fn contains(&self, key: impl AsRef<[u8]>) -> bool {
        self.view(key.as_ref(), |record| record.is_some())
    }

    /// The length of a key's string in bytes, zero if it is missing (`STRLEN`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("k", -10)?;
    /// assert_eq!(rmw.strlen("k")?, 3);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType).
    pub fn strlen(&self, key: impl AsRef<[u8]>) -> Result<u64, RmwError> {
        self.view(key.as_ref(), |record| {
            Record::len_of(record).map(|len| len as u64)
        })
    }

    /// The part of a key's string from `start` to `end`, both included; negative ones count from
    /// the end (`GETRANGE`). What is out of range is cut; a missing key is an empty string.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("k", "This is a string")?;
    /// assert_eq!(rmw.getrange("k", 0, 3)?, "This".into());
    /// assert_eq!(rmw.getrange("k", -3, -1)?, "ing".into());
    /// assert_eq!(rmw.getrange("k", 10, 100)?, "string".into());
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType).
    pub fn getrange(&self, key: impl AsRef<[u8]>, start: i64, end: i64) -> Result<Value, RmwError> {
        // The part is copied from the shared value, after the lock.
        let Some(value) = self.get(key)? else {
            return Ok(Value::from(""));
        };
        let text = value.text();
        let Some((first, last)) = range(text.len(), start, end) else {
            return Ok(Value::from(""));
        };
        if last - first == text.len() {
            return Ok(value.clone());
        }
        Ok(Value::Bytes(Bytes::from(&text[first..last])))
    }

    /// The type of a key's value (`TYPE`).
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, ValueType};
    /// let rmw = Rmw::new();
    /// rmw.set("k", "v")?;
    /// assert_eq!(rmw.value_type("k"), Some(ValueType::String));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn value_type(&self, key: impl AsRef<[u8]>) -> Option<ValueType> {
        self.view(key.as_ref(), |record| record.map(|r| r.value.value_type()))
    }

    /// How long a key has (`TTL`, `PTTL`).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use latchwork::rmw::{Clock, Rmw, SetOptions, Ttl};
    /// let rmw = Rmw::builder().clock(Clock::manual(1_000)).build();
    /// rmw.set_with("k", "v", &SetOptions::new().expire_at(1_250))?;
    /// assert_eq!(rmw.ttl("k"), Ttl::Remaining(Duration::from_millis(250)));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn ttl(&self, key: impl AsRef<[u8]>) -> Ttl {
        match self.expires_at(key) {
            None => Ttl::Missing,
            Some(None) => Ttl::Persistent,
            Some(Some(at)) => {
                let left = at.saturating_sub(self.core.clock.now());
                Ttl::Remaining(Duration::from_millis(left))
            }
        }
    }

    /// When a key expires, in Unix milliseconds (`PEXPIRETIME`): `None` if it is missing,
    /// `Some(None)` if it does not expire.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.expires_at("k"), None);
    /// rmw.set("k", "v")?;
    /// assert_eq!(rmw.expires_at("k"), Some(None));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn expires_at(&self, key: impl AsRef<[u8]>) -> Option<Option<u64>> {
        self.view(key.as_ref(), |record| record.map(Record::expires_at))
    }
}

/// The half-open range that Redis's inclusive, possibly negative one means; `None` if empty.
pub(super) fn range(len: usize, start: i64, end: i64) -> Option<(usize, usize)> {
    let len = i64::try_from(len).ok()?;
    if start < 0 && end < 0 && start > end {
        return None;
    }
    let absolute = |index: i64| match index {
        ..0 => index.saturating_add(len).max(0),
        _ => index,
    };
    let (start, end) = (absolute(start), absolute(end).min(len - 1));
    (start <= end).then(|| (start as usize, end as usize + 1))
}
