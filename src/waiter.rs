//! Waiting in line: the queue, and what is woken at its end.
//!
//! A component keeps its queues under a lock and decides there who gets what. Each waiter is a
//! [`Waiter`] in a [`Line`], and ends in exactly one of two ways, both decided under that lock: it
//! is taken out and told ([`Wakes`]), or it takes itself out (time-out, cancel).
//!
//! | the waiter is | told by | taken out by itself |
//! |---|---|---|
//! | a blocked thread | its [`Parker`]'s word, then a futex wake | after a time-out |
//! | a registered callback | a call, outside all locks | when its [`Pending`] is dropped |
//!
//! Words are written under the lock and wakes follow after it, so the woken thread does not run
//! into the lock, and a callback runs outside it. A wake that comes late goes to a parker that is
//! still there, since it is counted, and at worst wakes its thread once for nothing.

mod bell;
mod callback;
mod counter;
pub(crate) mod dispatcher;
mod event;
mod histogram;
mod line;
#[cfg(any(feature = "latch", feature = "flush"))]
mod panic;
mod parker;
mod pending;
#[cfg(any(feature = "latch", feature = "flush"))]
mod ticket;

pub(crate) use bell::Bell;
pub(crate) use callback::{Callback, contain};
pub(crate) use counter::{Counter, Gauge};
pub(crate) use histogram::Recorder;
pub use histogram::WaitHistogram;
pub(crate) use line::{Key, Line, Slab};
#[cfg(any(feature = "latch", feature = "flush"))]
pub use panic::Panic;
#[cfg(feature = "latch")]
pub(crate) use parker::OwnParker;
pub(crate) use parker::{Parker, Signal};
pub(crate) use pending::Delivery;
pub use pending::Pending;
#[cfg(any(feature = "latch", feature = "flush"))]
pub use ticket::{Completer, Ticket, TicketError, ticket};
#[cfg(feature = "flush")]
pub(crate) use ticket::{Nudger, Sleeper};

use std::time::Duration;

use crate::sync::mutant;
use crate::sync::unmodelled::Arc;

/// How long the oldest waiter lets newcomers pass it where the order is eventually fair:
/// parking_lot's half millisecond, enough to run hot for a while, too short for anybody to notice.
pub(crate) const PATIENCE: Duration = Duration::from_micros(500);

/// Who waits.
pub(crate) enum Waiter<T> {
    Thread(Arc<Parker>),
    Callback(Callback<T>),
}

/// What is left to do once the lock is released. Dropping it undone would strand a waiter.
#[must_use]
pub(crate) struct Wakes<T> {
    first: Option<Arc<Parker>>,
    threads: Vec<Arc<Parker>>,
    callbacks: Vec<(Callback<T>, T)>,
}

impl<T: Send + 'static> Wakes<T> {
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            threads: Vec::new(),
            callbacks: Vec::new(),
        }
    }

    /// Tells a thread, under the lock; it is woken later if it sleeps.
    pub(crate) fn signal(&mut self, parker: &Arc<Parker>, signal: Signal) {
        if parker.signal(signal) && !mutant::enabled("waiter-no-wake") {
            if self.first.is_none() {
                self.first = Some(parker.clone());
            } else {
                self.threads.push(parker.clone());
            }
        }
    }

    /// Has a callback run later, with `outcome`.
    pub(crate) fn call(&mut self, callback: Callback<T>, outcome: T) {
        if !mutant::enabled("waiter-forgets-callback") {
            self.callbacks.push((callback, outcome));
        }
    }

    /// Wakes the threads, and then runs the callbacks: nobody sleeps on because of the user's code.
    /// Not under a lock, and not by a thread that stands in line itself: a callback may wait, with
    /// the same parker.
    #[inline]
    pub(crate) fn deliver(self) {
        self.wake();
        for (callback, outcome) in self.callbacks {
            callback.deliver(outcome);
        }
    }

    /// The same for a thread that ends, or still stands in line: the library's runs the callbacks.
    pub(crate) fn deliver_by_dispatcher(self) {
        self.wake();
        for (callback, outcome) in self.callbacks {
            dispatcher::post(move || callback.deliver(outcome));
        }
    }

    #[inline]
    fn wake(&self) {
        for parker in self.first.iter().chain(&self.threads) {
            parker.wake();
        }
    }
}
