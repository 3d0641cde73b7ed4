//! What an [`Rmw`] is built from.

use std::fmt;
use std::hash::BuildHasher;
use std::time::Duration;

use super::blocked::Blocked;
use super::clock::Clock;
use super::mem::MemStore;
use super::store::{KeyHasher, Store};
use super::{Core, Counters, Rmw};
use crate::latch::LatchTable;
use crate::sweeper::Sweeper;
use crate::sync::Arc;

/// The longest string by default: Redis's 512 MiB.
const MAX_VALUE_LEN: usize = 512 << 20;

/// The highest limit for strings: lengths and capacities computed from two of them fit an `isize`.
const MAX_MAX_VALUE_LEN: usize = isize::MAX as usize / 4;

/// Pause between sweeps at least.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

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
    sweep_every: Duration,
}

impl RmwBuilder<MemStore> {
    pub(super) fn new() -> Self {
        Self {
            store: MemStore::new(),
            latches: None,
            sweeper: None,
            clock: Clock::system(),
            max_len: MAX_VALUE_LEN,
            sweep_every: SWEEP_INTERVAL,
        }
    }
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
            sweep_every: self.sweep_every,
        }
    }

    /// The latch table that writes use, for other code that has to keep writers away from a key. A
    /// thread that holds one of these latches gets [`Reentrant`](super::RmwError::Reentrant) from
    /// writes of its own. Default: a table of its own. A store belongs to one table, because it
    /// uses the table's hashes.
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

    /// The sweeper that deletes expired keys. Default: one of its own, whose thread starts with the
    /// first expiry.
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

    /// The clock that decides about expiry. Default: the system's.
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

    /// The shortest pause between two sweeps, and so how long an expired key may take up memory.
    /// Default: 100 ms.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::builder().sweep_every(std::time::Duration::from_secs(1)).build();
    /// # drop(rmw);
    /// ```
    pub fn sweep_every(mut self, interval: Duration) -> Self {
        self.sweep_every = interval;
        self
    }

    /// Builds it. No thread is started, unless the store comes with deadlines: then the sweeper is
    /// armed for the first.
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
        let same = hasher.clone();
        self.store
            .hash_with(KeyHasher::new(move |key| same.hash_one(key)));
        let core = Arc::new(Core {
            store: self.store,
            latches: Some(latches),
            hasher,
            clock: self.clock,
            max_len: self.max_len as u64,
            sweep_every: self.sweep_every,
            armed: crate::sync::atomic::AtomicU64::new(u64::MAX),
            counters: Counters::default(),
            blocked: Some(Arc::new(Blocked::new())),
            is_nesting: false.into(),
        });
        let swept = Arc::clone(&core);
        let sweep = sweeper.job("rmw: expired keys", move || swept.run_sweep());
        let rmw = Rmw {
            core,
            sweep: Some(Arc::new(sweep)),
            deadline: None,
            is_latched: false,
        };
        if let Some(at) = rmw.core.store.next_deadline() {
            rmw.arm(at);
        }
        rmw
    }
}

impl<S> fmt::Debug for RmwBuilder<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RmwBuilder")
            .field("clock", &self.clock)
            .field("max_value_len", &self.max_len)
            .field("sweep_every", &self.sweep_every)
            .finish_non_exhaustive()
    }
}
