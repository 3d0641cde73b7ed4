//! How a command runs under its key's latch.
//!
//! Short commands are one step of the store. An [`update`](Rmw::update) copies the record, lets the
//! closure work on the copy and publishes it, so that readers see the old value until then. Both
//! are operations that whoever holds the latch may run for others, see
//! [`LatchTable::update`](crate::LatchTable::update).

use super::entry::Entry;
use super::error::RmwError;
use super::store::{Effect, Key, Record, Seen, Store};
use super::value::Value;
use super::{Core, Rmw};
use crate::latch::{Latch, LatchTable, LatchTimeoutError, Latches};
use crate::sync::mutant;
use crate::sync::time::Instant;
use crate::sync::unmodelled::{AtomicBool, Ordering};

/// An update inside a transaction, while it runs.
pub(super) struct Nested<'a>(&'a AtomicBool);

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What an update found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Missing,
    Expired,
    Live(Option<u64>),
}

impl<S: Store> Rmw<S> {
    /// A handle on the same keys whose commands give up waiting at `deadline`.
    ///
    /// What has begun by then is finished: the deadline bounds the start. A command that could not
    /// begin has changed nothing, and will not.
    ///
    /// ```
    /// use latchwork::rmw::{Rmw, RmwError};
    /// use std::time::{Duration, Instant};
    ///
    /// let rmw = Rmw::new();
    /// let hasty = rmw.with_deadline(Instant::now() + Duration::from_millis(5));
    /// rmw.update_many(&["k"], |_| {
    ///     // Another thread, while this one has the key:
    ///     let late = std::thread::scope(|scope| scope.spawn(|| hasty.incr_by("k", 1)).join());
    ///     assert_eq!(late.unwrap(), Err(RmwError::TimedOut));
    ///     Ok::<_, RmwError>(())
    /// })??;
    /// assert_eq!(rmw.get("k")?, None);
    /// # Ok::<(), RmwError>(())
    /// ```
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        Self {
            deadline: Some(deadline),
            ..self.clone()
        }
    }

    /// A handle whose commands take no latch: who uses it holds that of their keys.
    pub(super) fn latched(&self) -> Self {
        Self {
            is_latched: true,
            ..self.clone()
        }
    }

    #[inline(always)]
    fn latches(&self) -> Option<&LatchTable<Vec<u8>>> {
        self.core.latches.as_ref().filter(|_| !self.is_latched)
    }

    /// Begins an update inside a transaction; on any other handle the latches do it. Until it ends,
    /// the transaction refuses other writes: they would be overwritten with what it has made of the
    /// copy that it took before.
    #[inline(always)]
    pub(super) fn nest(&self) -> Result<Option<Nested<'_>>, RmwError> {
        let core = &*self.core;
        if core.latches.is_some() {
            return Ok(None);
        }
        match core.is_nesting.swap(true, Ordering::Relaxed) {
            true => Err(RmwError::Reentrant),
            false => Ok(Some(Nested(&core.is_nesting))),
        }
    }

    /// For a write that takes no latch: refuses it inside an update of its transaction.
    #[inline(always)]
    fn check_nesting(&self) -> Result<(), LatchTimeoutError> {
        match self.core.is_nesting.load(Ordering::Relaxed) {
            true => Err(LatchTimeoutError::Reentrant),
            false => Ok(()),
        }
    }

    /// Runs `operation` under the key's latch, on this thread or on that of who holds it.
    #[inline(always)]
    fn under_latch<R: Send>(
        &self,
        key: Key<'_>,
        operation: impl FnOnce() -> Result<R, RmwError> + Send,
    ) -> Result<R, RmwError> {
        match (self.latches(), self.deadline) {
            (None, _) => {
                self.check_nesting()?;
                operation()
            }
            (Some(latches), None) => latches.update_hashed(key.hash, key.bytes, operation)?,
            (Some(latches), Some(deadline)) => {
                latches.update_until(key.hash, key.bytes, || Some(deadline), operation)?
            }
        }
    }

    /// The latch of a key, if this handle is to take it and nobody has it.
    ///
    /// Commands try this before they hand an operation over: what is common is then one piece of
    /// code whose values stay in registers, and not an operation that somebody else may run.
    #[inline(always)]
    fn free_latch(&self, key: Key<'_>) -> Option<Latch<'_>> {
        let latches = self.latches().filter(|_| self.deadline.is_none());
        latches?.latch_if_free(key.hash)
    }

    /// The latch of one key, for what takes longer; none in a transaction, which has it.
    pub(super) fn latch(&self, key: Key<'_>) -> Result<Option<Latch<'_>>, LatchTimeoutError> {
        let Some(latches) = self.latches() else {
            return self.check_nesting().map(|()| None);
        };
        let latch = latches.latch_until(key.hash, key.bytes, || self.deadline);
        latch.map(Some)
    }

    /// The latches of several keys; none in a transaction, which has them.
    pub(super) fn latch_many(
        &self,
        keys: &[Key<'_>],
    ) -> Result<Option<Latches<'_>>, LatchTimeoutError> {
        let Some(latches) = self.latches() else {
            return self.check_nesting().map(|()| None);
        };
        let hashes = keys.iter().map(|key| key.hash).collect();
        latches.latch_many_until(hashes, self.deadline).map(Some)
    }

    /// Runs one short command: `decide` sees the live record, and what it returns is applied.
    ///
    /// Where the latch is held, whoever holds it may run this.
    #[inline(always)]
    pub(super) fn write<'e, R: Send>(
        &self,
        key: &[u8],
        decide: impl FnOnce(Option<&Record>) -> Result<(Effect<'e>, R), RmwError> + Send,
    ) -> Result<R, RmwError> {
        let core = &*self.core;
        let key = self.key(key);
        if mutant::enabled("rmw-write-unprotected") {
            return core.change(key, decide, &mut None);
        }
        let Some(latch) = self.free_latch(key) else {
            return self.write_in_line(key, decide);
        };
        if core.is_awaited(key) {
            latch.finish_and_wake();
            return self.serve_write(key, decide);
        }
        let mut arm = None;
        let result = core.change(key, decide, &mut arm);
        latch.finish_and_wake();
        if let Some(at) = arm {
            self.arm(at);
        }
        result
    }

    /// A [`write`](Self::write) that has not found the latch free, or looks for none.
    #[inline(never)]
    fn write_in_line<'e, R: Send>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> Result<(Effect<'e>, R), RmwError> + Send,
    ) -> Result<R, RmwError> {
        let core = &*self.core;
        let mut arm = None;
        let arm_at = &mut arm;
        // `move`: who runs it for this thread finds the key in it, and not one cache line further.
        let done = self.under_latch(key, move || match core.is_awaited(key) {
            true => Ok(Err(decide)),
            false => core.change(key, decide, arm_at).map(Ok),
        });
        if let Some(at) = arm {
            self.arm(at);
        }
        done?.or_else(|decide| self.serve_write(key, decide))
    }

    /// Runs `operation` on the key's entry under its latch, and stores what became of it.
    ///
    /// The closure works on a copy that shares the value; readers see the old value until it
    /// returns. It may read this `Rmw` but not write to it (see Errors). Where another thread is in
    /// an update of the key, that one may run this closure too (see [`LatchTable::update`]): it
    /// must not wait, nor depend on whose thread it is on, and should be short.
    ///
    /// ```
    /// use latchwork::rmw::{Rmw, RmwError};
    ///
    /// let rmw = Rmw::new();
    /// rmw.set("balance", 100)?;
    /// let paid = rmw.update("balance", |entry| {
    ///     let balance = entry.integer()?.unwrap_or(0);
    ///     if balance < 30 {
    ///         return Ok(false); // nothing staged, nothing stored
    ///     }
    ///     entry.set(balance - 30);
    ///     Ok::<_, RmwError>(true)
    /// })??;
    /// assert!(paid);
    /// assert_eq!(rmw.get("balance")?, Some(70.into()));
    /// # Ok::<(), RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`Reentrant`](RmwError::Reentrant) if the calling thread is already inside an update, also
    /// of another key; [`Busy`](RmwError::Busy); [`TooLong`](RmwError::TooLong) and
    /// [`InvalidExpiry`](RmwError::InvalidExpiry) for what the closure staged;
    /// [`TimedOut`](RmwError::TimedOut) under a [deadline](Self::with_deadline). The closure's own
    /// result passes through as it is, and does not undo what it staged.
    ///
    /// # Panics
    /// A panic of the closure unwinds into the caller; the value stays as it was and the latch is
    /// released.
    ///
    /// # Blocking
    /// While another thread writes the key.
    pub fn update<R: Send>(
        &self,
        key: impl AsRef<[u8]>,
        operation: impl FnOnce(&mut Entry) -> R + Send,
    ) -> Result<R, RmwError> {
        let core = &*self.core;
        let key = self.key(key.as_ref());
        if mutant::enabled("rmw-update-unprotected") {
            return core.change_copy(key, operation, &mut None);
        }
        let Some(latch) = self.free_latch(key) else {
            return self.update_in_line(key, operation);
        };
        if core.is_awaited(key) {
            latch.finish_and_wake();
            return self.serve_update(key, operation);
        }
        // `change_copy` in its parts, so that the result is moved once, and when the stores of its
        // fields are long done.
        let (mut entry, mut arm) = (Entry::missing(), None);
        let (before, seen) = core.load_copy(key, &mut entry);
        let result = operation(&mut entry);
        let published = core.publish_copy(key, &mut entry, before, seen, &mut arm);
        latch.finish_and_wake();
        if let Some(at) = arm {
            self.arm(at);
        }
        published.map(|()| result)
    }

    /// An [`update`](Self::update) that has not found the latch free, or looks for none.
    #[inline(never)]
    fn update_in_line<R: Send>(
        &self,
        key: Key<'_>,
        operation: impl FnOnce(&mut Entry) -> R + Send,
    ) -> Result<R, RmwError> {
        let core = &*self.core;
        let mut arm = None;
        let nested = self.nest()?;
        let done = if nested.is_some() {
            core.change_copy(key, operation, &mut arm).map(Ok)
        } else {
            let arm_at = &mut arm;
            // `move`, as above.
            self.under_latch(key, move || match core.is_awaited(key) {
                true => Ok(Err(operation)),
                false => core.change_copy(key, operation, arm_at).map(Ok),
            })
        };
        if let Some(at) = arm {
            self.arm(at);
        }
        done?.or_else(|operation| self.serve_update(key, operation))
    }
}

