//! The word and the result that the two ends of a ticket share.
//!
//! The word says how far the result has come, with bits beside it for "the waiter sleeps", "there is
//! a descriptor" and "there is a callback":
//!
//! | stage | next | by |
//! |---|---|---|
//! | `WAITING` | `RUNNING` | [`Completer::begin`](super::Completer::begin) |
//! | `WAITING` | `CANCELLED` | [`Ticket::cancel`](super::Ticket::cancel), a deadline |
//! | `RUNNING` | `DONE` | [`Completer::complete`](super::Completer::complete) |
//! | `WAITING`, `RUNNING` | `DONE` | the drop of a [`Completer`](super::Completer) |
//!
//! Exactly once or not at all: `RUNNING` and `CANCELLED` are both reached from `WAITING` by a
//! compare-exchange, so one of the two fails, and learns it. Only one thread waits, because waiting
//! takes the ticket. It sets the bit before it sleeps, and `DONE` is stored by a swap that returns
//! the bit: either the swap sees it and wakes, or the waiter's compare-exchange fails and it looks
//! again.
//!
//! The word says, too, whose the two cells are, so they need no lock:
//!
//! | cell | belongs to | until | and then to |
//! |---|---|---|---|
//! | the result | the [`Finisher`] | its swap to `DONE` | the [`Waiter`]; with a callback, still the finisher |
//! | the callback | the [`Waiter`] | it sets the bit | the swap to `DONE`, or who takes the bit back before that |
//!
//! There is one finisher and one waiter, and each is used up by what it does to the cells.

#![allow(unsafe_code)]

use std::ops::Deref;

use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::sync::cell::UnsafeCell;
use crate::sync::futex::{Futex, Wait};
use crate::sync::hint;
use crate::sync::mutant;
use crate::sync::time::{Instant, now};

use super::super::event::Event;
use super::TicketError;

const WAITING: u32 = 0;
pub(super) const RUNNING: u32 = 1;
const DONE: u32 = 2;
pub(super) const CANCELLED: u32 = 3;
const STAGE: u32 = 3;
/// The waiter sleeps, or is about to.
const ASLEEP: u32 = 4;
/// There is a descriptor.
const WATCHED: u32 = 8;
/// There is a callback that the result goes to.
const CALLED: u32 = 16;
/// Added by each nudge, so that a sleep on what was there before ends.
#[cfg(feature = "flush")]
const NUDGE: u32 = 32;

/// What a result may go to, once it is there.
pub(super) type Deliver<T> = Box<dyn FnOnce(Result<T, TicketError>) + Send>;

pub(super) struct Slot<T> {
    pub(super) word: Futex,
    result: UnsafeCell<Option<Result<T, TicketError>>>,
    callback: UnsafeCell<Option<Deliver<T>>>,
    pub(super) event: Event,
}

// SAFETY: the cells are handed from one thread to another, by the word: what they hold is `Send`,
// and no two threads have access at once.
unsafe impl<T: Send> Sync for Slot<T> {}

/// The end that completes.
pub(super) struct Finisher<T>(Arc<Slot<T>>);

/// The end that waits.
pub(super) struct Waiter<T>(Arc<Slot<T>>);

/// What a result is handed over with, and both ends of it.
pub(super) fn ends<T>() -> (Finisher<T>, Waiter<T>) {
    let slot = Arc::new(Slot {
        word: Futex::new(WAITING),
        result: UnsafeCell::new(None),
        callback: UnsafeCell::new(None),
        event: Event::new(),
    });
    (Finisher(Arc::clone(&slot)), Waiter(slot))
}

impl<T> Deref for Finisher<T> {
    type Target = Slot<T>;

    fn deref(&self) -> &Slot<T> {
        &self.0
    }
}

impl<T> Deref for Waiter<T> {
    type Target = Arc<Slot<T>>;

    fn deref(&self) -> &Arc<Slot<T>> {
        &self.0
    }
}

impl<T> Finisher<T> {
    /// Hands the result over. Who waits, if it sleeps, is to be woken.
    pub(super) fn finish(self, result: Result<T, TicketError>) -> Option<Arc<Slot<T>>> {
        let Self(slot) = self;
        // SAFETY: this was the only finisher, and nobody else reads or writes the cell before
        // `DONE`.
        slot.result.with_mut(|cell| unsafe { *cell = Some(result) });
        let before = slot.word.swap(DONE, Ordering::AcqRel);
        if before & WATCHED != 0 {
            slot.event.announce(|| true);
        }
        if before & CALLED != 0 {
            // SAFETY: the bit was set after the callback was stored, and nobody takes that back
            // from `DONE` on.
            let deliver = slot.callback.with_mut(|cell| unsafe { (*cell).take() });
            // SAFETY: the bit says that there is no waiter any more, so the result is still this
            // end's.
            let result = slot.result.with_mut(|cell| unsafe { (*cell).take() });
            if let Some((deliver, result)) = deliver.zip(result) {
                deliver(result);
            }
        }
        let sleeps = before & ASLEEP != 0 && !mutant::enabled("ticket-wakes-nobody");
        sleeps.then_some(slot)
    }

    pub(super) fn finish_and_wake(self, result: Result<T, TicketError>) {
        if let Some(slot) = self.finish(result) {
            slot.word.wake_one();
        }
    }
}

