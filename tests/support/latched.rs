//! What the storms of latch tables guard: plain cells, one a key; and their callbacks, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use fastrand::Rng;
use latchwork::latch::LatchTable;

use super::await_state;
use super::plain::Plain;

/// Everything is back.
#[track_caller]
pub(crate) fn assert_quiet(table: &LatchTable<u64>) {
    assert_eq!(table.held(), 0, "{table:?}");
    assert_eq!(table.waiters(), 0, "{table:?}");
    assert_eq!(table.sweep(), 0);
}

/// Waits until all `closures` are gone and what they were given is back.
#[track_caller]
pub(crate) fn await_quiet(table: &LatchTable<u64>, closures: &AtomicU64) {
    await_state((0, 0, 0), || {
        // Acquire: what the closures did is seen.
        let closures = closures.load(Ordering::Acquire);
        (closures, table.held(), table.waiters())
    });
}

/// Counts itself as long as it exists.
pub(crate) struct Counted(Arc<AtomicU64>);

impl Counted {
    pub(crate) fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Release: for who waits for the end. It orders nothing among those who count.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Plain cells by key, and how often each has been written, as those know who asked for it.
pub(crate) struct Cells(Vec<(Plain, AtomicI64)>);

impl Cells {
    pub(crate) fn new(keys: u64) -> Arc<Self> {
        let cell = |_| (Plain::new(0), AtomicI64::new(0));
        Arc::new(Self((0..keys).map(cell).collect()))
    }

    pub(crate) fn some_key(&self, rng: &mut Rng) -> u64 {
        rng.u64(0..self.0.len() as u64)
    }

    /// Under the key's latch, on whichever thread.
    pub(crate) fn add(&self, key: u64, rng: &mut Rng) {
        self.0[key as usize].0.add(1, rng);
    }

    /// By who has heard that it was done.
    pub(crate) fn count(&self, key: u64) {
        self.0[key as usize].1.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn bump(&self, key: u64, rng: &mut Rng) {
        self.add(key, rng);
        self.count(key);
    }

    /// How often all of them have been written.
    pub(crate) fn sum(&self) -> i64 {
        self.0.iter().map(|(cell, _)| cell.get()).sum()
    }

    #[track_caller]
    pub(crate) fn assert_exact(&self) {
        for (cell, count) in &self.0 {
            assert_eq!(cell.get(), count.load(Ordering::Relaxed));
        }
    }
}
