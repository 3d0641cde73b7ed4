//! A registered waiter's closure, and how it is called.
//!
//! A callback that gives back what it was given serves the next one in line, which does the same:
//! called from inside each other they would need a stack as deep as the line is long. So a callback
//! that comes due on a thread that is running one already is called when that one has returned.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sync::Arc;

use super::Delivery;

crate::sync::local! {
    /// Whether the calling thread is running a callback. Without a destructor, so it can always be
    /// asked.
    static RUNNING: Cell<bool> = Cell::new(false)
}

crate::sync::lazy_local! {
    /// What has come due meanwhile, in order.
    static DUE: RefCell<VecDeque<Box<dyn FnOnce()>>> = RefCell::new(VecDeque::new())
}

/// Runs the user's code. A panic ends here, that of its payload's drop too; the hook has printed
/// its message.
pub(crate) fn contain(f: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(f))
        && let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic)))
    {
        std::mem::forget(again);
    }
}

/// A registered waiter: the user's closure, and the news of its delivery.
pub(crate) struct Callback<T> {
    /// Takes possession of what was granted, and calls the user's closure with it; or, for `false`,
    /// gives it back and does not.
    pub(crate) run: Box<dyn FnOnce(T, bool) + Send>,
    pub(crate) delivery: Arc<Delivery>,
}

impl<T: 'static> Callback<T> {
    /// Runs the closure, now or after the one that this thread is running. Not under a lock.
    pub(crate) fn deliver(self, outcome: T) {
        Self::run_in_turn(move || {
            let is_wanted = self.delivery.begin();
            self.call(outcome, is_wanted);
        });
    }

    /// The same for one whose delivery has [begun](Delivery::begin) already.
    pub(crate) fn deliver_begun(self, outcome: T) {
        Self::run_in_turn(move || self.call(outcome, true));
    }

    fn run_in_turn(call: impl FnOnce() + 'static) {
        if RUNNING.with(Cell::get) {
            let later: Box<dyn FnOnce()> = Box::new(call);
            let mut later = Some(later);
            // A thread whose thread-locals are being destroyed has no queue any more.
            let _ = DUE.try_with(|due| due.borrow_mut().extend(later.take()));
            if let Some(now) = later {
                now();
            }
            return;
        }
        RUNNING.with(|running| running.set(true));
        call();
        loop {
            // The queue is not borrowed while a callback runs.
            let next = DUE.try_with(|due| due.borrow_mut().pop_front());
            let Ok(Some(next)) = next else { break };
            next();
        }
        RUNNING.with(|running| running.set(false));
    }

    fn call(self, outcome: T, is_wanted: bool) {
        contain(|| (self.run)(outcome, is_wanted));
        if is_wanted {
            self.delivery.finish();
        }
    }
}
