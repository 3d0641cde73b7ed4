//! Where a blocked thread sleeps.
//!
//! | word | means | next |
//! |---|---|---|
//! | `AWAKE` | waits in line, has not gone to sleep | `ASLEEP`, or a signal |
//! | `ASLEEP` | waits in line, sleeps or is about to | a signal |
//! | `RETRY` | still in line, told to try again | `AWAKE` when it found nothing |
//! | `GRANTED` | out of line, owns what it waited for | |
//! | `SERVED` | out of line, somebody else did what it waited to do | |
//! | `REFUSED` | out of line, will not get it | |
//!
//! The signals are stored under the lock of the line that the thread stands in; all but `SERVED`,
//! which comes when the one that took the thread's work out of line has done it. `Release`, paired
//! with the `Acquire` in [`Parker::park`] and [`Parker::news`]: what the releaser did happens
//! before what the waiter does next.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;

use crate::sync::atomic::Ordering;
use crate::sync::futex::{Futex, Wait};
use crate::sync::hint;
use crate::sync::mutant;
use crate::sync::time::Instant;
use crate::sync::unmodelled::Arc;

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const RETRY: u32 = 2;
const GRANTED: u32 = 3;
const REFUSED: u32 = 4;
const SERVED: u32 = 5;

/// What a waiter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Look again; the place in line is kept.
    Retry,
    /// It is yours.
    Granted,
    /// What you waited to do is done.
    Served,
    /// It will not be yours.
    Refused,
}

/// One thread's sleeping place, used for one wait after the other.
#[derive(Debug)]
pub(crate) struct Parker {
    word: Futex,
}

// Counted by std in the model too: what a failed model leaves in its thread-locals is dropped
// outside of it.
crate::sync::lazy_local! {
    static PARKER: Arc<Parker> = Arc::new(Parker::new())
}

crate::sync::local! {
    /// Whether a wait of the calling thread is using its parker.
    static IN_USE: Cell<bool> = Cell::new(false)
}

/// The calling thread's parker, for one wait.
///
/// A thread may run code of others while its own request stands in line: their operations. A wait
/// in there gets another parker, so neither takes the other's news for its own, or wipes it out.
#[derive(Debug)]
pub(crate) struct OwnParker {
    parker: Arc<Parker>,
    is_spare: bool,
    /// Given back by the thread that took it.
    not_send: PhantomData<*const ()>,
}

impl Deref for OwnParker {
    type Target = Arc<Parker>;

    fn deref(&self) -> &Arc<Parker> {
        &self.parker
    }
}

impl Drop for OwnParker {
    fn drop(&mut self) {
        if !self.is_spare {
            IN_USE.with(|in_use| in_use.set(false));
        }
    }
}

impl Parker {
    fn new() -> Self {
        Self {
            word: Futex::new(AWAKE),
        }
    }

    /// The calling thread's parker. Within another wait of the thread, and while its thread-locals
    /// are being destroyed, a new one.
    pub(crate) fn current() -> OwnParker {
        let is_spare = IN_USE.with(|in_use| in_use.replace(true));
        let parker = if is_spare {
            Arc::new(Self::new())
        } else {
            PARKER
                .try_with(Arc::clone)
                .unwrap_or_else(|_| Arc::new(Self::new()))
        };
        OwnParker {
            parker,
            is_spare,
            not_send: PhantomData,
        }
    }

    /// Before the thread goes in line, or back to sleep after a retry. Under the line's lock.
    pub(crate) fn prepare(&self) {
        self.word.store(AWAKE, Ordering::Relaxed);
    }

    /// Back to sleep after a retry that came too late: the thread's work has been taken out of
    /// line, and is done without the lock. `SERVED` may be there already, and stays.
    pub(crate) fn await_service(&self) {
        if mutant::enabled("parker-forgets-service") {
            return self.prepare();
        }
        let _ = self
            .word
            .compare_exchange(RETRY, AWAKE, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Tells the thread, under the line's lock. `true`: it sleeps, and needs a
    /// [`wake`](Self::wake).
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let word = match signal {
            Signal::Retry => RETRY,
            Signal::Granted => GRANTED,
            Signal::Served => SERVED,
            Signal::Refused => REFUSED,
        };
        self.word.swap(word, Ordering::AcqRel) == ASLEEP
    }

    /// Wakes the thread after a signal.
    pub(crate) fn wake(&self) {
        self.word.wake_one();
    }

    /// What the thread has been told so far.
    pub(crate) fn news(&self) -> Option<Signal> {
        match self.word.load(Ordering::Acquire) {
            RETRY => Some(Signal::Retry),
            GRANTED => Some(Signal::Granted),
            SERVED => Some(Signal::Served),
            REFUSED => Some(Signal::Refused),
            _ => None,
        }
    }

    /// Sleeps until there is news. `None`: the deadline came first, and news may still come until
    /// the thread has left the line.
    ///
    /// Looks for news a while before it sleeps: a moment, or, where it `expects` some soon, as long
    /// as that may take. Whoever brings it then need not wake it.
    pub(crate) fn park(&self, deadline: Option<Instant>, expects: bool) -> Option<Signal> {
        for () in hint::spins(expects) {
            if let Some(signal) = self.news() {
                return Some(signal);
            }
            hint::spin_loop();
        }
        // Failing means that there is news, which the loop below reads with `Acquire`.
        let _ = self
            .word
            .compare_exchange(AWAKE, ASLEEP, Ordering::Relaxed, Ordering::Relaxed);
        loop {
            if let Some(signal) = self.news() {
                return Some(signal);
            }
            if self.word.wait(ASLEEP, deadline) == Wait::TimedOut {
                return None;
            }
            if mutant::enabled("parker-believes-any-wake-up") {
                return Some(Signal::Granted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_within_a_wait_neither_hears_the_other_s_news_nor_wipes_it_out() {
        let outer = Parker::current();
        outer.prepare();
        outer.signal(Signal::Served);
        {
            let inner = Parker::current();
            inner.prepare();
            assert_eq!(inner.news(), None);
            inner.signal(Signal::Granted);
        }
        assert_eq!(outer.news(), Some(Signal::Served));
        let first = Arc::clone(&outer);
        drop(outer);
        assert!(Arc::ptr_eq(&Parker::current(), &first), "one a thread");
    }
}
