//! The periodic sweep on behalf of registered waiters.
//!
//! The end of a thread gives its latches back by itself. This is the second line: who has waited
//! for a whole period looks whether the one it waits for is gone. A blocked thread does so itself;
//! for callbacks the sweeper does, from the first of them until nobody waits. A table without them
//! never wakes it.

use std::time::Duration;

use crate::holder::anchor::Anchor;
use crate::sweeper::{Job, Next, Sweeper};
use crate::sync::thread;
use crate::sync::unmodelled::{Arc, AtomicBool, Ordering, fence};

use super::core::Core;

/// Wakes the sweeper while a callback waits for a latch of a table.
#[derive(Debug)]
pub(super) struct Watch {
    job: Job,
    armed: Arc<AtomicBool>,
    every: Duration,
}

impl Watch {
    pub(super) fn new(core: Anchor<Core>, sweeper: &Sweeper, every: Duration) -> Self {
        let armed = Arc::new(AtomicBool::new(false));
        let flag = armed.clone();
        let job = sweeper.job("latches: abandoned ones", move || {
            core.sweep(core.borrow().uncounted());
            flag.store(false, Ordering::Relaxed);
            // Pairs with the fence in `joined`: this sees the waiter, or the waiter sees the flag
            // down.
            fence(Ordering::SeqCst);
            if core.waiters() == 0 {
                return Next::Idle;
            }
            flag.store(true, Ordering::Relaxed);
            Next::After(every)
        });
        Self { job, armed, every }
    }

    /// A callback has got in line.
    pub(super) fn joined(&self) {
        // A model steps the sweep itself.
        if !thread::STARTS_ITS_OWN {
            return;
        }
        fence(Ordering::SeqCst);
        if !self.armed.load(Ordering::Relaxed) && !self.armed.swap(true, Ordering::Relaxed) {
            self.job.arm_after(self.every);
        }
    }
}
