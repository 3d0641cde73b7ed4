//! Latches by key: one holder at a time for each key, and nothing left of a key that nobody wants.
//!
//! A [`LatchTable`] is the thing to have beside a map whose values are read, changed and written
//! back: take the key's latch, and nobody else does it to the same key meanwhile. Memory follows
//! contention, not the number of keys: a latch exists only while it is held or waited for.
//!
//! | file | holds |
//! |---|---|
//! | `word` | who holds a latch that nobody else wants |
//! | `core` | the shards, the lines, who gets a latch next |
//! | `entries` | where a shard keeps the latches that are waited for |
//! | `wait` | how requests get in line, and how they end |
//! | `update`, `submit`, `submission`, `combine`, `operation` | operations that whoever holds the latch may run for others |
//! | `guard`, `several` | the guards of one latch, and of several |
//! | `watch` | the periodic sweep for those who wait without a thread |
//! | `stats`, `hottest` | what can be asked of a table |
//! | `error` | the errors, one for each kind of call |
//!
//! A key is identified by 44 bits of its seeded hash: no key is cloned and none is compared under a
//! lock. Two keys with the same bits share a latch, which is safe, and rare: one chance in 2^44 for
//! each pair.

mod builder;
mod combine;
mod core;
mod entries;
mod error;
mod guard;
mod hold;
mod hottest;
mod operation;
mod several;
mod stats;
mod submission;
mod submit;
mod update;
mod wait;
mod watch;
mod word;

pub use builder::Builder;
pub use error::{LatchError, LatchTimeoutError, TryLatchError};
pub use guard::{Latch, OwnedLatch, SendLatch};
pub use hottest::HotKey;
pub use several::{Latches, OwnedLatches, SendLatches};
pub use stats::Stats;

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::marker::PhantomData;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use foldhash::quality::SeedableRandomState;

use crate::holder::anchor::Anchor;
use crate::holder::claim;
use crate::sync::mutant;
use crate::sync::thread;
use crate::sync::time::{Instant, now};
use crate::sync::unmodelled::Arc;
use crate::waiter::{Callback, Delivery, Pending, dispatcher};
use crate::worker::Worker;

use self::core::Core;
use self::hold::Hold;
use self::submit::Turn;
use self::wait::{Ended, Place, Refusal};
use self::watch::Watch;
use self::word::Id;

/// A table of latches, one for each key that is held or waited for.
///
/// A handle: clones share the same latches. See the [module](self) for how it works.
///
/// ```
/// use latchwork::LatchTable;
/// use std::collections::HashMap;
/// use std::sync::RwLock;
///
/// let visits = RwLock::new(HashMap::<String, u64>::new());
/// let table = LatchTable::<String>::new();
/// std::thread::scope(|scope| {
///     for _ in 0..4 {
///         scope.spawn(|| {
///             let _held = table.latch("front page").unwrap();
///             let before = visits.read().unwrap().get("front page").copied();
///             // Nobody else updates this key meanwhile; other keys are not held up.
///             visits
///                 .write()
///                 .unwrap()
///                 .insert("front page".into(), before.unwrap_or(0) + 1);
///         });
///     }
/// });
/// assert_eq!(visits.read().unwrap()["front page"], 4);
/// assert_eq!(table.held(), 0);
/// ```
///
/// # Fairness
///
/// A newcomer may take a free latch past the line until the oldest waiter has waited 0.5 ms; from
/// then on each release hands it over.
///
/// # Deadlock
///
/// A thread that holds a latch of a table gets [`LatchError::Reentrant`] from every blocking call
/// on it; `try_` calls are allowed. With [`latch_many`](Self::latch_many) for several keys at once,
/// in one order for everybody, the latches of one table cannot deadlock.
pub struct LatchTable<K: ?Sized> {
    core: Anchor<Core>,
    hasher: SeedableRandomState,
    watch: Arc<Watch>,
    worker: Arc<Worker<Turn>>,
    keys: PhantomData<fn(&K)>,
}

impl<K: ?Sized> LatchTable<K> {
    /// A table with the defaults of [`builder`](Self::builder).
    pub fn new() -> Self {
        Self::with(Self::builder())
    }

    /// Starts a table.
    pub fn builder() -> Builder<K> {
        Builder::new()
    }

