//! What a coordinator counts.

use crate::sync::unmodelled::{AtomicU64, Ordering};
use crate::waiter::Counter;

pub(super) struct Counters {
    pub(super) fast: Counter,
    pub(super) queued: Counter,
    pub(super) busy: Counter,
    pub(super) timed_out: Counter,
    pub(super) crashed: Counter,
    /// Written under the line's lock.
    pub(super) waiting: AtomicU64,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            fast: Counter::new(),
            queued: Counter::new(),
            busy: Counter::new(),
            timed_out: Counter::new(),
            crashed: Counter::new(),
            waiting: AtomicU64::new(0),
        }
    }

    pub(super) fn read(&self) -> CoordinatorStats {
        CoordinatorStats {
            fast: self.fast.get(),
            queued: self.queued.get(),
            waiting: self.waiting.load(Ordering::Relaxed),
            busy: self.busy.get(),
            timed_out: self.timed_out.get(),
            crashed: self.crashed.get(),
        }
    }
}

/// What [`RmwCoordinator::stats`](super::RmwCoordinator::stats) returns.
///
/// ```
/// use latchwork::rmw::{CoordinatorOptions, Rmw, RmwCoordinator};
///
/// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
/// assert_eq!(coordinator.stats().queued, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoordinatorStats {
    /// Commands that were run in their callers' threads.
    pub fast: u64,
    /// Commands that got in line.
    pub queued: u64,
    /// Commands that stand in line.
    pub waiting: u64,
    /// Commands that were refused because a line was full.
    pub busy: u64,
    /// Calls that timed out.
    pub timed_out: u64,
    /// Commands that panicked.
    pub crashed: u64,
}

impl CoordinatorStats {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            fast: self.fast + other.fast,
            queued: self.queued + other.queued,
            waiting: self.waiting + other.waiting,
            busy: self.busy + other.busy,
            timed_out: self.timed_out + other.timed_out,
            crashed: self.crashed + other.crashed,
        }
    }
}