impl<T> Waiter<T> {
    /// The result, if it is there.
    pub(super) fn try_take(self) -> Result<Result<T, TicketError>, Self> {
        if !self.is_done() {
            return Err(self);
        }
        // SAFETY: it was stored before `DONE`, which this has seen, and this was the only waiter.
        let result = self.0.result.with_mut(|cell| unsafe { (*cell).take() });
        Ok(result.unwrap_or_else(|| unreachable!("stored before it was done, and taken once")))
    }

    /// Waits until the result is there.
    pub(super) fn take(self) -> Result<T, TicketError> {
        self.park(None);
        match self.try_take() {
            Ok(result) => result,
            Err(_) => unreachable!("it was there"),
        }
    }

    /// Has the result go to `deliver`, from where it can be [taken back](Slot::take_back). `None`:
    /// it was there already, and has gone to it.
    pub(super) fn deliver_to(self, deliver: Deliver<T>) -> Option<Arc<Slot<T>>> {
        if mutant::enabled("ticket-registers-before-it-stores") {
            self.mark(CALLED);
        }
        // SAFETY: the bit is not set, so the cell is the waiter's, and this was the only one.
        self.0
            .callback
            .with_mut(|cell| unsafe { *cell = Some(deliver) });
        if self.mark(CALLED) {
            return Some(self.0);
        }
        // SAFETY: the bit was not set, so the cell still is.
        let deliver = self.0.callback.with_mut(|cell| unsafe { (*cell).take() });
        if let Some(deliver) = deliver
            && !mutant::enabled("ticket-registers-after-the-result")
        {
            deliver(self.take());
        }
        None
    }
}

impl<T> Slot<T> {
    pub(super) fn is_done(&self) -> bool {
        self.word.load(Ordering::Acquire) & STAGE == DONE
    }

    /// Leaves `WAITING` for `stage`; the bit beside it stays. `false`: it has been left before.
    pub(super) fn leave_waiting(&self, stage: u32) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & STAGE == WAITING {
            let next = (word & !STAGE) | stage;
            match self
                .word
                .compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(found) => word = found,
            }
        }
        false
    }

    /// Whether it is being done.
    pub(super) fn is_running(&self) -> bool {
        self.word.load(Ordering::Relaxed) & STAGE == RUNNING
    }

    /// Sets `bit` beside the stage. `false`: the result is there already.
    fn mark(&self, bit: u32) -> bool {
        let mut word = self.word.load(Ordering::Acquire);
        while word & STAGE != DONE {
            // Release, pairs with the swap in `finish`: who finds the bit finds what it tells of.
            let marked =
                self.word
                    .compare_exchange(word, word | bit, Ordering::AcqRel, Ordering::Acquire);
            match marked {
                Ok(_) => return true,
                Err(found) => word = found,
            }
        }
        false
    }

    /// After a descriptor was made: who hands the result over will look for it. `false`: somebody
    /// has done so already, and may not have seen it.
    pub(super) fn watch(&self) -> bool {
        mutant::enabled("ticket-watches-silently") || self.mark(WATCHED)
    }

    /// Takes the callback back, unless the result has gone to it, or is about to.
    pub(super) fn take_back(&self) -> Option<Deliver<T>> {
        let mut word = self.word.load(Ordering::Relaxed);
        while word & STAGE != DONE && word & CALLED != 0 {
            if mutant::enabled("ticket-takes-back-unannounced") {
                // SAFETY: none; the model is to find that out.
                return self.callback.with_mut(|cell| unsafe { (*cell).take() });
            }
            let unmarked = self.word.compare_exchange(
                word,
                word & !CALLED,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            match unmarked {
                // SAFETY: the bit was set, and this has taken it: the cell is this thread's.
                Ok(_) => return self.callback.with_mut(|cell| unsafe { (*cell).take() }),
                Err(found) => word = found,
            }
        }
        None
    }

    /// Waits until the result is there: looks for it a moment, and then sleeps. `false`: the
    /// deadline came first.
    pub(super) fn park(&self, deadline: Option<Instant>) -> bool {
        if self.is_done() {
            return true;
        }
        if deadline.is_some_and(|deadline| now() >= deadline) {
            return false;
        }
        let comes_soon = hint::spins(false).any(|()| {
            hint::spin_loop();
            self.is_done()
        });
        comes_soon || self.sleep_unless(deadline, || false)
    }

    /// Sleeps until the result is there. `false`: the deadline came first, or it `is_over`, which
    /// is asked again after each nudge.
    pub(super) fn sleep_unless(
        &self,
        deadline: Option<Instant>,
        is_over: impl Fn() -> bool,
    ) -> bool {
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word & STAGE == DONE {
                return true;
            }
            if is_over() {
                return false;
            }
            let asleep = word | ASLEEP;
            let is_set = word == asleep || mutant::enabled("ticket-sleeps-unannounced");
            if !is_set
                && self
                    .word
                    .compare_exchange(word, asleep, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            let expected = if is_set { word } else { asleep };
            if self.word.wait(expected, deadline) == Wait::TimedOut {
                return self.is_done();
            }
        }
    }

    /// Has the waiter, if it sleeps, look around.
    #[cfg(feature = "flush")]
    pub(super) fn nudge(&self) {
        let before = self.word.fetch_add(NUDGE, Ordering::AcqRel);
        if before & ASLEEP != 0 {
            self.word.wake_one();
        }
    }
}
