//! Versions: what a caller needs to write only over what it has read.

use super::error::RmwError;
use super::store::{Effect, Key, Record, Store};
use super::value::Value;
use super::{Rmw, Transaction};
use crate::sync::unmodelled::Ordering;

impl<S: Store> Rmw<S> {
    /// The version of a key: another one after each change, of its expiry too. A missing key's is
    /// zero.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.version("k"), 0);
    /// rmw.set("k", "v")?;
    /// let first = rmw.version("k");
    /// rmw.set("k", "v")?;
    /// assert_ne!(rmw.version("k"), first);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn version(&self, key: impl AsRef<[u8]>) -> u64 {
        self.view(key.as_ref(), |record| record.map_or(0, Record::version))
    }

    /// A key's value and the version that it has with it.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.get_versioned("k")?, (None, 0));
    /// rmw.set("k", "v")?;
    /// assert_eq!(rmw.get_versioned("k")?, (Some("v".into()), rmw.version("k")));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType).
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<(Option<Value>, u64), RmwError> {
        self.view(key.as_ref(), |record| match record {
            Some(record) => Ok((Some(record.string()?.clone()), record.version())),
            None => Ok((None, 0)),
        })
    }

    /// Sets a key and clears its expiry if nobody has changed it since it had `version`, zero for
    /// a missing key. Returns the new version, or as the inner error the one that it has.
    ///
    /// For a value that is computed in several steps, or far from the key: nobody is kept waiting
    /// meanwhile. Where the computation is short, [`update`](Self::update) needs no second try.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("k", "draft")?;
    /// let (value, version) = rmw.get_versioned("k")?;
    /// let edited = [&*value.unwrap().text(), b", edited"].concat();
    /// let newer = rmw.compare_and_set("k", version, edited)?.unwrap();
    /// assert_eq!(rmw.compare_and_set("k", version, "too late")?, Err(newer));
    /// assert_eq!(rmw.get("k")?, Some("draft, edited".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`set`](Self::set).
    ///
    /// # Blocking
    /// While another thread writes the key.
    pub fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        version: u64,
        value: impl Into<Value>,
    ) -> Result<Result<u64, u64>, RmwError> {
        let core = &*self.core;
        let value = value.into();
        core.check_len(&value)?;
        let is_list = matches!(value, Value::List(_));
        // Out here, a value that is not set is freed after the store's lock.
        let mut value = Some(value);
        let key = self.key(key.as_ref());
        let latch = self.latch(key)?;
        if is_list && core.is_awaited(key) {
            drop(latch);
            let mut new = 0;
            let write = |tx: &Transaction| match value {
                Some(value) => tx.compare_and_set(key.bytes, version, value),
                None => Ok(Err(0)),
            };
            let seen = || new = self.version_of(key);
            return self
                .transact(&[key], write, seen)?
                .map(|set| set.map(|_| new));
        }
        let _latch = latch;
        let mut expired = false;
        let found = core.store.change(key, |record| {
            expired = record.is_some_and(|record| core.is_expired(record));
            let found = record.filter(|_| !expired).map_or(0, Record::version);
            let effect = match value.take_if(|_| found == version) {
                Some(value) => Effect::put(Record::new(value, None)),
                None => Effect::Keep,
            };
            (effect, found)
        })?;
        if found != version {
            return Ok(Err(found));
        }
        core.counters
            .expired
            .fetch_add(expired.into(), Ordering::Relaxed);
        // The latch is still held: this is the version that the value above was given.
        Ok(Ok(self.version_of(key)))
    }

    fn version_of(&self, key: Key<'_>) -> u64 {
        let store = &self.core.store;
        store.view(key, |record| record.map_or(0, Record::version))
    }
}
