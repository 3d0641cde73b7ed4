//! What the handles, the guards and the threads of a pipeline share.
//!
//! | event | counts as pending | holds a permit |
//! |---|---|---|
//! | reserved | no | yes |
//! | rotated: it has a number | yes | yes |
//! | complete: its turn in the [`Ring`] | yes | yes |
//! | finalized, or skipped: the watermark has passed it | no | no |
//!
//! Pending is the difference of two numbers, `next` and `watermark`, so it cannot be seen as zero
//! while a flush has a number and is not finalized, and it cannot fall below zero. Watermark and
//! permits move before tickets resolve, and tickets resolve before drains end.
//!
//! A number is given out by `rotate` only, with a guard that completes it: as done, as failed, or,
//! by its drop, as abandoned. So the finalizer's next is always on its way.
//!
//! Who waits for something that a halt keeps from happening is told of the halt: reservations by
//! their semaphores, which are closed until it goes on; drains from their list; tickets by a nudge,
//! after which they look at `halted`.

use std::cell::Cell;
use std::panic::{RefUnwindSafe, UnwindSafe};

use crate::os::home::Home;
use crate::os::serving::{is_serving, serving};
use crate::semaphore::Semaphore;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::lock::Mutex;
use crate::sync::thread::JoinHandle;
use crate::sync::time::Instant;
use crate::sync::{Arc, Padded, mutant, unmodelled};
use crate::waiter::{self, Bell, Completer, Nudger, Panic, Sleeper, Ticket, contain};

use super::builder::Options;
use super::error::{DrainError, Failure, ReserveError};
use super::finalizer::Finalize;
use super::job::Job;
use super::queue::Queue;
use super::ring::{Completed, Ring};
use super::stats::Counters;
use super::stream::Stream;
use super::timers::Timers;

crate::sync::local! {
    /// A number of this thread, 0 before it has one.
    static THREAD: Cell<u64> = Cell::new(0)
}

/// In `next`: no number that is given out from now on is the pipeline's.
pub(super) const STOPPED: u64 = 1 << 63;

/// In `orders`, for the finalizer.
pub(super) const STOP: u64 = 1;
pub(super) const RESUME: u64 = 2;

/// What a ticket carries instead of an output.
#[derive(Debug)]
pub(super) enum Refused<E> {
    Failed(E),
    Panicked(Panic),
}

pub(super) type Outcome<F> = Result<<F as Finalize>::Output, Refused<<F as Finalize>::Error>>;

/// What has become of a flush.
pub(super) enum Fate<F: Finalize> {
    Item(F::Item),
    /// Rare, and large.
    Failed(Box<FailedFlush<F>>),
}

/// A flush that has failed.
pub(super) struct FailedFlush<F: Finalize> {
    /// `None`: `finalize_failure` has had it.
    pub(super) failure: Option<Failure<F::Error>>,
    /// The stream, where it can be tried again.
    pub(super) task: Option<(Job<F::Job>, Stream<F>)>,
    /// What the finalizer failed for.
    pub(super) item: Option<F::Item>,
    /// What `finalize_failure` has returned, while the pipeline stands halted at this.
    pub(super) refused: Option<Refused<F::Error>>,
    /// A halt at this has ended, and it cannot be tried again.
    pub(super) is_given_up: bool,
}

impl<F: Finalize> Fate<F> {
    /// A failure with nothing left to try again.
    pub(super) fn failed(failure: Failure<F::Error>) -> Self {
        Self::failed_with(failure, None, None)
    }

    pub(super) fn failed_with(
        failure: Failure<F::Error>,
        task: Option<(Job<F::Job>, Stream<F>)>,
        item: Option<F::Item>,
    ) -> Self {
        Self::Failed(Box::new(FailedFlush {
            failure: Some(failure),
            task,
            item,
            refused: None,
            is_given_up: false,
        }))
    }
}

