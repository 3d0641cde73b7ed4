//! A cell without any synchronisation of its own: what a latch or the last permit is to protect.
//!
//! It is written in two steps with time between them, so that a second writer loses an update and a
//! reader sees two halves that differ; and ThreadSanitizer sees plain accesses.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;

use fastrand::Rng;

use super::dawdle;

/// Two numbers that are always equal to whoever has excluded the writers.
pub(crate) struct Plain {
    low: UnsafeCell<i64>,
    high: UnsafeCell<i64>,
}

// SAFETY: not sound by itself, and that is the point: whoever calls `add` or `get` holds what is
// tested to exclude others. If the test fails, this was a data race.
unsafe impl Sync for Plain {}

impl Plain {
    pub(crate) fn new(value: i64) -> Self {
        Self {
            low: UnsafeCell::new(value),
            high: UnsafeCell::new(value),
        }
    }

    /// Adds `n`, as the only one who touches the cell. Returns what there was before.
    pub(crate) fn add(&self, n: i64, rng: &mut Rng) -> i64 {
        let before = self.get();
        dawdle(rng, 20);
        // SAFETY: the caller excludes every other access to the cell.
        unsafe { *self.low.get() = before + n };
        dawdle(rng, 20);
        // SAFETY: as above.
        unsafe { *self.high.get() = before + n };
        before
    }

    /// Reads the cell while nobody writes it.
    pub(crate) fn get(&self) -> i64 {
        // SAFETY: the caller excludes writers.
        let low = unsafe { *self.low.get() };
        // SAFETY: as above.
        let high = unsafe { *self.high.get() };
        assert_eq!(low, high, "somebody else writes");
        low
    }
}
