//! The word and the result that the two ends of a ticket share.
//!
//! The word says how far the result has come, with bits beside it for "the waiter sleeps" and
//! "there is a descriptor":
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
//! again. The result itself is handed over under a lock, before `DONE`.

use crate::sync::atomic::Ordering;
use crate::sync::futex::{Futex, Wait};
use crate::sync::hint;
use crate::sync::lock::Mutex;
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
/// Added by each nudge, so that a sleep on what was there before ends.
#[cfg(feature = "flush")]
const NUDGE: u32 = 16;

pub(super) struct Slot<T> {
    pub(super) word: Futex,
    pub(super) result: Mutex<Outcome<T>>,
    pub(super) event: Event,
}

pub(super) enum Outcome<T> {
    /// It is not there yet, or has been taken.
    None,
    Ready(Result<T, TicketError>),
    /// It goes to this, once it is there.
    For(Box<dyn FnOnce(Result<T, TicketError>) + Send>),
}

impl<T> Slot<T> {
    pub(super) fn new() -> Self {
        Self {
            word: Futex::new(WAITING),
            result: Mutex::new(Outcome::None),
            event: Event::new(),
        }
    }

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

    /// After a descriptor was made: who hands the result over will look for it. `true`: somebody
    /// has done so already, and may not have seen it.
    pub(super) fn watch(&self) -> bool {
        let mut word = self.word.load(Ordering::Acquire);
        while word & STAGE != DONE {
            // Release, pairs with the swap in `finish`: who finds the bit finds the descriptor.
            match self.word.compare_exchange(
                word,
                word | WATCHED,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return false,
                Err(found) => word = found,
            }
        }
        true
    }

    /// Hands the result over. `true`: the waiter sleeps, and is to be woken.
    pub(super) fn finish(&self, result: Result<T, TicketError>) -> bool {
        let called = {
            let mut outcome = self.result.lock();
            match std::mem::replace(&mut *outcome, Outcome::None) {
                Outcome::For(deliver) => Some((deliver, result)),
                Outcome::None | Outcome::Ready(_) => {
                    *outcome = Outcome::Ready(result);
                    None
                }
            }
        };
        let before = self.word.swap(DONE, Ordering::AcqRel);
        if before & WATCHED != 0 {
            self.event.announce(|| true);
        }
        if let Some((deliver, result)) = called {
            deliver(result);
        }
        before & ASLEEP != 0 && !mutant::enabled("ticket-wakes-nobody")
    }

    pub(super) fn finish_and_wake(&self, result: Result<T, TicketError>) {
        if self.finish(result) {
            self.word.wake_one();
        }
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

    /// After `DONE`, for the one who waits.
    pub(super) fn take(&self) -> Result<T, TicketError> {
        match std::mem::replace(&mut *self.result.lock(), Outcome::None) {
            Outcome::Ready(result) => result,
            Outcome::None | Outcome::For(_) => {
                unreachable!("stored before it was done, and taken once")
            }
        }
    }
}
