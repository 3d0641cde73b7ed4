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
//! applied at one moment. So does [`update_many`](Rmw::update_many), with any commands inside.
//!
//! **Lists** are values like strings. What looks through a long one does so on a snapshot, so no
//! lock is held for longer than a lookup. A blocking pop or move waits for its element in line,
//! asleep or as a registered callback; the write that makes one serves it at the same moment.
//!
//! **Expiry**: an expired key is missing to every command at once. It is deleted by the next write
//! to it, or by a [`Sweeper`](crate::Sweeper) job that is armed for the earliest deadline and
//! asleep while nothing expires. The semantics are Redis 7.0's.

mod blocked;
mod blocking;
mod blocking_move;
mod builder;
mod clock;
mod command;
mod coordinator;
mod entry;
mod error;
mod expire;
mod float;
mod glob;
mod list;
mod list_move;
mod list_search;
mod lists;
mod many;
mod mem;
mod number;
mod options;
mod read;
mod scan;
mod serve;
mod staged;
mod stats;
mod store;
mod transaction;
mod update;
mod value;
mod version;

use std::fmt;
use std::hash::BuildHasher;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use foldhash::quality::SeedableRandomState;

pub use builder::RmwBuilder;
pub use clock::Clock;
pub use coordinator::{
    Command, CoordinatorError, CoordinatorOptions, CoordinatorStats, ListOp, Reply, RmwCoordinator,
    Shard,
};
pub use entry::Entry;
pub use error::{RmwError, StoreError};
pub use list::{Iter as ListIter, List, ListEdit, ListEnd};
pub use list_search::{Inserted, PosOptions};
pub use mem::MemStore;
pub use options::{ExpireWhen, GetExpiry, SetOptions, SetOutcome, Ttl};
pub use scan::{ScanOptions, ScanPage};
pub use staged::Staged;
pub use stats::RmwStats;
pub use store::{Effect, Key, KeyHasher, Record, Seen, Store};
pub use transaction::Transaction;
pub use value::{Bytes, Text, Value, ValueType};

use self::blocked::Blocked;
use crate::latch::LatchTable;
use crate::sweeper::Job;
use crate::sync::Arc;
use crate::sync::time::Instant;
use crate::sync::unmodelled::{AtomicBool, AtomicU64};

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
/// # Errors
/// Every write may return [`Reentrant`](RmwError::Reentrant), [`Busy`](RmwError::Busy),
/// [`TimedOut`](RmwError::TimedOut) on a handle with a [deadline](Self::with_deadline), and
/// [`Store`](RmwError::Store) if the store fails; the methods name what else there is. After an
/// error nothing has been changed.
///
/// # Blocking
/// A write waits while another thread holds the key's latch: for as long as commands take, or the
/// closure of an [`update`](Self::update). Reads do not wait. The methods say so only where it is
/// otherwise.
///
/// # Fairness
/// That of the [`LatchTable`].
pub struct Rmw<S: Store = MemStore> {
    core: Arc<Core<S>>,
    /// Dropped with the last handle; it then lets go of its `core`. A transaction has none.
    sweep: Option<Arc<Job>>,
    /// When the commands of this handle give up waiting.
    deadline: Option<Instant>,
    /// Whether who uses this handle holds the latches of the keys.
    is_latched: bool,
}

/// What the handles and the sweeper's job share.
struct Core<S> {
    store: S,
    /// None in a transaction, whose keys are latched for all of it.
    latches: Option<LatchTable<Vec<u8>>>,
    /// The latch table's.
    hasher: SeedableRandomState,
    clock: Clock,
    max_len: u64,
    sweep_every: Duration,
    /// The deadline that the job is armed for in Unix milliseconds, `u64::MAX` for none.
    armed: crate::sync::atomic::AtomicU64,
    counters: Counters,
    /// None in a transaction, which does not wait.
    blocked: Option<Arc<Blocked>>,
    /// Of a transaction: whether one of its updates is running, see `nest`.
    is_nesting: AtomicBool,
}

#[derive(Default)]
struct Counters {
    expired: AtomicU64,
    sweeps: AtomicU64,
    skipped: AtomicU64,
    /// Random picks.
    turns: AtomicU64,
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

    /// Starts a [`RmwBuilder`], for a limit on lengths, another store, clock or sweeper.
    ///
    /// ```
    /// use latchwork::rmw::Rmw;
    ///
    /// let rmw = Rmw::builder().max_value_len(1024).build();
    /// assert!(rmw.set("k", vec![0; 1025]).is_err());
    /// ```
    pub fn builder() -> RmwBuilder<MemStore> {
        RmwBuilder::new()
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
        let hash = self.core.hasher.hash_one(bytes);
        Key { bytes, hash }
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

    /// The bytes of memory that a key takes: its place in the store, the key and its value; zero if
    /// it is missing. What clones of the value share is counted once.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.set("k", vec![0; 1_000])?;
    /// assert!(rmw.memory_of("k") >= 1_000);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn memory_of(&self, key: impl AsRef<[u8]>) -> u64 {
        let key = key.as_ref();
        self.view(key, |record| {
            record.map_or(0, |record| mem::memory_of(key, record))
        })
    }
}

impl<S: Store> Core<S> {
    /// Whether a call is blocked on the key, whose latch is held: what writes it has to serve then.
    #[inline]
    fn is_awaited(&self, key: Key<'_>) -> bool {
        let blocked = self.blocked.as_ref();
        blocked.is_some_and(|blocked| blocked.waits_for(key))
    }

    /// Only a record with a deadline costs a look at the clock.
    #[inline]
    fn is_expired(&self, record: &Record) -> bool {
        record.expires_at().is_some() && record.is_expired(self.clock.now())
    }

    /// Whether no number is too long.
    #[inline]
    fn has_room_for_numbers(&self) -> bool {
        self.max_len >= number::DIGITS as u64
    }

    #[inline(always)]
    fn check_len(&self, value: &Value) -> Result<(), RmwError> {
        match value {
            Value::Integer(_) if self.has_room_for_numbers() => Ok(()),
            value => self.check_any_len(value),
        }
    }

    fn check_any_len(&self, value: &Value) -> Result<(), RmwError> {
        let len = match value {
            Value::Bytes(bytes) => bytes.len() as u64,
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
            sweep: self.sweep.clone(),
            deadline: self.deadline,
            is_latched: self.is_latched,
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
