//! Operations under a key's latch that whoever holds it may run for others.

use std::borrow::Borrow;
use std::hash::Hash;
use std::panic::resume_unwind;
use std::time::Duration;

use crate::holder::claim;
use crate::sync::time::{Instant, now};

#[cfg(feature = "rmw")]
use super::Latch;
use super::LatchTable;
use super::error::{LatchError, LatchTimeoutError};
use super::operation::Finished;
use super::wait::Refusal;
use super::word::Id;

impl<K: ?Sized> LatchTable<K> {
    /// Runs `operation` under the latch of `key`, and returns what it returns.
    ///
    /// For short operations on hot keys. Where the latch is free, this is [`latch`](Self::latch),
    /// the call, and the release. Where it is held by another thread's update, that thread runs
    /// this operation too when it is done with its own, and this one sleeps: a line of waiters then
    /// costs no context switch for each (flat combining; Hendler, Incze, Shavit and Tzafrir, 2010).
    /// It runs operations of others, oldest first, until 64 are done or 100 µs have passed since
    /// the first was, and then passes the role on.
    ///
    /// So `operation` may run on another thread: it must not depend on whose it is (thread-locals,
    /// guards that are not `Send`), must not wait, and should be short. Inside it every waiting
    /// call on this table is [`Reentrant`](LatchError::Reentrant), and so may be one on another
    /// table that the thread which runs it holds. For anything else, take the latch.
    ///
    /// ```
    /// use latchwork::LatchTable;
    /// use std::collections::HashMap;
    /// use std::sync::RwLock;
    ///
    /// let hits = RwLock::new(HashMap::from([("page", 0)]));
    /// let table = LatchTable::<str>::new();
    /// std::thread::scope(|scope| {
    ///     for _ in 0..4 {
    ///         scope.spawn(|| {
    ///             for _ in 0..100 {
    ///                 table
    ///                     .update("page", || {
    ///                         let seen = hits.read().unwrap()["page"];
    ///                         hits.write().unwrap().insert("page", seen + 1);
    ///                     })
    ///                     .unwrap();
    ///             }
    ///         });
    ///     }
    /// });
    /// assert_eq!(hits.read().unwrap()["page"], 400);
    /// ```
    ///
    /// # Errors
    ///
    /// As [`latch`](Self::latch); the operation has not run, and will not.
    ///
    /// # Panics
    ///
    /// With whatever `operation` panics with, here, wherever it ran. The others go on.
    ///
    /// # Blocking
    ///
    /// Until the operation is done.
    ///
    /// # Fairness
    ///
    /// Those in line are served oldest first; newcomers may take a free latch past them until the
    /// oldest has waited 0.5 ms.
    #[inline]
    #[track_caller]
    pub fn update<Q, R: Send>(
        &self,
        key: &Q,
        operation: impl FnOnce() -> R + Send,
    ) -> Result<R, LatchError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.update_hashed(self.hash_of(key), b"", operation)
    }

    /// Runs `operation` as [`update`](Self::update) does, if it can begin within `timeout`.
    ///
    /// The time is the start's: once the operation runs, this waits for its result. A thread in
    /// this call runs nobody else's operations.
    ///
    /// ```
    /// use latchwork::{LatchTable, latch::LatchTimeoutError};
    /// use std::time::Duration;
    ///
    /// let table = LatchTable::<str>::new();
    /// let held = table.latch("a")?.detach();
    /// let late = table.update_timeout("a", Duration::from_millis(1), || unreachable!());
    /// assert_eq!(late, Err::<(), _>(LatchTimeoutError::TimedOut));
    /// # drop(held);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`LatchTimeoutError::TimedOut`]: the operation has not run, and will not. Otherwise as
    /// [`update`](Self::update).
    ///
    /// # Panics
    ///
    /// As [`update`](Self::update).
    ///
    /// # Blocking
    ///
    /// Up to `timeout`, and for as long as the operation runs.
    #[inline]
    #[track_caller]
    pub fn update_timeout<Q, R: Send>(
        &self,
        key: &Q,
        timeout: Duration,
        operation: impl FnOnce() -> R + Send,
    ) -> Result<R, LatchTimeoutError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let deadline = || now().checked_add(timeout);
        self.update_until(self.hash_of(key), b"", deadline, operation)
    }

    /// Runs `operation` as [`update`](Self::update) does, if it can begin before `deadline`.
    ///
    /// # Errors
    ///
    /// As [`update_timeout`](Self::update_timeout).
    ///
    /// # Panics
    ///
    /// As [`update`](Self::update).
    ///
    /// # Blocking
    ///
    /// Until `deadline`, and for as long as the operation runs.
    #[inline]
    #[track_caller]
    pub fn update_deadline<Q, R: Send>(
        &self,
        key: &Q,
        deadline: Instant,
        operation: impl FnOnce() -> R + Send,
    ) -> Result<R, LatchTimeoutError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.update_until(self.hash_of(key), b"", || Some(deadline), operation)
    }

    /// The same by the key's hash; `name` is what to call the key in the statistics.
    #[inline(always)]
    #[track_caller]
    pub(crate) fn update_hashed<R: Send>(
        &self,
        hash: u64,
        name: &[u8],
        operation: impl FnOnce() -> R + Send,
    ) -> Result<R, LatchError> {
        self.check_reentry()?;
        let id = Id::of(hash);
        let Some(hold) = self.core.try_take(id) else {
            return Ok(self.update_in_line(id, name, None, operation)?);
        };
        let latch = self.guard(hold);
        let result = operation();
        latch.finish_and_wake();
        Ok(result)
    }

    /// Takes the latch of a key by its hash, if that is fair without waiting and this thread has
    /// none of the table; the first half of what [`update_hashed`](Self::update_hashed) does, and
    /// [`Latch::finish_and_wake`] the second.
    #[cfg(feature = "rmw")]
    #[inline(always)]
    #[track_caller]
    pub(crate) fn latch_if_free(&self, hash: u64) -> Option<Latch<'_>> {
        self.check_reentry().ok()?;
        Some(self.guard(self.core.try_take(Id::of(hash))?))
    }

    #[inline(always)]
    #[track_caller]
    pub(crate) fn update_until<R: Send>(
        &self,
        hash: u64,
        name: &[u8],
        deadline: impl FnOnce() -> Option<Instant>,
        operation: impl FnOnce() -> R + Send,
    ) -> Result<R, LatchTimeoutError> {
        self.check_reentry()?;
        let id = Id::of(hash);
        let Some(hold) = self.core.try_take(id) else {
            return Ok(self.update_in_line(id, name, deadline(), operation)?);
        };
        let _latch = self.guard(hold);
        Ok(operation())
    }

    #[cold]
    #[inline(never)]
    #[track_caller]
    fn update_in_line<R: Send>(
        &self,
        id: Id,
        name: &[u8],
        deadline: Option<Instant>,
        operation: impl FnOnce() -> R + Send,
    ) -> Result<R, Refusal> {
        // It may panic: here, and not while this thread stands in line (where it may get the latch
        // for the operations of others, and a panic is an abort) or has just been granted a latch.
        claim::register();
        // This thread stands in line meanwhile.
        let work = |hold| {
            if let Some(wakes) = self.guard(hold).finish() {
                wakes.deliver_by_dispatcher();
            }
        };
        let place = self.place(id, name);
        match self.core.wait_with(place, deadline, operation, work)? {
            Finished::Elsewhere(Ok(result)) => Ok(result),
            Finished::Elsewhere(Err(panic)) => resume_unwind(panic),
            Finished::Granted(hold, operation) => {
                let latch = self.guard(hold);
                let result = operation();
                // Who has a deadline works for nobody else.
                if deadline.is_none() {
                    latch.finish_and_wake();
                }
                Ok(result)
            }
        }
    }
}
