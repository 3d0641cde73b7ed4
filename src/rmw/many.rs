//! The commands that change several keys at one moment.

use super::Rmw;
use super::error::RmwError;
use super::store::{Effect, Record, Store};
use super::value::Value;
use crate::sync::mutant;
use crate::sync::unmodelled::Ordering;

impl<S: Store> Rmw<S> {
    /// Deletes keys at one moment and says how many there were (`DEL`, `UNLINK`). The values are
    /// freed outside all locks.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.mset([("a", 1), ("b", 2)])?;
    /// assert_eq!(rmw.del(&["a", "b", "c"])?, 2);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`Reentrant`](RmwError::Reentrant), [`Busy`](RmwError::Busy).
    pub fn del<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<u64, RmwError> {
        if let [key] = keys {
            return self.write(key.as_ref(), |record| match record {
                Some(_) => Ok((Effect::Delete, 1)),
                None => Ok((Effect::Keep, 0)),
            });
        }
        let keys: Vec<_> = keys.iter().map(|key| self.key(key.as_ref())).collect();
        let core = &*self.core;
        let latches = self.latch_many(&keys)?;
        let _latches = latches.filter(|_| !mutant::enabled("rmw-many-unprotected"));
        let (mut deleted, mut expired) = (0, 0);
        core.store.change_many(&keys, |_, record| match record {
            Some(record) => {
                let count = if core.is_expired(record) {
                    &mut expired
                } else {
                    &mut deleted
                };
                *count += 1;
                Effect::Delete
            }
            None => Effect::Keep,
        })?;
        core.counters.expired.fetch_add(expired, Ordering::Relaxed);
        Ok(deleted)
    }

    /// Sets keys at one moment and clears their expiries (`MSET`): no [`mget`](Self::mget) sees
    /// some of them set. Of a repeated key the last value stays.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.mset([("a", 1), ("b", 2), ("a", 3)])?;
    /// assert_eq!(rmw.mget(&["a", "b"]), [Some(3.into()), Some(2.into())]);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`set`](Self::set); none of the keys was set then.
    pub fn mset<K: AsRef<[u8]>, V: Into<Value>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<(), RmwError> {
        self.set_many(pairs, false).map(drop)
    }

    /// Sets keys at one moment if none of them exists (`MSETNX`), and says whether it did.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// assert!(rmw.mset_if_missing([("a", 1), ("b", 2)])?);
    /// assert!(!rmw.mset_if_missing([("b", 3), ("c", 4)])?);
    /// assert!(!rmw.contains("c"));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`set`](Self::set); none of the keys was set then.
    pub fn mset_if_missing<K: AsRef<[u8]>, V: Into<Value>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<bool, RmwError> {
        self.set_many(pairs, true)
    }

    fn set_many<K: AsRef<[u8]>, V: Into<Value>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
        if_missing: bool,
    ) -> Result<bool, RmwError> {
        let (names, mut values): (Vec<K>, Vec<Option<Value>>) = pairs
            .into_iter()
            .map(|(key, value)| (key, Some(value.into())))
            .unzip();
        let core = &*self.core;
        for value in values.iter().flatten() {
            core.check_len(value)?;
        }
        if let ([name], [value]) = (&names[..], &mut values[..]) {
            return self.write(name.as_ref(), |record| {
                let applied = !if_missing || record.is_none();
                Ok(match value.take_if(|_| applied) {
                    Some(value) => (Effect::put(Record::new(value, None)), true),
                    None => (Effect::Keep, false),
                })
            });
        }
        let keys: Vec<_> = names.iter().map(|key| self.key(key.as_ref())).collect();
        let latches = self.latch_many(&keys)?;
        let latches = latches.filter(|_| !mutant::enabled("rmw-many-unprotected"));
        if keys.iter().any(|key| core.is_awaited(*key)) {
            drop(latches);
            let values = values.into_iter().flatten();
            let pairs: Vec<(&[u8], Value)> = keys.iter().map(|key| key.bytes).zip(values).collect();
            return self.transact(&keys, |tx| tx.set_many(pairs, if_missing), || ())?;
        }
        let _latches = latches;
        if if_missing {
            let now = core.clock.now();
            let mut found = false;
            core.store.view_many(&keys, |_, record| {
                found |= record.is_some_and(|record| !record.is_expired(now));
            });
            if found {
                return Ok(false);
            }
        }
        // Under all the latches, nobody can have set one of them since.
        core.store
            .change_many(&keys, |i, _| match values[i].take() {
                Some(value) => Effect::put(Record::new(value, None)),
                None => Effect::Keep,
            })?;
        Ok(true)
    }

    /// Gives a key another name, with its value and its expiry (`RENAME`). What `to` held is gone.
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, RmwError};
    /// let rmw = Rmw::new();
    /// rmw.set("a", 1)?;
    /// rmw.rename("a", "b")?;
    /// assert_eq!(rmw.mget(&["a", "b"]), [None, Some(1.into())]);
    /// assert_eq!(rmw.rename("a", "b"), Err(RmwError::NoSuchKey));
    /// # Ok::<(), RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`NoSuchKey`](RmwError::NoSuchKey); [`Reentrant`](RmwError::Reentrant),
    /// [`Busy`](RmwError::Busy).
    ///
    /// # Blocking
    /// While another thread writes one of the keys.
    pub fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<(), RmwError> {
        self.rename_when(from.as_ref(), to.as_ref(), |_| true)
            .map(drop)
    }

    /// Does the same if there is no key of the new name, and says whether it did (`RENAMENX`).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.mset([("a", 1), ("b", 2)])?;
    /// assert!(!rmw.rename_if_missing("a", "b")?);
    /// assert!(rmw.rename_if_missing("a", "c")?);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`rename`](Self::rename).
    ///
    /// # Blocking
    /// While another thread writes one of the keys.
    pub fn rename_if_missing(
        &self,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
    ) -> Result<bool, RmwError> {
        self.rename_when(from.as_ref(), to.as_ref(), |target_exists| !target_exists)
    }

    fn rename_when(
        &self,
        from: &[u8],
        to: &[u8],
        condition: impl FnOnce(bool) -> bool,
    ) -> Result<bool, RmwError> {
        self.update_many(&[from, to], |tx| {
            let Some(record) = tx.view(from, |record| record.cloned()) else {
                return Err(RmwError::NoSuchKey);
            };
            if !condition(tx.contains(to)) {
                return Ok(false);
            }
            if from != to {
                tx.del(&[from])?;
                tx.write(to, |_| Ok((Effect::put(record), ())))?;
            }
            Ok(true)
        })?
    }
}
