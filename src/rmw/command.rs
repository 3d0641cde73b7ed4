//! The commands that change one key.

use super::Rmw;
use super::error::RmwError;
use super::float::Float;
use super::options::{Expiry, GetExpiry, SetOptions, SetOutcome, When};
use super::store::{Effect, Record, Store};
use super::value::Value;

impl<S: Store> Rmw<S> {
    /// Sets a key, whatever it held, and clears its expiry (`SET`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("k", "text")?;
    /// rmw.set("k", vec![0xff, 0x00])?;
    /// rmw.set("k", 42)?;
    /// assert_eq!(rmw.get("k")?, Some("42".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`TooLong`](RmwError::TooLong), [`Reentrant`](RmwError::Reentrant),
    /// [`Busy`](RmwError::Busy).
    ///
    /// # Blocking
    /// While another thread writes the key.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl Into<Value>) -> Result<(), RmwError> {
        let value = value.into();
        self.core.check_len(&value)?;
        self.write(key.as_ref(), |_| {
            Ok((Effect::put(Record::new(value, None)), ()))
        })
    }

    /// Sets a key under a condition, with an expiry, or returning what it held (`SET` with its
    /// options).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use latchwork::rmw::{Rmw, SetOptions};
    /// let rmw = Rmw::new();
    /// rmw.set("k", "old")?;
    /// let outcome = rmw.set_with(
    ///     "k",
    ///     "new",
    ///     &SetOptions::new().if_present().expire_in(Duration::from_secs(60)).get(),
    /// )?;
    /// assert!(outcome.applied);
    /// assert_eq!(outcome.previous, Some("old".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidExpiry`](RmwError::InvalidExpiry), [`TooLong`](RmwError::TooLong), with
    /// [`get`](SetOptions::get) also [`WrongType`](RmwError::WrongType);
    /// [`Reentrant`](RmwError::Reentrant), [`Busy`](RmwError::Busy).
    ///
    /// # Blocking
    /// While another thread writes the key.
    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Value>,
        options: &SetOptions,
    ) -> Result<SetOutcome, RmwError> {
        let value = value.into();
        self.core.check_len(&value)?;
        let expires_at = match options.expiry {
            Expiry::Clear | Expiry::Keep => None,
            Expiry::In(after) => Some(self.core.deadline_in(after)?),
            Expiry::At(at) => Some(self.core.check_deadline(at)?),
        };
        // Out here, a value that is not set is freed after the store's lock.
        let mut value = Some(value);
        self.write(key.as_ref(), |record| {
            let previous = match record {
                Some(record) if options.get => Some(record.string()?.clone()),
                _ => None,
            };
            let applied = match options.when {
                When::Always => true,
                When::Missing => record.is_none(),
                When::Present => record.is_some(),
            };
            let effect = match value.take_if(|_| applied) {
                Some(value) => {
                    let kept = record.and_then(Record::expires_at);
                    let keep = options.expiry == Expiry::Keep;
                    Effect::put(Record::new(value, if keep { kept } else { expires_at }))
                }
                None => Effect::Keep,
            };
            Ok((effect, SetOutcome { applied, previous }))
        })
    }

    /// Sets a key if it is missing (`SETNX`), and says whether it did.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// assert!(rmw.set_if_missing("k", 1)?);
    /// assert!(!rmw.set_if_missing("k", 2)?);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_if_missing(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Value>,
    ) -> Result<bool, RmwError> {
        let outcome = self.set_with(key, value, &SetOptions::new().if_missing())?;
        Ok(outcome.applied)
    }

    /// Sets a key, clears its expiry and returns what it held (`GETSET`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.getset("k", "a")?, None);
    /// assert_eq!(rmw.getset("k", "b")?, Some("a".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`set`](Self::set), and [`WrongType`](RmwError::WrongType).
    pub fn getset(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Value>,
    ) -> Result<Option<Value>, RmwError> {
        let outcome = self.set_with(key, value, &SetOptions::new().get())?;
        Ok(outcome.previous)
    }

    /// Deletes a key and returns what it held (`GETDEL`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("k", "v")?;
    /// assert_eq!(rmw.getdel("k")?, Some("v".into()));
    /// assert!(!rmw.contains("k"));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType), [`Reentrant`](RmwError::Reentrant),
    /// [`Busy`](RmwError::Busy).
    pub fn getdel(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, RmwError> {
        self.write(key.as_ref(), |record| match record {
            None => Ok((Effect::Keep, None)),
            Some(record) => Ok((Effect::Delete, Some(record.string()?.clone()))),
        })
    }

    /// Returns a key's value and changes its expiry (`GETEX`).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use latchwork::rmw::{GetExpiry, Rmw, Ttl};
    /// let rmw = Rmw::new();
    /// rmw.set("k", "v")?;
    /// let value = rmw.getex("k", GetExpiry::In(Duration::from_secs(60)))?;
    /// assert_eq!(value, Some("v".into()));
    /// assert!(matches!(rmw.ttl("k"), Ttl::Remaining(_)));
    /// rmw.getex("k", GetExpiry::Clear)?;
    /// assert_eq!(rmw.ttl("k"), Ttl::Persistent);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType); [`InvalidExpiry`](RmwError::InvalidExpiry) if the key
    /// exists; [`Reentrant`](RmwError::Reentrant), [`Busy`](RmwError::Busy).
    pub fn getex(
        &self,
        key: impl AsRef<[u8]>,
        expiry: GetExpiry,
    ) -> Result<Option<Value>, RmwError> {
        let core = &self.core;
        let at = match expiry {
            GetExpiry::Keep => return self.get(key),
            GetExpiry::Clear => Ok(None),
            GetExpiry::In(after) => core.deadline_in(after).map(Some),
            GetExpiry::At(at) => core.check_deadline(at).map(Some),
        };
        self.write(key.as_ref(), |record| {
            let Some(record) = record else {
                return Ok((Effect::Keep, None));
            };
            let value = record.string()?.clone();
            let effect = match at? {
                Some(at) => core.expire(at),
                None if record.expires_at().is_none() => Effect::Keep,
                None => Effect::Expire(None),
            };
            Ok((effect, Some(value)))
        })
    }

    /// Adds to a key's number, a missing one being 0, keeps its expiry, and returns the sum
    /// (`INCRBY`).
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, RmwError};
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.incr_by("k", 5)?, 5);
    /// assert_eq!(rmw.incr_by("k", -7)?, -2);
    /// assert_eq!(rmw.incr_by("k", i64::MIN), Err(RmwError::Overflow));
    /// # Ok::<(), RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`NotAnInteger`](RmwError::NotAnInteger), [`Overflow`](RmwError::Overflow),
    /// [`WrongType`](RmwError::WrongType), [`Reentrant`](RmwError::Reentrant),
    /// [`Busy`](RmwError::Busy).
    pub fn incr_by(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64, RmwError> {
        self.write(
            key.as_ref(),
            // For the hottest command: the effect stays in registers.
            #[inline(always)]
            |record| {
                let old = record.map_or(Ok(0), Record::integer)?;
                let new = old.checked_add(by).ok_or(RmwError::Overflow)?;
                self.core.check_len(&Value::Integer(new))?;
                let expires_at = record.and_then(Record::expires_at);
                Ok((Effect::Put(Record::new(new, expires_at)), new))
            },
        )
    }

    /// Subtracts from a key's number (`DECRBY`). As in Redis, `i64::MIN` is refused.
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, RmwError};
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.decr_by("k", 5)?, -5);
    /// # Ok::<(), RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`incr_by`](Self::incr_by).
    pub fn decr_by(&self, key: impl AsRef<[u8]>, by: i64) -> Result<i64, RmwError> {
        self.incr_by(key, by.checked_neg().ok_or(RmwError::Overflow)?)
    }

    /// Adds to a key's number, which need not be an integer, keeps its expiry, and returns the sum
    /// (`INCRBYFLOAT`). A missing key is 0.
    ///
    /// `by` is text, as the value is: `0.1` has no exact binary form, and the 80-bit arithmetic of
    /// Redis keeps more of it than an `f64`. At most 17 decimals are written.
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, RmwError};
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.incr_float("k", "0.1")?, "0.1".into());
    /// assert_eq!(rmw.incr_float("k", "0.2")?, "0.3".into());
    /// assert_eq!(rmw.incr_float("n", "5.0e3")?, "5000".into());
    /// assert_eq!(rmw.incr_float("k", " 1"), Err(RmwError::NotAFloat));
    /// # Ok::<(), RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`NotAFloat`](RmwError::NotAFloat) for the key or for `by`,
    /// [`NotFinite`](RmwError::NotFinite), [`TooLong`](RmwError::TooLong),
    /// [`WrongType`](RmwError::WrongType), [`Reentrant`](RmwError::Reentrant),
    /// [`Busy`](RmwError::Busy).
    pub fn incr_float(
        &self,
        key: impl AsRef<[u8]>,
        by: impl AsRef<[u8]>,
    ) -> Result<Value, RmwError> {
        let by = Float::parse(by.as_ref());
        // Not under the store's lock: thousands of digits take their time.
        self.update(key, |entry| {
            let old = match entry.get().map(Value::string).transpose()? {
                None => Some(Float::from_integer(0)),
                Some(Value::Integer(number)) => Some(Float::from_integer(*number)),
                Some(value) => Float::parse(&value.text()),
            };
            let (old, by) = old.zip(by).ok_or(RmwError::NotAFloat)?;
            let sum = old.checked_add(by).ok_or(RmwError::NotFinite)?;
            let text = Value::from(sum.to_text());
            entry.set(text.clone());
            Ok(text)
        })?
    }

    /// Appends to a key's string, a missing one being empty, keeps its expiry, and returns the new
    /// length (`APPEND`). Repeated appends cost their own bytes, not the whole string's.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.append("k", "Hello ")?, 6);
    /// assert_eq!(rmw.append("k", "World")?, 11);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`TooLong`](RmwError::TooLong), [`WrongType`](RmwError::WrongType),
    /// [`Reentrant`](RmwError::Reentrant), [`Busy`](RmwError::Busy).
    pub fn append(&self, key: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Result<u64, RmwError> {
        let bytes = bytes.as_ref();
        self.write(key.as_ref(), |record| {
            let offset = Record::len_of(record)?;
            let len = (offset as u64).checked_add(bytes.len() as u64);
            let len = self.core.check_end(len)?;
            let effect = match record {
                Some(_) if bytes.is_empty() => Effect::Keep,
                _ => Effect::Write { offset, bytes },
            };
            Ok((effect, len))
        })
    }

    /// Overwrites a key's string from `offset` on, keeps its expiry, and returns the new length
    /// (`SETRANGE`). A gap becomes zeros; a missing key is an empty string; nothing to write
    /// changes nothing.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("k", "Hello World")?;
    /// assert_eq!(rmw.setrange("k", 6, "Redis")?, 11);
    /// assert_eq!(rmw.get("k")?, Some("Hello Redis".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn setrange(
        &self,
        key: impl AsRef<[u8]>,
        offset: u64,
        bytes: impl AsRef<[u8]>,
    ) -> Result<u64, RmwError> {
        let bytes = bytes.as_ref();
        self.write(key.as_ref(), |record| {
            let len = Record::len_of(record)? as u64;
            if bytes.is_empty() {
                return Ok((Effect::Keep, len));
            }
            let end = self
                .core
                .check_end(offset.checked_add(bytes.len() as u64))?;
            // Not above the limit, which is a usize.
            let offset = offset as usize;
            Ok((Effect::Write { offset, bytes }, len.max(end)))
        })
    }
}