    pub(crate) fn with(builder: Builder<K>) -> Self {
        let core = Anchor::new(Core::new(
            builder.shards,
            builder.max_waiters,
            builder.sweep_every,
            builder.name.into(),
            builder.on_leak,
        ));
        let watch = Watch::new(
            core.clone(),
            &builder.sweeper.unwrap_or_default(),
            builder.sweep_every,
        );
        Self {
            watch: Arc::new(watch),
            worker: Arc::new(submit::worker(builder.max_waiters)),
            core,
            hasher: if thread::STARTS_ITS_OWN {
                SeedableRandomState::random()
            } else {
                // A model must take the same steps each time.
                SeedableRandomState::fixed()
            },
            keys: PhantomData,
        }
    }

    /// The hash that the table knows `key` by: seeded, so different in each table and process.
    ///
    /// For a store that shards by the same hash, so that it is computed once an operation.
    #[inline]
    pub fn hash_of<Q>(&self, key: &Q) -> u64
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.hasher.hash_one(key)
    }

    /// What [`hash_of`](Self::hash_of) hashes with.
    #[cfg(feature = "rmw")]
    pub(crate) fn hasher(&self) -> SeedableRandomState {
        self.hasher.clone()
    }

    /// Waits for the latch of `key`.
    ///
    /// # Errors
    ///
    /// [`LatchError::Reentrant`] if this thread holds a latch of the table already;
    /// [`LatchError::Busy`] if as many as the table allows wait for the key.
    ///
    /// # Blocking
    ///
    /// Until whoever holds it releases it.
    #[inline]
    #[track_caller]
    pub fn latch<Q>(&self, key: &Q) -> Result<Latch<'_>, LatchError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.check_reentry()?;
        let id = Id::of(self.hash_of(key));
        Ok(self.take_or_wait(id, b"", || None)?)
    }

    /// Takes the latch of `key` if it is free, and if taking it is not unfair to those who wait.
    ///
    /// # Errors
    ///
    /// [`TryLatchError::WouldBlock`].
    #[inline]
    #[track_caller]
    pub fn try_latch<Q>(&self, key: &Q) -> Result<Latch<'_>, TryLatchError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.try_latch_hashed(self.hash_of(key))
    }

    /// Waits for the latch of `key`, but not longer than `timeout`. A zero timeout tries once.
    ///
    /// # Errors
    ///
    /// [`LatchTimeoutError::TimedOut`]: the latch was not taken, and will not be. Otherwise as
    /// [`latch`](Self::latch).
    ///
    /// # Blocking
    ///
    /// Up to `timeout`.
    #[inline]
    #[track_caller]
    pub fn latch_timeout<Q>(
        &self,
        key: &Q,
        timeout: Duration,
    ) -> Result<Latch<'_>, LatchTimeoutError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        // No clock is read unless there is a wait. A timeout beyond the end of time is none.
        self.latch_until(self.hash_of(key), b"", || now().checked_add(timeout))
    }

    /// Waits for the latch of `key`, but not past `deadline`.
    ///
    /// # Errors
    ///
    /// As [`latch_timeout`](Self::latch_timeout).
    ///
    /// # Blocking
    ///
    /// Until `deadline`.
    #[inline]
    #[track_caller]
    pub fn latch_deadline<Q>(
        &self,
        key: &Q,
        deadline: Instant,
    ) -> Result<Latch<'_>, LatchTimeoutError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.latch_until(self.hash_of(key), b"", || Some(deadline))
    }

    /// Waits for the latches of all `keys`, repeated ones counting once.
    ///
    /// They are taken in the order of their hashes, which is one order for everybody: two calls
    /// with overlapping keys do not wait for each other.
    ///
    /// # Errors
    ///
    /// As [`latch`](Self::latch), and then none is held.
    ///
    /// # Blocking
    ///
    /// Until the last is there; those that came before are held meanwhile.
    #[track_caller]
    pub fn latch_many<'k, Q>(
        &self,
        keys: impl IntoIterator<Item = &'k Q>,
    ) -> Result<Latches<'_>, LatchError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized + 'k,
    {
        self.check_reentry()?;
        Ok(self.take_all(self.hashes_of(keys), None)?)
    }

    /// Takes the latches of all `keys` if all are free.
    ///
    /// # Errors
    ///
    /// As [`try_latch`](Self::try_latch), and then none is held.
    #[track_caller]
    pub fn try_latch_many<'k, Q>(
        &self,
        keys: impl IntoIterator<Item = &'k Q>,
    ) -> Result<Latches<'_>, TryLatchError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized + 'k,
    {
        let hashes = self.hashes_of(keys);
        let mut latches = Latches::with_capacity(hashes.len());
        for id in in_order(hashes) {
            latches.push(self.try_latch_hashed(id.bits())?);
        }
        Ok(latches)
    }

    /// Waits for the latches of all `keys`, but not longer than `timeout` for all of them.
    ///
    /// # Errors
    ///
    /// As [`latch_timeout`](Self::latch_timeout), and then none is held.
    ///
    /// # Blocking
    ///
    /// Up to `timeout`.
    #[track_caller]
    pub fn latch_many_timeout<'k, Q>(
        &self,
        keys: impl IntoIterator<Item = &'k Q>,
        timeout: Duration,
    ) -> Result<Latches<'_>, LatchTimeoutError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized + 'k,
    {
        self.latch_many_until(self.hashes_of(keys), now().checked_add(timeout))
    }

    /// Waits for the latches of all `keys`, but not past `deadline`.
    ///
    /// # Errors
    ///
    /// As [`latch_timeout`](Self::latch_timeout), and then none is held.
    ///
    /// # Blocking
    ///
    /// Until `deadline`.
    #[track_caller]
    pub fn latch_many_deadline<'k, Q>(
        &self,
        keys: impl IntoIterator<Item = &'k Q>,
        deadline: Instant,
    ) -> Result<Latches<'_>, LatchTimeoutError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized + 'k,
    {
        self.latch_many_until(self.hashes_of(keys), Some(deadline))
    }

    /// Asks for the latch of `key` without waiting for it: `f` is called with it once it is there.
    ///
    /// For event loops. `f` runs at once on this thread if the latch is free, else later on the
    /// thread that releases it, or on the library's own (`lw-dispatch`), as when that thread is
    /// ending. It runs outside all locks, and a panic in it is caught. It must not wait: other
    /// callbacks on the same thread are called when it has returned. Dropping the [`Pending`]
    /// cancels.
    ///
    /// ```
    /// use latchwork::LatchTable;
    /// use std::sync::mpsc;
    ///
    /// let table = LatchTable::<str>::new();
    /// let held = table.latch("a")?;
    /// let (send, receive) = mpsc::channel();
    /// let pending = table.latch_with("a", move |latch| send.send(latch).unwrap());
    /// drop(held); // delivers
    /// let latch = receive.recv()??;
    /// # drop((latch, pending));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `f` gets [`LatchError::Busy`] if as many as the table allows wait for the key.
    ///
    /// # Panics
    ///
    /// When the system refuses the one thread that serves callbacks on behalf of ending threads.
    pub fn latch_with<Q>(
        &self,
        key: &Q,
        f: impl FnOnce(Result<SendLatch, LatchError>) + Send + 'static,
    ) -> Pending
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.latch_with_hashed(self.hash_of(key), f)
    }

    /// The same by the key's hash.
    pub(crate) fn latch_with_hashed(
        &self,
        hash: u64,
        f: impl FnOnce(Result<SendLatch, LatchError>) + Send + 'static,
    ) -> Pending {
        dispatcher::start().expect("a thread for callbacks could not be started");
        let id = Id::of(hash);
        let delivery = Delivery::new();
        let handle = self.core.clone();
        let callback = Callback {
            run: Box::new(move |outcome: core::Outcome, is_wanted| {
                let latch = outcome.map(|hold| SendLatch::new(handle, hold));
                if is_wanted {
                    f(latch);
                }
            }),
            delivery: delivery.clone(),
        };
        match self.core.take_or_register(id, callback) {
            Ok(key) => {
                self.watch.joined();
                let core = self.core.clone();
                Pending::new(delivery, move || core.cancel(id, key))
            }
            Err((callback, outcome)) => {
                callback.deliver(outcome);
                Pending::delivered(delivery)
            }
        }
    }

    /// How many latches are held.
    pub fn held(&self) -> usize {
        self.core.held() as usize
    }

    /// How many requests wait.
    pub fn waiters(&self) -> usize {
        self.core.waiters() as usize
    }

    /// Takes over latches that are waited for and whose owner's thread has ended without giving
    /// them back. Returns how many.
    ///
    /// The end of a thread gives its latches back by itself; this is for whoever wants to be sure.
    /// It goes by the thread's exit flag and compares the hold, so it cannot take a latch from a
    /// fresh owner. It also runs by itself every 5 s (see [`Builder::sweep_every`]) while somebody
    /// waits.
    pub fn sweep(&self) -> usize {
        self.core.sweep(self.core.borrow().uncounted())
    }

    #[inline]
    #[track_caller]
    pub(crate) fn try_latch_hashed(&self, hash: u64) -> Result<Latch<'_>, TryLatchError> {
        match self.core.try_take(Id::of(hash)) {
            Some(hold) => Ok(self.guard(hold)),
            None => Err(TryLatchError::WouldBlock),
        }
    }

    #[inline]
    #[track_caller]
    pub(crate) fn latch_until(
        &self,
        hash: u64,
        name: &[u8],
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Latch<'_>, LatchTimeoutError> {
        self.check_reentry()?;
        self.take_or_wait(Id::of(hash), name, deadline)
            .map_err(Into::into)
    }

    #[track_caller]
    pub(crate) fn latch_many_until(
        &self,
        hashes: Vec<u64>,
        deadline: Option<Instant>,
    ) -> Result<Latches<'_>, LatchTimeoutError> {
        self.check_reentry()?;
        Ok(self.take_all(hashes, deadline)?)
    }

    #[track_caller]
    fn take_all(
        &self,
        hashes: Vec<u64>,
        deadline: Option<Instant>,
    ) -> Result<Latches<'_>, Refusal> {
        let ids = in_order(hashes);
        let mut latches = Latches::with_capacity(ids.len());
        for id in ids {
            latches.push(self.take_or_wait(id, b"", || deadline)?);
        }
        Ok(latches)
    }

    fn hashes_of<'k, Q>(&self, keys: impl IntoIterator<Item = &'k Q>) -> Vec<u64>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized + 'k,
    {
        keys.into_iter().map(|key| self.hash_of(key)).collect()
    }

    #[inline]
    pub(crate) fn check_reentry(&self) -> Result<(), LatchError> {
        if claim::holds(self.core.borrow().uncounted()) {
            return Err(LatchError::Reentrant);
        }
        Ok(())
    }

    #[inline]
    #[track_caller]
    fn take_or_wait(
        &self,
        id: Id,
        name: &[u8],
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Latch<'_>, Refusal> {
        let hold = match self.core.try_take(id) {
            Some(hold) => hold,
            None => match self.core.wait(self.place(id, name), None, deadline())? {
                Ended::Granted(hold) => hold,
                Ended::Served => unreachable!("nothing was to be done"),
            },
        };
        Ok(self.guard(hold))
    }

    fn place<'a>(&self, id: Id, name: &'a [u8]) -> Place<'a> {
        Place {
            at: self.core.borrow().uncounted(),
            id,
            name,
        }
    }

    #[inline]
    #[track_caller]
    fn guard(&self, hold: Hold) -> Latch<'_> {
        Latch::new(self.core.borrow(), hold, Location::caller())
    }
}

