//! Typed read-modify-write commands on keys.
//!
//! [`Rmw`] executes each command atomically a key. A write takes the key's latch, finds the key
//! once in the [`Store`], decides, and has the store apply the resulting [`Effect`] in the same
//! step. A read takes no latch and never waits for an update that is running: it sees the value
//! before it or the one after.
//!
//! Why no update is lost: every write of a key runs under that key's latch, a plain `set`
//! included. The short commands run under the store's own lock as well and so are single steps;
//! [`update`](Rmw::update) runs the user's closure on a copy, outside all locks but the latch, and
//! publishes what became of it. A panic in the closure unwinds before anything was published.
//!
//! Commands over several keys take all their latches at once, in an order that all share, and are
//! applied at one moment.
//!
//! **Expiry**: an expired key is missing to every command at once. It is deleted by the next write
//! to it, or by a [`Sweeper`] job that is armed for the earliest deadline and asleep while nothing
//! expires. The semantics are Redis 7.0's.

mod clock;
mod command;
mod entry;
mod error;
mod expire;
mod list;
mod list_move;
mod list_search;
mod lists;
mod many;
mod mem;
mod number;
mod options;
mod read;
mod store;
mod value;
mod version;

use std::fmt;
use std::hash::BuildHasher;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

pub use clock::Clock;
pub use entry::Entry;
pub use error::{RmwError, StoreError};
pub use list::{Iter as ListIter, List, ListEdit, ListEnd};
pub use list_search::{Inserted, PosOptions};
pub use mem::MemStore;
pub use options::{ExpireWhen, GetExpiry, SetOptions, SetOutcome, Ttl};
pub use store::{Effect, Key, KeyHasher, Record, Seen, Store};
pub use value::{Bytes, Text, Value, ValueType};

use crate::latch::LatchTable;
use crate::sweeper::{Job, Sweeper};
use crate::sync::unmodelled::{AtomicU64, Ordering};
use crate::sync::{Arc, mutant};

/// The longest string by default: Redis's 512 MiB.
const MAX_VALUE_LEN: usize = 512 << 20;

/// The highest limit for strings: lengths and capacities computed from two of them fit an `isize`.
const MAX_MAX_VALUE_LEN: usize = isize::MAX as usize / 4;

/// Pause between sweeps at least.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Typed commands on keys, each atomic.
///
/// Use it where many threads read, count, append to and replace values by key, and no update may
/// be lost: sessions, counters, limits, a cache with expiry. A clone is a handle on the same keys.
///
/// Keys are bytes; values are [`Value`]s, shared and cheap to clone.
///
/// ```
/// use latchwork::rmw::{Rmw, RmwError};
///
/// let rmw = Rmw::new();
/// std::thread::scope(|scope| {
///     for _ in 0..4 {
///         scope.spawn(|| (0..100).try_for_each(|_| rmw.incr_by("hits", 1).map(drop)));
///     }
/// });
/// assert_eq!(rmw.get("hits")?, Some(400.into()));
///
/// // Anything else, as a closure under the key's latch:
/// let doubled = rmw.update("hits", |entry| {
///     let hits = entry.integer()?.unwrap_or(0);
///     entry.set(hits * 2);
///     Ok::<_, RmwError>(hits * 2)
/// })??;
/// assert_eq!(doubled, 800);
/// # Ok::<(), RmwError>(())
/// ```
///
/// # Blocking
/// A write waits while another thread holds the key's latch: for as long as commands take, or the
/// closure of an [`update`](Self::update). Reads wait for nobody.
pub struct Rmw<S: Store = MemStore> {
    core: Arc<Core<S>>,
    /// Dropped with the last handle; it then lets go of its `core`.
    sweep: Arc<Job>,
}

/// What the handles and the sweeper's job share.
struct Core<S> {
    store: S,
    latches: LatchTable<Vec<u8>>,
    clock: Clock,
    max_len: u64,
    sweep_interval: Duration,
    /// The deadline that the job is armed for in Unix milliseconds, `u64::MAX` for none.
    armed: crate::sync::atomic::AtomicU64,
    counters: Counters,
}

/// What an update found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Missing,
    Expired,
    Live(Option<u64>),
}

#[derive(Default)]
struct Counters {
    expired: AtomicU64,
    sweeps: AtomicU64,
    skipped: AtomicU64,
}

