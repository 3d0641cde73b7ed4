//! What can be asked of an [`Rmw`] at any time.

use super::Rmw;
use super::store::Store;
use crate::latch::{HotKey, Stats as LatchStats};
use crate::sync::unmodelled::Ordering;

impl<S: Store> Rmw<S> {
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
            memory: self.core.store.memory(),
            expired: counters.expired.load(Ordering::Relaxed),
            sweeps: counters.sweeps.load(Ordering::Relaxed),
            sweep_skipped: counters.skipped.load(Ordering::Relaxed),
            blocked: self
                .core
                .blocked
                .as_ref()
                .map_or(0, |blocked| blocked.count()),
        }
    }

    /// What the keys' latches have done: waits, hand-offs, operations that one thread ran for
    /// others, and how long waits and such operations took. `None` for a transaction, whose keys
    /// are latched.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.incr_by("k", 1)?;
    /// assert_eq!(rmw.latch_stats().unwrap().waits.count(), 0);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn latch_stats(&self) -> Option<LatchStats> {
        Some(self.core.latches.as_ref()?.stats())
    }

    /// The keys that commands have waited for most, the most contended first, a few dozen at most.
    /// Their names are known where the waits were those of commands on one key.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// for key in rmw.hottest() {
    ///     println!("{} waits for {}", key.waits, key.name.escape_ascii());
    /// }
    /// ```
    pub fn hottest(&self) -> Vec<HotKey> {
        let latches = self.core.latches.as_ref();
        latches.map_or_else(Vec::new, |latches| latches.hottest())
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
    /// Bytes of memory that keys, values and tables take; zero if the store does not know.
    pub memory: u64,
    /// Keys deleted because they had expired.
    pub expired: u64,
    /// Sweeps for expired keys.
    pub sweeps: u64,
    /// Expired keys that a sweep left to the next one because their latch was held.
    pub sweep_skipped: u64,
    /// Blocked pops and moves that are waiting for an element.
    pub blocked: u64,
}
