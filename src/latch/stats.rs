//! What can be asked of a table at any time.

use std::borrow::Borrow;
use std::hash::Hash;

use crate::waiter::WaitHistogram;

use super::LatchTable;
use super::hottest::HotKey;
use super::word::Id;

/// What a [`LatchTable`] has done and how it stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// How many latches are held.
    pub held: usize,
    /// How many requests wait.
    pub waiters: usize,
    /// How long requests stood in line: those that were served, and threads that gave up.
    pub waits: WaitHistogram,
    /// How long operations took that were run for another thread: one in 16 is timed.
    pub services: WaitHistogram,
    /// How many operations were run by a thread that was not the one that asked for them.
    pub combined: u64,
    /// How many requests were served out of a line with the latch itself.
    pub hand_offs: u64,
    /// How many newcomers took a latch past a line.
    pub barges: u64,
    /// How many requests gave up.
    pub timeouts: u64,
    /// How many requests were refused because a line was full.
    pub busy: u64,
    /// How many latches came back from guards that were leaked.
    pub leaked: u64,
}

impl<K: ?Sized> LatchTable<K> {
    /// Counters and gauges, read without locks.
    pub fn stats(&self) -> Stats {
        let counters = &self.core.counters;
        Stats {
            held: self.held(),
            waiters: self.waiters(),
            waits: counters.waits.read(),
            services: counters.services.read(),
            combined: counters.combined.get(),
            hand_offs: counters.hand_offs.get(),
            barges: counters.barges.get(),
            timeouts: counters.timeouts.get(),
            busy: counters.busy.get(),
            leaked: counters.leaked.get(),
        }
    }

    /// The keys that were waited for most, the most contended first. Takes locks, for a moment
    /// each.
    ///
    /// ```
    /// use latchwork::LatchTable;
    /// use std::time::Duration;
    ///
    /// let table = LatchTable::<str>::new();
    /// let held = table.latch("busy")?.detach();
    /// for _ in 0..3 {
    ///     table.latch_timeout("busy", Duration::from_millis(1)).unwrap_err();
    /// }
    /// let hottest = &table.hottest()[0];
    /// assert!(table.is_hash_of(hottest.hash, "busy"));
    /// assert_eq!(hottest.waits, 3);
    /// # drop(held);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn hottest(&self) -> Vec<HotKey> {
        let mut keys: Vec<HotKey> = Vec::new();
        for shard in &self.core.shards {
            keys.extend_from_slice(shard.hottest.lock().keys());
        }
        keys.sort_by_key(|key| std::cmp::Reverse(key.waits));
        keys
    }

    /// Whether [`HotKey::hash`] is that of `key`.
    pub fn is_hash_of<Q>(&self, hash: u64, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        Id::of(self.hash_of(key)).bits() == hash
    }
}
