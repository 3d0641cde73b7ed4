//! How many permits there are, and how many of them are taken.
//!
//! Two words say it: `max`, and the available ones in `state`. They are moved together under the
//! queue's lock, with `resizes` odd meanwhile; who reads both reads `resizes` before and after, and
//! again if it has moved.
//!
//! A change decides anew who can be served at all: requests for more than `max` are set aside, the
//! others come back to the line, in the order of their age.

use crate::sync::atomic::Ordering;
use crate::sync::{hint, mutant};
use crate::waiter::Wakes;

use super::super::Fairness;
use super::super::state::{DUE, WAITERS};
use super::{Core, Queue};

impl Core {
    /// Sets the number of permits. Running ones stay.
    pub(in super::super) fn set_max(&self, max: u64) {
        self.resize(|old, _| (max, max as i64 - old as i64));
    }

    /// Lowers the number of permits by `n` that are taken, and will not come back. What a cut by
    /// `set_max` is still owed is paid with them first.
    pub(in super::super) fn forget(&self, n: u64) {
        self.resize(|old, available| {
            let paid = n.min(available.min(0).unsigned_abs());
            (old - (n - paid), paid as i64)
        });
    }

    /// Moves `max` and the available permits together: `change` is given both, and says the new
    /// `max` and by how much the available ones change.
    fn resize(&self, change: impl FnOnce(u64, i64) -> (u64, i64)) {
        let mut wakes = Wakes::new();
        {
            let mut queue = self.queue.lock();
            let Queue { slab, line, parked } = &mut *queue;
            let (max, more) = change(
                self.max.load(Ordering::Relaxed),
                self.state.read(Ordering::Relaxed).available(),
            );
            let mut pool = 0;
            line.move_to(parked, slab, |request| {
                // An older request may come back before this one, and only the head has a share.
                if !mutant::enabled("semaphore-resize-keeps-share") {
                    pool += std::mem::take(&mut request.got);
                }
                request.parked = request.wanted > max;
                request.parked
            });
            let unparks = !mutant::enabled("semaphore-resize-forgets-parked");
            parked.move_to(line, slab, |request| {
                request.parked = !unparks || request.wanted > max;
                !request.parked
            });
            // The line is flagged before the new permits show, so that no newcomer passes it
            // unfairly.
            if !line.is_empty() {
                self.state.set(match self.fairness {
                    Fairness::Fifo => WAITERS | DUE,
                    Fairness::Eventual => WAITERS,
                });
            }
            self.resizes.fetch_add(1, Ordering::AcqRel);
            self.state.shift(more);
            self.max.store(max, Ordering::Release);
            self.resizes.fetch_add(1, Ordering::AcqRel);
            self.feed(&mut queue, pool, None, &mut wakes);
        }
        wakes.deliver();
    }

    pub(in super::super) fn available(&self) -> u64 {
        self.state.read(Ordering::Relaxed).available().max(0) as u64
    }

    pub(in super::super) fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// How many permits are taken: `max - available` of one moment.
    pub(in super::super) fn taken(&self) -> u64 {
        loop {
            let before = self.resizes.load(Ordering::Acquire);
            let max = self.max.load(Ordering::Acquire);
            let available = self.state.read(Ordering::Acquire).available();
            let is_one_moment =
                before.is_multiple_of(2) && self.resizes.load(Ordering::Acquire) == before;
            if is_one_moment || mutant::enabled("semaphore-current-in-two-looks") {
                return (max as i64 - available) as u64;
            }
            hint::spin_loop();
        }
    }
}
