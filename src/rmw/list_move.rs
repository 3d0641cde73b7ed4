//! The list commands over several keys: each is applied at one moment.

use super::error::RmwError;
use super::list::{ListEdit, ListEnd};
use super::serve::infallible;
use super::store::{Effect, Key, Record, Store};
use super::value::Bytes;
use super::{Rmw, Transaction};
use crate::sync::unmodelled::Ordering;

impl<S: Store> Rmw<S> {
    /// Moves an element from an end of one list to an end of another, at one moment, and returns
    /// it (`LMOVE`); `None` if `source` is missing. With one key for both, the list is rotated.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// let rmw = Rmw::new();
    /// rmw.rpush("waiting", ["a", "b"])?;
    /// let job = rmw.lmove("waiting", "running", ListEnd::Front, ListEnd::Back)?;
    /// assert_eq!(job, Some("a".into()));
    /// assert_eq!(rmw.lrange("running", 0, -1)?, ["a".into()]);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType), [`Reentrant`](RmwError::Reentrant),
    /// [`Busy`](RmwError::Busy).
    ///
    /// # Blocking
    /// While another thread writes one of the keys.
    pub fn lmove(
        &self,
        source: impl AsRef<[u8]>,
        destination: impl AsRef<[u8]>,
        from: ListEnd,
        to: ListEnd,
    ) -> Result<Option<Bytes>, RmwError> {
        let (source, destination) = (source.as_ref(), destination.as_ref());
        if source == destination {
            return self.write(source, |record| match Record::list_of(record)? {
                None => Ok((Effect::Keep, None)),
                Some(list) => {
                    let rotate = ListEdit::Rotate { from, to };
                    Ok((Effect::List(rotate), list.peek(from).cloned()))
                }
            });
        }
        let core = &*self.core;
        let (source, destination) = (self.key(source), self.key(destination));
        let latches = self.latch_many(&[source, destination])?;
        if core.is_awaited(destination) {
            drop(latches);
            let keys = [source, destination];
            let [source, destination] = keys.map(|key| key.bytes);
            let lmove = |tx: &Transaction| Ok(tx.lmove(source, destination, from, to));
            return self
                .transact(&keys, lmove, || ())?
                .unwrap_or_else(infallible);
        }
        let now = core.clock.now();
        let mut expired = 0;
        let mut fits = Ok(());
        let mut moved = Ok(None);
        // Lives as long as the call, as the effect that borrows it has to.
        let value = std::cell::OnceCell::new();
        let keys = [destination, source, destination];
        core.store
            .change_many(&keys, |i, record| match (i, record) {
                (0 | 1, Some(record)) if record.is_expired(now) => {
                    expired += 1;
                    Effect::Delete
                }
                (0, record) => {
                    fits = Record::list_of(record).map(drop);
                    Effect::Keep
                }
                (1, record) => {
                    let take = || {
                        let Some(list) = Record::list_of(record)? else {
                            return Ok((Effect::Keep, None));
                        };
                        fits.clone()?;
                        Ok((list.popped(from, 1), list.peek(from).cloned()))
                    };
                    let (effect, taken) = take().unwrap_or_else(|error| {
                        moved = Err(error);
                        (Effect::Keep, None)
                    });
                    if let Some(taken) = taken {
                        let _ = value.set([taken]);
                    }
                    effect
                }
                (_, _) => match value.get() {
                    Some(values) => Effect::List(ListEdit::Push { end: to, values }),
                    None => Effect::Keep,
                },
            })?;
        core.counters.expired.fetch_add(expired, Ordering::Relaxed);
        if let Some([value]) = value.into_inner() {
            moved = Ok(Some(value));
        }
        moved
    }

    /// Moves the last element of one list to the front of another (`RPOPLPUSH`):
    /// [`lmove`](Self::lmove) from [`Back`](ListEnd::Back) to [`Front`](ListEnd::Front).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.rpush("ring", ["a", "b", "c"])?;
    /// assert_eq!(rmw.rpoplpush("ring", "ring")?, Some("c".into()));
    /// assert_eq!(rmw.lindex("ring", 0)?, Some("c".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`lmove`](Self::lmove).
    pub fn rpoplpush(
        &self,
        source: impl AsRef<[u8]>,
        destination: impl AsRef<[u8]>,
    ) -> Result<Option<Bytes>, RmwError> {
        self.lmove(source, destination, ListEnd::Back, ListEnd::Front)
    }

    /// Takes up to `count` elements off an end of the first of the lists that is not empty, and
    /// says which one of the keys that was (`LMPOP`); `None` if all are missing.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, Rmw};
    /// let rmw = Rmw::new();
    /// rmw.rpush("low", ["a", "b"])?;
    /// let popped = rmw.lmpop(&["high", "low"], ListEnd::Front, 10)?;
    /// assert_eq!(popped, Some((1, vec!["a".into(), "b".into()])));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`WrongType`](RmwError::WrongType) for a key before the first list;
    /// [`Reentrant`](RmwError::Reentrant), [`Busy`](RmwError::Busy).
    pub fn lmpop<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        end: ListEnd,
        count: u64,
    ) -> Result<Option<(usize, Vec<Bytes>)>, RmwError> {
        let keys: Vec<Key<'_>> = keys.iter().map(|key| self.key(key.as_ref())).collect();
        self.pop_first(&keys, end, count)
    }

    /// The same with keys.
    pub(super) fn pop_first(
        &self,
        keys: &[Key<'_>],
        end: ListEnd,
        count: u64,
    ) -> Result<Option<(usize, Vec<Bytes>)>, RmwError> {
        if let [key] = keys {
            let popped = self.pop_many(key.bytes, end, count)?;
            return Ok(popped.map(|values| (0, values)));
        }
        let core = &*self.core;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let _latches = self.latch_many(keys)?;
        for (i, &key) in keys.iter().enumerate() {
            // Under all the latches, a key that was found missing stays so.
            let (record, seen) = core.store.load(key, |record, seen| {
                let live = record.filter(|record| !core.is_expired(record));
                (live.cloned(), seen)
            });
            let Some(list) = Record::list_of(record.as_ref())? else {
                continue;
            };
            let (effect, popped) = (list.popped(end, count), list.first_of(end, count));
            drop(record);
            if !effect.is_keep() {
                core.store.publish(key, effect, seen)?;
            }
            return Ok(Some((i, popped)));
        }
        Ok(None)
    }
}
