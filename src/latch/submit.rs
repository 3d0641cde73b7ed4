//! Operations that are handed over without waiting for them.
//!
//! A submitted operation stands in line like any other, and has no thread that could run it. Who
//! holds the latch and combines runs it in its turn. Where nobody does (a guard was dropped, or the
//! holder has done enough for others), it gets the latch through the table's own thread
//! (`lw-latch`), which then combines as any holder does.

use std::borrow::Borrow;
use std::hash::Hash;

use crate::sync::unmodelled;
use crate::sync::{Arc, lock::Mutex, mutant, thread};
use crate::waiter::{Callback, Delivery, Panic, Ticket, ticket};
use crate::worker::{SubmitError, Worker};

use super::LatchTable;
use super::core::Outcome;
use super::error::LatchError;
use super::guard::SendLatch;
use super::word::Id;

/// An operation that tells its ticket what came of it.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A submitted operation in line: whoever comes first runs it.
#[derive(Clone)]
pub(super) struct Submitted(Arc<Mutex<Option<Job>>>);

impl Submitted {
    fn new(job: Job) -> Self {
        Self(Arc::new(Mutex::new(Some(job))))
    }

    /// Runs it. A panic goes to its ticket.
    pub(super) fn run(self) {
        let job = self.0.lock().take();
        if let Some(job) = job {
            job();
        }
    }
}

/// A latch for the table's thread, and what to do under it.
pub(super) struct Turn {
    latch: SendLatch,
    submitted: Submitted,
}

impl Turn {
    fn run(self) {
        let latch = self.latch.attach();
        self.submitted.run();
        if let Some(wakes) = latch.finish() {
            wakes.deliver();
        }
    }
}

/// The thread that serves operations whose turn it is and that nobody else can run.
pub(super) fn worker(capacity: usize) -> Worker<Turn> {
    Worker::builder("lw-latch")
        .capacity(capacity)
        .build(Turn::run)
}

impl<K: ?Sized> LatchTable<K> {
    /// Runs `operation` under the latch of `key`, without waiting for it: now, if the latch is
    /// free, else on the thread of whoever holds it, or on the table's own (`lw-latch`). The
    /// [`Ticket`] brings the result.
    ///
    /// For event loops, and for work whose result does not matter: after the ticket has been
    /// dropped the operation still runs. [`Ticket::cancel`] keeps it from beginning.
    ///
    /// ```
    /// use latchwork::LatchTable;
    ///
    /// let table = LatchTable::<str>::new();
    /// let held = table.latch("a")?;
    /// let ticket = table.submit("a", || 6 * 7)?;
    /// assert!(!ticket.is_done());
    /// drop(held);
    /// assert_eq!(ticket.wait().unwrap(), 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`LatchError::Busy`] if as many as the table allows wait for the key. The ticket brings a
    /// panic of the operation as a value.
    ///
    /// # Panics
    ///
    /// When the system refuses the table's thread.
    pub fn submit<Q, R: Send + 'static>(
        &self,
        key: &Q,
        operation: impl FnOnce() -> R + Send + 'static,
    ) -> Result<Ticket<R>, LatchError>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let id = Id::of(self.hash_of(key));
        let (mut completer, ticket) = ticket();
        let job: Job = Box::new(move || {
            if completer.begin() {
                completer.complete(Panic::catch(operation));
            }
        });
        if let Some(hold) = self.core.try_take(id) {
            let _latch = self.guard(hold);
            job();
            return Ok(ticket);
        }
        if thread::STARTS_ITS_OWN {
            let started = self.worker.start();
            started.expect("a thread for submitted operations could not be started");
        }
        let submitted = Submitted::new(job);
        let callback = self.turn_taker(submitted.clone());
        match self.core.take_or_submit(id, callback, submitted) {
            Ok(key) => {
                let core = self.core.clone();
                Ok(ticket.on_cancel(move || core.cancel(id, key)))
            }
            Err((callback, Ok(hold))) => {
                callback.deliver(Ok(hold));
                Ok(ticket)
            }
            Err((_, Err(refused))) => Err(refused),
        }
    }

    /// What to do when the latch comes to a submitted operation.
    fn turn_taker(&self, submitted: Submitted) -> Callback<Outcome> {
        let handle = self.core.clone();
        let worker = unmodelled::Arc::downgrade(&self.worker);
        Callback {
            run: Box::new(move |outcome: Outcome, _| {
                let Ok(hold) = outcome else { return };
                if mutant::enabled("submit-forgets-its-turn") {
                    return drop(SendLatch::new(handle, hold));
                }
                let latch = SendLatch::new(handle, hold);
                let turn = Turn { latch, submitted };
                // A table without a handle left has no thread either.
                let Some(worker) = worker.upgrade().filter(|_| thread::STARTS_ITS_OWN) else {
                    return turn.run();
                };
                if let Err(refused) = worker.submit(turn) {
                    SubmitError::into_message(refused).run();
                }
            }),
            delivery: Delivery::new(),
        }
    }
}