impl Rmw<MemStore> {
    /// An empty store in memory, with the defaults of [`builder`](Self::builder).
    ///
    /// ```
    /// use latchwork::rmw::Rmw;
    ///
    /// assert!(Rmw::new().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Starts a description of what to build.
    ///
    /// ```
    /// use latchwork::rmw::Rmw;
    ///
    /// let rmw = Rmw::builder().max_value_len(1024).build();
    /// assert!(rmw.set("k", vec![0; 1025]).is_err());
    /// ```
    pub fn builder() -> RmwBuilder<MemStore> {
        RmwBuilder {
            store: MemStore::new(),
            latches: None,
            sweeper: None,
            clock: Clock::system(),
            max_len: MAX_VALUE_LEN,
            sweep_interval: SWEEP_INTERVAL,
        }
    }
}

impl Default for Rmw<MemStore> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Store> Rmw<S> {
    /// The key and its hash, computed once an operation.
    #[inline]
    fn key<'k>(&self, bytes: &'k [u8]) -> Key<'k> {
        let hash = self.core.latches.hash_of(bytes);
        Key { bytes, hash }
    }

    /// Runs one short command: `decide` sees the live record, and what it returns is applied.
    #[inline(always)]
    fn write<'e, R>(
        &self,
        key: &[u8],
        decide: impl FnOnce(Option<&Record>) -> Result<(Effect<'e>, R), RmwError>,
    ) -> Result<R, RmwError> {
        let core = &*self.core;
        let key = self.key(key);
        let latch = core.latches.latch_hashed(key.hash)?;
        let latch = Some(latch).filter(|_| !mutant::enabled("rmw-write-unprotected"));
        let (mut arm, mut expired, mut later) = (None, false, None);
        let result = core.store.change(key, |record| {
            expired = record.is_some_and(|record| core.is_expired(record));
            let live = record.filter(|_| !expired);
            match decide(live) {
                Ok((effect, result)) => {
                    arm = effect.deadline_after(live);
                    match effect {
                        Effect::Put(_) => (effect, Ok(result)),
                        _ if expired => {
                            // What leaves the key missing is done with this one step.
                            let is_done = matches!(effect, Effect::Keep | Effect::Delete);
                            later = Some(effect).filter(|_| !is_done);
                            (Effect::Delete, Ok(result))
                        }
                        _ => (effect, Ok(result)),
                    }
                }
                Err(error) if expired => (Effect::Delete, Err(error)),
                Err(error) => (Effect::Keep, Err(error)),
            }
        })?;
        if expired {
            core.counters.expired.fetch_add(1, Ordering::Relaxed);
            if let Some(effect) = later {
                // The record is out of the way now, and the latch is still held.
                core.store.change(key, |_| (effect, ()))?;
            }
        }
        drop(latch);
        if let Some(at) = arm {
            self.arm(at);
        }
        result
    }

    /// Runs `operation` on the key's entry under its latch, and stores what became of it.
    ///
    /// The closure works on a copy that shares the value; readers see the old value until it
    /// returns. It may do anything but write to this `Rmw` (see Errors); reading it is fine. It
    /// should be short: writers of the key wait for it.
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
    /// [`InvalidExpiry`](RmwError::InvalidExpiry) for what the closure staged. The closure's own
    /// result passes through as it is, and does not undo what it staged.
    ///
    /// # Panics
    /// A panic of the closure unwinds into the caller; the value stays as it was and the latch is
    /// released.
    ///
    /// # Blocking
    /// While another thread writes the key.
    pub fn update<R>(
        &self,
        key: impl AsRef<[u8]>,
        operation: impl FnOnce(&mut Entry) -> R,
    ) -> Result<R, RmwError> {
        let core = &*self.core;
        let key = self.key(key.as_ref());
        let latch = core.latches.latch_hashed(key.hash)?;
        let latch = Some(latch).filter(|_| !mutant::enabled("rmw-update-unprotected"));
        let (mut entry, before, seen) = core.store.load(key, |record, seen| {
            let before = match record {
                None => Before::Missing,
                Some(record) if core.is_expired(record) => Before::Expired,
                Some(record) => Before::Live(record.expires_at()),
            };
            let live = record.filter(|_| !matches!(before, Before::Expired));
            (Entry::new(live), before, seen)
        });
        let result = operation(&mut entry);
        let (staged, at) = (entry.is_staged(), entry.expires_at());
        let is_new_deadline = before != Before::Live(at) && at.is_some();
        if staged && mutant::enabled("rmw-update-deletes-first") {
            core.store.publish(key, Effect::Delete, seen)?;
        }
        match entry.into_value() {
            _ if !staged && before != Before::Expired => return Ok(result),
            Some(value) if staged => {
                core.check_len(&value)?;
                match at {
                    Some(at) if is_new_deadline && core.check_deadline(at)? <= core.clock.now() => {
                        core.store.publish(key, Effect::Delete, seen)?;
                    }
                    _ => {
                        let effect = Effect::put(Record::new(value, at));
                        core.store.publish(key, effect, seen)?;
                    }
                }
            }
            _ => core.store.publish(key, Effect::Delete, seen)?,
        }
        drop(latch);
        if before == Before::Expired {
            core.counters.expired.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(at) = at
            && is_new_deadline
        {
            self.arm(at);
        }
        Ok(result)
    }

    /// How many keys there are. Expired ones count until they are deleted.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("k", "v")?;
    /// assert_eq!(rmw.len(), 1);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn len(&self) -> u64 {
        self.core.store.len()
    }

    /// Whether there are no keys.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// assert!(Rmw::new().is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.core.store.is_empty()
    }

    /// Deletes every key at one moment (`FLUSHALL`). An update that is running at that moment
    /// counts as having come before.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("k", "v")?;
    /// rmw.clear()?;
    /// assert!(rmw.is_empty());
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// When the store fails.
    pub fn clear(&self) -> Result<(), RmwError> {
        Ok(self.core.store.clear()?)
    }

    /// Counters and gauges, read without a lock.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// assert_eq!(Rmw::new().stats().keys, 0);
    /// ```
    pub fn stats(&self) -> RmwStats {
        let counters = &self.core.counters;
        RmwStats {
            keys: self.len(),
            expiring: self.core.store.expiring(),
            expired: counters.expired.load(Ordering::Relaxed),
            sweeps: counters.sweeps.load(Ordering::Relaxed),
            sweep_skipped: counters.skipped.load(Ordering::Relaxed),
        }
    }
}