impl<S: Store> Core<S> {
    /// One step of the store, or two where a record that has expired is in the way. Sets `arm` to
    /// the deadline that the key has got by it.
    ///
    /// An effect that comes out of `decide` is not moved on the common way, nor is the result put
    /// into another one: a value that is moved while its fields are still being stored costs more
    /// than the command.
    #[inline(always)]
    fn change<'e, R>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> Result<(Effect<'e>, R), RmwError>,
        arm: &mut Option<u64>,
    ) -> Result<R, RmwError> {
        let (mut new_deadline, mut expired, mut later) = (None, false, None);
        let result = self.store.change(
            key,
            #[inline(always)]
            |record| {
                expired = record.is_some_and(|record| self.is_expired(record));
                let live = record.filter(|_| !expired);
                match decide(live) {
                    Ok((effect, result)) => {
                        new_deadline = effect.deadline_after(live);
                        if !expired || matches!(effect, Effect::Put(_)) {
                            return (effect, Ok(result));
                        }
                        // What leaves the key missing is done with this one step.
                        let is_done = matches!(effect, Effect::Keep | Effect::Delete);
                        later = Some(effect).filter(|_| !is_done);
                        (Effect::Delete, Ok(result))
                    }
                    Err(error) if expired => (Effect::Delete, Err(error)),
                    Err(error) => (Effect::Keep, Err(error)),
                }
            },
        )?;
        if expired {
            self.counters.expired.fetch_add(1, Ordering::Relaxed);
            if let Some(effect) = later {
                // The record is out of the way now, and the latch is still held.
                self.store.change(key, |_| (effect, ()))?;
            }
        }
        *arm = new_deadline;
        result
    }

    /// Lets `operation` work on a copy of the record, and publishes what became of that. Sets `arm`
    /// to the deadline that the key has got by it.
    fn change_copy<R>(
        &self,
        key: Key<'_>,
        operation: impl FnOnce(&mut Entry) -> R,
        arm: &mut Option<u64>,
    ) -> Result<R, RmwError> {
        let mut entry = Entry::missing();
        let (before, seen) = self.load_copy(key, &mut entry);
        let result = operation(&mut entry);
        self.publish_copy(key, &mut entry, before, seen, arm)?;
        Ok(result)
    }

    /// Copies the live record.
    #[inline(always)]
    fn load_copy(&self, key: Key<'_>, entry: &mut Entry) -> (Before, Seen) {
        let mut before = Before::Missing;
        let seen = self.store.load(
            key,
            #[inline(always)]
            |record, seen| {
                match record {
                    None => {}
                    Some(record) if self.is_expired(record) => before = Before::Expired,
                    Some(record) => {
                        before = Before::Live(record.expires_at());
                        entry.fill(record);
                    }
                }
                seen
            },
        );
        (before, seen)
    }

    /// Publishes what became of the copy, which stays where it is. Sets `arm` to the deadline that
    /// the key has got by it.
    #[inline(always)]
    fn publish_copy(
        &self,
        key: Key<'_>,
        entry: &mut Entry,
        before: Before,
        seen: Seen,
        arm: &mut Option<u64>,
    ) -> Result<(), RmwError> {
        if !entry.is_staged() && before != Before::Expired {
            return Ok(());
        }
        if entry.is_staged() && mutant::enabled("rmw-update-deletes-first") {
            self.store.publish(key, Effect::Delete, seen)?;
        }
        let at = entry.expires_at();
        if let Some(&Value::Integer(number)) = entry.get()
            && before == Before::Live(at)
            && self.has_room_for_numbers()
        {
            // By itself: what is known to be a number is published from registers.
            let record = Record::new(number, at);
            return Ok(self.store.publish(key, Effect::Put(record), seen)?);
        }
        *arm = self.publish_entry(key, entry, before, seen)?;
        Ok(())
    }

    /// Publishes what was staged, if anything was. Returns the deadline that the key has got by it.
    #[inline(never)]
    fn publish_entry(
        &self,
        key: Key<'_>,
        entry: &mut Entry,
        before: Before,
        seen: Seen,
    ) -> Result<Option<u64>, RmwError> {
        let (staged, at) = (entry.is_staged(), entry.expires_at());
        let new_deadline = at.filter(|_| before != Before::Live(at));
        let effect = match entry.take_value() {
            Some(value) if staged => {
                self.check_len(&value)?;
                let is_over = match new_deadline {
                    Some(at) => self.check_deadline(at)? <= self.clock.now(),
                    None => false,
                };
                if is_over {
                    Effect::Delete
                } else {
                    Effect::put(Record::new(value, at))
                }
            }
            _ => Effect::Delete,
        };
        self.store.publish(key, effect, seen)?;
        if before == Before::Expired {
            self.counters.expired.fetch_add(1, Ordering::Relaxed);
        }
        Ok(new_deadline)
    }
}