/// A flush that is complete.
pub(super) struct Entry<F: Finalize> {
    pub(super) sequence: u64,
    pub(super) fate: Fate<F>,
    /// Gone: nobody has a ticket.
    pub(super) completer: Completer<Outcome<F>>,
    /// 0 where the stream, which came too late, still has them.
    pub(super) permits: u64,
    pub(super) bytes: u64,
    /// Of a flush that is sampled.
    pub(super) completed_at: Option<Instant>,
}

impl<F: Finalize> Entry<F> {
    pub(super) fn item(&self) -> Option<&F::Item> {
        match &self.fate {
            Fate::Item(item) => Some(item),
            Fate::Failed(_) => None,
        }
    }

    pub(super) fn item_mut(&mut self) -> Option<&mut F::Item> {
        match &mut self.fate {
            Fate::Item(item) => Some(item),
            Fate::Failed(_) => None,
        }
    }
}

/// A flush that has a number and is not complete.
pub(super) struct Due<F: Finalize> {
    pub(super) sequence: u64,
    pub(super) bytes: u64,
    /// Gone: nobody has a ticket, or the timer has completed it.
    pub(super) completer: Completer<Outcome<F>>,
}

/// The right, and the duty, to complete a flush: a thread of the pipeline's. Dropping it abandons
/// the flush.
pub(super) struct Completion<'c, F: Finalize> {
    pub(super) core: &'c Core<F>,
    /// `None`: it is complete.
    pub(super) due: Option<Due<F>>,
}

impl<F: Finalize> Completion<'_, F> {
    pub(super) fn complete(mut self, fate: Fate<F>) {
        match self.due.take() {
            Some(due) => self.core.complete_due(due, fate),
            None => contain(|| drop(fate)),
        }
    }
}

impl<F: Finalize> Drop for Completion<'_, F> {
    fn drop(&mut self) {
        if let Some(due) = self.due.take() {
            self.core.abandon(due);
        }
    }
}

/// A thread's, made once and noted at each turn.
pub(super) type Name = unmodelled::Arc<str>;

/// Somebody waits for all flushes below `target` to be finalized or skipped, and their tickets to be
/// resolved.
pub(super) struct Drain {
    pub(super) target: u64,
    number: u64,
    pub(super) completer: Completer<Result<(), DrainError>>,
}

/// What changes rarely.
pub(super) struct Control<F: Finalize> {
    pub(super) is_stopped: bool,
    /// The shutdown has taken what there was: what is laid down later is dropped.
    pub(super) is_left: bool,
    /// The shutdown that stopped it has come to its end.
    pub(super) is_over: bool,
    /// The tickets of all flushes below have been resolved: the watermark, a moment later.
    pub(super) resolved: u64,
    /// Who waits for that to reach a number.
    pub(super) drains: Vec<Drain>,
    /// Numbers them.
    pub(super) drain_numbers: u64,
    /// The tickets whose waiters sleep.
    pub(super) sleepers: Vec<Nudger<Outcome<F>>>,
    /// What the finalizer has in hand, while no thread runs it.
    pub(super) finalizing: Option<Finalizing<F>>,
    /// The thread that runs the user's finalizer, while it does.
    pub(super) finalizer_runs: Option<Name>,
    /// Whether a thread serves the finalizer, and has not come to its end.
    pub(super) is_attended: bool,
    pub(super) threads: Vec<JoinHandle<()>>,
}

/// The finalizer's side: the user's value, and what it has taken out of the ring.
pub(super) struct Finalizing<F: Finalize> {
    pub(super) finalizer: F,
    /// Complete, in order, and not finalized; the first is the watermark's.
    pub(super) backlog: Vec<Entry<F>>,
    pub(super) outputs: Vec<F::Output>,
    /// Between resolving the tickets of a batch and waking those who wait for them.
    pub(super) sleepers: Vec<Sleeper<Outcome<F>>>,
}