impl<S: Store> Core<S> {
    /// Only a record with a deadline costs a look at the clock.
    #[inline]
    fn is_expired(&self, record: &Record) -> bool {
        record.expires_at().is_some() && record.is_expired(self.clock.now())
    }

    #[inline]
    fn check_len(&self, value: &Value) -> Result<(), RmwError> {
        let len = match value {
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::Integer(_) if self.max_len >= number::DIGITS as u64 => 0,
            Value::Integer(_) => value.len() as u64,
            Value::List(list) if list.longest() as u64 <= self.max_len => 0,
            Value::List(list) => list.iter().map(|value| value.len()).max().unwrap_or(0) as u64,
        };
        self.check_end(Some(len)).map(drop)
    }

    /// A string's length, unless it overflowed or is above the limit.
    #[inline]
    fn check_end(&self, len: Option<u64>) -> Result<u64, RmwError> {
        match len {
            Some(len) if len <= self.max_len => Ok(len),
            _ => Err(RmwError::TooLong {
                len: len.unwrap_or(u64::MAX),
                max: self.max_len,
            }),
        }
    }
}

// A command that panics has applied its effect or has not; the store answers for its own half.
impl<S: Store + RefUnwindSafe> UnwindSafe for Rmw<S> {}
impl<S: Store + RefUnwindSafe> RefUnwindSafe for Rmw<S> {}

impl<S: Store> Clone for Rmw<S> {
    fn clone(&self) -> Self {
        Self {
            core: Arc::clone(&self.core),
            sweep: Arc::clone(&self.sweep),
        }
    }
}

impl<S: Store> fmt::Debug for Rmw<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rmw")
            .field("stats", &self.stats())
            .field("clock", &self.core.clock)
            .finish_non_exhaustive()
    }
}

/// What [`Rmw::stats`] returns.
///
/// ```
/// use latchwork::rmw::Rmw;
///
/// let rmw = Rmw::new();
/// rmw.set("k", "v")?;
/// assert_eq!(rmw.stats().keys, 1);
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RmwStats {
    /// Keys there are, expired ones that are not deleted yet included.
    pub keys: u64,
    /// How many of them have a deadline.
    pub expiring: u64,
    /// Keys deleted because they had expired.
    pub expired: u64,
    /// Sweeps for expired keys.
    pub sweeps: u64,
    /// Expired keys that a sweep left to the next one because their latch was held.
    pub sweep_skipped: u64,
}

