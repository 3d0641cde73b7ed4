//! A number to sleep on until something behind a lock has changed.
//!
//! Who waits reads the number, looks under the lock, and sleeps only while the number is the one
//! that was read. Who changes what others wait for rings under that lock, and wakes. So either the
//! look sees the change, or the change comes after it and the number is another one by then: the
//! sleep ends, or does not begin.
//!
//! A ring is one read-modify-write, not a load and a store: the models explore the order of two
//! threads' accesses by the last of each, and the load before would hide the store.

use crate::sync::atomic::Ordering;
use crate::sync::futex::Futex;
use crate::sync::lock::{Mutex, MutexGuard};
use crate::sync::mutant;
use crate::sync::time::Instant;

pub(crate) struct Bell(Futex);

impl Bell {
    pub(crate) fn new() -> Self {
        Self(Futex::new(0))
    }

    /// The number, to be read before the look.
    pub(crate) fn number(&self) -> u32 {
        // Pairs with the Release of a ring, whose change the look then sees.
        self.0.load(Ordering::Acquire)
    }

    /// Changes the number. Under the lock; a wake follows once that is free.
    pub(crate) fn ring(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    /// Sleeps while the number is the one that was read.
    pub(crate) fn sleep(&self, number: u32, deadline: Option<Instant>) {
        self.0.wait(number, deadline);
    }

    pub(crate) fn wake_one(&self) {
        self.0.wake_one();
    }

    /// Wakes all who sleep, after a ring.
    #[cfg(feature = "wal")]
    pub(crate) fn wake_all(&self) {
        self.0.wake_all();
    }

    /// Tells all who wait that what this lock guards has changed.
    pub(crate) fn announce<T>(&self, changed: MutexGuard<'_, T>) {
        self.ring();
        drop(changed);
        self.0.wake_all();
    }

    /// Waits until what the lock guards is so.
    pub(crate) fn lock_when<'a, T>(
        &self,
        lock: &'a Mutex<T>,
        is_so: impl Fn(&T) -> bool,
    ) -> MutexGuard<'a, T> {
        loop {
            let mut number = self.number();
            let state = lock.lock();
            if is_so(&state) {
                return state;
            }
            drop(state);
            if mutant::enabled("bell-is-read-late") {
                number = self.number();
            }
            self.sleep(number, None);
        }
    }
}