pub(super) struct Core<F: Finalize> {
    pub(super) options: Options,
    pub(super) permits: Semaphore,
    pub(super) bytes: Option<Semaphore>,
    pub(super) ring: Ring<Entry<F>>,
    /// 1 from the close on.
    pub(super) is_closed: AtomicU64,
    /// The next number.
    pub(super) next: Padded<AtomicU64>,
    /// Everything below has been finalized or skipped. Written by the finalizer.
    pub(super) watermark: Padded<AtomicU64>,
    /// Everything below has been finalized. Written by the finalizer.
    pub(super) durable: Padded<AtomicU64>,
    /// The number at which the pipeline stands halted, plus 1; 0 while it goes.
    pub(super) halted: AtomicU64,
    /// What the finalizer is to do.
    pub(super) orders: AtomicU64,
    /// Rings when the finalizer has to look again.
    pub(super) bell: Bell,
    /// Rings when a thread of the pipeline has come to its end.
    pub(super) gone: Bell,
    pub(super) control: Mutex<Control<F>>,
    pub(super) queue: Queue<F>,
    pub(super) timers: Timers<F>,
    pub(super) counters: Counters,
    /// Where the threads are.
    pub(super) home: Home,
}

impl<F: Finalize> Core<F> {
    /// Does what a thread of the pipeline's does, with the mark that it is one: of the user's code,
    /// not only finalizer and streams run there, but callbacks, and the drops of what they own.
    pub(super) fn serving<R>(&self, f: impl FnOnce() -> R) -> R {
        serving(self, f)
    }

    /// Whether this thread is one of the pipeline's, for good or for a while.
    pub(super) fn is_served_here(&self) -> bool {
        is_serving(self)
    }

    /// Whether a wait on the pipeline would be one for this very thread.
    pub(super) fn would_wait_for_itself(&self) -> bool {
        let thread = THREAD.with(Cell::get);
        self.is_served_here() || (thread != 0 && self.ring.is_held_by(thread))
    }

    /// A number that no other thread has.
    pub(super) fn this_thread() -> u64 {
        use crate::sync::unmodelled::{AtomicU64, Ordering};
        static THREADS: AtomicU64 = AtomicU64::new(0);
        THREAD.with(|thread| {
            if thread.get() == 0 {
                thread.set(THREADS.fetch_add(1, Ordering::Relaxed) + 1);
            }
            thread.get()
        })
    }

    pub(super) fn watermark(&self) -> u64 {
        // Acquire, pairs with `advance`: who sees the watermark sees what was finalized.
        self.watermark.load(Ordering::Acquire)
    }