/// Describes an [`Rmw`].
///
/// ```
/// use latchwork::{rmw::Rmw, sweeper::Sweeper};
///
/// let sweeper = Sweeper::new(); // one thread for several components
/// let sessions = Rmw::builder().sweeper(sweeper.clone()).build();
/// let limits = Rmw::builder().sweeper(sweeper).max_value_len(64).build();
/// # drop((sessions, limits));
/// ```
#[must_use]
pub struct RmwBuilder<S = MemStore> {
    store: S,
    latches: Option<LatchTable<Vec<u8>>>,
    sweeper: Option<Sweeper>,
    clock: Clock,
    max_len: usize,
    sweep_interval: Duration,
}

impl<S: Store> RmwBuilder<S> {
    /// Where the records are. Default: an empty [`MemStore`].
    ///
    /// ```
    /// # use latchwork::rmw::{MemStore, Rmw};
    /// let rmw = Rmw::builder().store(MemStore::new()).build();
    /// # drop(rmw);
    /// ```
    pub fn store<T: Store>(self, store: T) -> RmwBuilder<T> {
        RmwBuilder {
            store,
            latches: self.latches,
            sweeper: self.sweeper,
            clock: self.clock,
            max_len: self.max_len,
            sweep_interval: self.sweep_interval,
        }
    }

    /// The latches to write under. Default: a table of its own. A store is for one table: its
    /// keys' hashes are the table's.
    ///
    /// ```
    /// # use latchwork::{latch::LatchTable, rmw::Rmw};
    /// let rmw = Rmw::builder().latches(LatchTable::new()).build();
    /// # drop(rmw);
    /// ```
    pub fn latches(mut self, latches: LatchTable<Vec<u8>>) -> Self {
        self.latches = Some(latches);
        self
    }

    /// Who deletes expired keys. Default: a sweeper of its own, whose thread starts with the first
    /// expiry.
    ///
    /// ```
    /// # use latchwork::{rmw::Rmw, sweeper::Sweeper};
    /// let rmw = Rmw::builder().sweeper(Sweeper::new()).build();
    /// # drop(rmw);
    /// ```
    pub fn sweeper(mut self, sweeper: Sweeper) -> Self {
        self.sweeper = Some(sweeper);
        self
    }

    /// The time that expiry goes by. Default: the system's.
    ///
    /// ```
    /// # use latchwork::rmw::{Clock, Rmw};
    /// let rmw = Rmw::builder().clock(Clock::manual(0)).build();
    /// # drop(rmw);
    /// ```
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The longest string in bytes. Default: 512 MiB. A limit above a quarter of `isize::MAX` is
    /// that quarter. A string within the limit that finds no memory aborts the process, as any
    /// allocation does: choose a limit that the machine can hold.
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, RmwError};
    /// let rmw = Rmw::builder().max_value_len(3).build();
    /// assert_eq!(rmw.set("k", "long"), Err(RmwError::TooLong { len: 4, max: 3 }));
    /// ```
    pub fn max_value_len(mut self, bytes: usize) -> Self {
        self.max_len = bytes.min(MAX_MAX_VALUE_LEN);
        self
    }

    /// The pause between sweeps at least, and so how long an expired key may take up memory.
    /// Default: 100 ms.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::builder().sweep_interval(std::time::Duration::from_secs(1)).build();
    /// # drop(rmw);
    /// ```
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.sweep_interval = interval;
        self
    }

    /// Builds it. No thread is started.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// assert!(Rmw::builder().build().is_empty());
    /// ```
    pub fn build(mut self) -> Rmw<S> {
        let sweeper = self.sweeper.unwrap_or_default();
        let latches = self
            .latches
            .unwrap_or_else(|| LatchTable::with(LatchTable::builder().sweeper(sweeper.clone())));
        let hasher = latches.hasher();
        self.store
            .hash_with(KeyHasher::new(move |key| hasher.hash_one(key)));
        let core = Arc::new(Core {
            store: self.store,
            latches,
            clock: self.clock,
            max_len: self.max_len as u64,
            sweep_interval: self.sweep_interval,
            armed: crate::sync::atomic::AtomicU64::new(u64::MAX),
            counters: Counters::default(),
        });
        let swept = Arc::clone(&core);
        let sweep = sweeper.job("rmw: expired keys", move || swept.run_sweep());
        Rmw {
            core,
            sweep: Arc::new(sweep),
        }
    }
}

impl<S> fmt::Debug for RmwBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RmwBuilder")
            .field("clock", &self.clock)
            .field("max_value_len", &self.max_len)
            .field("sweep_interval", &self.sweep_interval)
            .finish_non_exhaustive()
    }
}