/// The one order in which everybody takes several latches, and each once: for who asks for one
/// after the other.
#[cfg(feature = "rmw")]
pub(crate) fn hashes_in_order(hashes: Vec<u64>) -> impl Iterator<Item = u64> {
    in_order(hashes).into_iter().map(Id::bits)
}

/// The one order in which everybody takes several latches.
fn in_order(hashes: Vec<u64>) -> Vec<Id> {
    let mut ids: Vec<Id> = hashes.into_iter().map(Id::of).collect();
    if !mutant::enabled("latch-many-unsorted") {
        ids.sort_unstable();
    }
    ids.dedup();
    ids
}

// A panic leaves a table as a release does: guards give back, callbacks are contained.
impl<K: ?Sized> UnwindSafe for LatchTable<K> {}
impl<K: ?Sized> RefUnwindSafe for LatchTable<K> {}

impl<K: ?Sized> Clone for LatchTable<K> {
    fn clone(&self) -> Self {
        Self {
            core: self.core.clone(),
            hasher: self.hasher.clone(),
            watch: self.watch.clone(),
            worker: self.worker.clone(),
            keys: PhantomData,
        }
    }
}

impl<K: ?Sized> Default for LatchTable<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: ?Sized> fmt::Debug for LatchTable<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatchTable")
            .field("name", &self.core.name)
            .field("held", &self.held())
            .field("waiters", &self.waiters())
            .finish_non_exhaustive()
    }
}