    /// The next number.
    pub(super) fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire) & !STOPPED
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire) != 0
    }

    pub(super) fn halted(&self) -> Option<u64> {
        self.halted.load(Ordering::Acquire).checked_sub(1)
    }

    /// The halt that keeps a flush from being finalized: one at a younger flush does not.
    pub(super) fn halted_before(&self, sequence: u64) -> Option<u64> {
        self.halted().filter(|at| *at <= sequence)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.next.load(Ordering::Acquire) & STOPPED != 0
    }

    /// Why the semaphores turn everybody away; `None`: they do not any more.
    pub(super) fn refusal(&self) -> Option<ReserveError> {
        // Both are changed, with the semaphores, under this lock.
        let _control = self.control.lock();
        if self.is_closed() {
            return Some(ReserveError::Closed);
        }
        self.halted().map(ReserveError::Halted)
    }

    /// Completes a flush whose stream takes too long, and still has its permit.
    pub(super) fn complete_late(&self, sequence: u64, completer: Completer<Outcome<F>>) {
        self.complete(Entry {
            sequence,
            fate: Fate::failed(Failure::StreamTimedOut),
            completer,
            permits: 0,
            bytes: 0,
            completed_at: None,
        });
    }

    pub(super) fn complete_due(&self, due: Due<F>, fate: Fate<F>) {
        self.complete(Entry {
            sequence: due.sequence,
            fate,
            completer: due.completer,
            permits: 1,
            bytes: due.bytes,
            completed_at: self.counters.sample(due.sequence),
        });
    }

    /// Completes what nobody has completed, and nobody will.
    pub(super) fn abandon(&self, due: Due<F>) {
        if !mutant::enabled("flush-drop-leaves-a-hole") {
            self.complete_due(due, Fate::failed(Failure::Abandoned));
        }
    }

    fn complete(&self, entry: Entry<F>) {
        match self.ring.complete(entry.sequence, entry) {
            Completed::Stored => {}
            Completed::Awaited => {
                self.bell.ring();
                self.bell.wake_one();
            }
            Completed::Refused(late) => {
                self.give_back(late.permits, late.bytes);
                contain(|| drop(late));
            }
        }
    }

    /// Resolves when all flushes below `target` are finalized or skipped, and their tickets
    /// resolved.
    pub(super) fn drained(core: &Arc<Self>, target: u64) -> Ticket<Result<(), DrainError>> {
        let (completer, ticket) = waiter::ticket();
        let looks_early = mutant::enabled("flush-drain-looks-before-the-lock");
        let seen = looks_early.then(|| core.control.lock().resolved);
        let mut control = core.control.lock();
        let resolved = match mutant::enabled("flush-drain-asks-the-watermark") {
            true => core.watermark(),
            false => seen.unwrap_or(control.resolved),
        };
        let decided = if resolved >= target {
            Some(Ok(()))
        } else if let Some(sequence) = core.halted() {
            Some(Err(DrainError::Halted(sequence)))
        } else if control.is_stopped {
            Some(Err(DrainError::ShutDown))
        } else {
            None
        };
        let Some(decided) = decided else {
            let number = control.drain_numbers;
            control.drain_numbers += 1;
            control.drains.push(Drain {
                target,
                number,
                completer,
            });
            let core = Arc::clone(core);
            drop(control);
            return ticket.on_cancel(move || {
                let is_it = |drain: &mut Drain| drain.number == number;
                let gone: Vec<_> = core.control.lock().drains.extract_if(.., is_it).collect();
                drop(gone);
            });
        };
        drop(control);
        completer.complete(Ok(decided));
        ticket
    }

    /// Has the finalizer look again.
    pub(super) fn order(&self, order: u64) {
        self.orders.fetch_or(order, Ordering::AcqRel);
        self.bell.ring();
        self.bell.wake_one();
    }

    pub(super) fn give_back(&self, permits: u64, bytes: u64) {
        self.permits.give_back(permits);
        if let Some(semaphore) = &self.bytes {
            semaphore.give_back(bytes);
        }
    }

    /// What a job of so many bytes takes of the bound: one that is larger is admitted alone.
    pub(super) fn weight(&self, bytes: u64) -> u64 {
        self.bytes
            .as_ref()
            .map_or(0, |bound| bytes.min(bound.max()))
    }

    /// Turns away who reserves, until it goes on. Under the control's lock; those that wait are
    /// told, and called, by a call of the result, outside it.
    #[must_use = "who waits is told by a call of it"]
    pub(super) fn turn_away(&self) -> impl FnOnce() + use<F> {
        let turns = !mutant::enabled("flush-turns-nobody-away");
        let permits = turns.then(|| self.permits.close_later());
        let bytes = self.bytes.as_ref().filter(|_| turns);
        let bytes = bytes.map(Semaphore::close_later);
        || {
            permits.into_iter().for_each(|tell| tell());
            bytes.into_iter().for_each(|tell| tell());
        }
    }

    /// Lets reservations be made again, unless the pipeline is closed. Under the control's lock.
    pub(super) fn let_in(&self) {
        if !self.is_closed() {
            self.permits.reopen();
            if let Some(bytes) = &self.bytes {
                bytes.reopen();
            }
        }
    }
}

// A panic of the user's code never meets a state half changed: it runs outside all locks.
impl<F: Finalize> UnwindSafe for Core<F> {}
impl<F: Finalize> RefUnwindSafe for Core<F> {}
