//! The word of a semaphore: permits and flags in one modification order.
//!
//! | bits | hold |
//! |---|---|
//! | 4..64 | available permits, signed: negative while a cut has left more running than it allows |
//! | 3 | `TOLD`: the head of the line was told to try again, and is on its way |
//! | 2 | `DUE`: the head of the line has waited long enough; newcomers may not pass it any more |
//! | 1 | `CLOSED` |
//! | 0 | `WAITERS`: the line is not empty |
//!
//! `WAITERS`, `DUE` and `TOLD` say how the line is, and are changed under the queue's lock only;
//! the permits, by anybody.

use crate::sync::atomic::{AtomicU64, Ordering};

pub(super) const WAITERS: u64 = 1;
pub(super) const CLOSED: u64 = 2;
pub(super) const DUE: u64 = 4;
pub(super) const TOLD: u64 = 8;

const SHIFT: u32 = 4;
const FLAGS: u64 = (1 << SHIFT) - 1;

/// The most permits there can be: 2^48 - 1, so that no sum of them reaches the sign.
pub(super) const MOST_PERMITS: u64 = (1 << 48) - 1;

/// What the word held at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading(u64);

impl Reading {
    #[inline]
    pub(super) fn available(self) -> i64 {
        self.0 as i64 >> SHIFT
    }

    /// Whether `n`, which may be any number, can be taken.
    #[inline]
    fn allows(self, n: u64) -> bool {
        u64::try_from(self.available()).is_ok_and(|there| there >= n)
    }

    #[inline]
    pub(super) fn has(self, flags: u64) -> bool {
        self.0 & flags != 0
    }
}

#[derive(Debug)]
pub(super) struct State(AtomicU64);

impl State {
    pub(super) fn new(permits: u64) -> Self {
        Self(AtomicU64::new(permits << SHIFT))
    }

    #[inline]
    pub(super) fn read(&self, order: Ordering) -> Reading {
        Reading(self.0.load(order))
    }

    /// Takes `n` permits if they are available and none of `forbidden` is set; else says why not.
    ///
    /// Acquire, pairs with [`put`](Self::put): what the releaser did happens before what the taker
    /// does.
    #[inline]
    pub(super) fn take(&self, n: u64, forbidden: u64) -> Result<(), Reading> {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let reading = Reading(seen);
            if reading.has(forbidden) || !reading.allows(n) {
                return Err(reading);
            }
            match self.0.compare_exchange_weak(
                seen,
                seen - (n << SHIFT),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }

    /// Takes as many permits as are available, up to `most`. Acquire, as [`take`](Self::take).
    pub(super) fn take_up_to(&self, most: u64) -> u64 {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            let share = Reading(seen).available().clamp(0, most as i64) as u64;
            if share == 0 {
                return 0;
            }
            match self.0.compare_exchange_weak(
                seen,
                seen - (share << SHIFT),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return share,
                Err(now) => seen = now,
            }
        }
    }

    /// Makes `n` more permits available, and says what was there before.
    #[inline]
    pub(super) fn put(&self, n: u64, order: Ordering) -> Reading {
        Reading(self.0.fetch_add(n << SHIFT, order))
    }

    /// Makes `more` permits available, or fewer. Under the queue's lock.
    pub(super) fn shift(&self, more: i64) {
        self.0.fetch_add((more << SHIFT) as u64, Ordering::AcqRel);
    }

    /// Sets `flags`, if `expected` still stands. Under the queue's lock.
    pub(super) fn flag(&self, expected: Reading, flags: u64) -> bool {
        self.0
            .compare_exchange(
                expected.0,
                expected.0 | flags,
                Ordering::Relaxed,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Sets `flags`. Under the queue's lock.
    pub(super) fn set(&self, flags: u64) {
        self.0.fetch_or(flags, Ordering::Relaxed);
    }

    /// Clears `flags`. Under the queue's lock.
    #[cfg(feature = "flush")]
    pub(super) fn clear(&self, flags: u64) {
        self.0.fetch_and(!flags, Ordering::Relaxed);
    }

    /// Makes `n` more permits available and leaves the line's flags as `flags`, in one step. Under
    /// the queue's lock, so that nobody else changes the flags meanwhile. Says what was there
    /// before, unless nothing had to be changed.
    pub(super) fn settle(&self, n: u64, flags: u64) -> Option<Reading> {
        let before = self.0.load(Ordering::Relaxed) & (FLAGS & !CLOSED);
        let change = (n << SHIFT).wrapping_add(flags).wrapping_sub(before);
        // AcqRel: what a release that came before this step did is what `feed` goes on with.
        (change != 0).then(|| Reading(self.0.fetch_add(change, Ordering::AcqRel)))
    }
}
