//! The guards of a flush, from the reservation to its completion.

use std::fmt;

use crate::semaphore::{Permit, SendPermit};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::waiter::{self, Completer, contain};

use super::core::{Core, Due, Fate, Outcome, STOPPED};
use super::error::{Failure, SubmitError};
use super::finalizer::Finalize;
use super::job::Job;
use super::stream::{self, Task};
use super::ticket::FlushTicket;

/// Room for a flush, to be used by [`rotate`](Self::rotate). Dropping it gives the room back.
///
/// Bound to the thread that reserved: if the guard is leaked, the room comes back when that thread
/// ends (see [`holder`](crate::holder)).
#[must_use = "dropping a reservation gives it back"]
pub struct Reservation<'p, F: Finalize> {
    pub(super) core: &'p Arc<Core<F>>,
    pub(super) permit: Permit<'p>,
    pub(super) bytes: Option<Permit<'p>>,
}

impl<F: Finalize> Reservation<'_, F> {
    /// Gives the flush its number, and calls `swap` with `state` and the number to take out what is
    /// to be flushed.
    ///
    /// Call it under the lock that guards `state`: then the numbers have the order of the swaps. It
    /// takes no lock of the pipeline's.
    ///
    /// ```
    /// # use latchwork::flush::{FlushPipeline, each};
    /// use std::sync::Mutex;
    ///
    /// let table = Mutex::new(vec![1, 2, 3]);
    /// # let flush = FlushPipeline::builder("tables")
    /// #     .finalizer(each(|_, rows: &mut usize| Ok::<_, std::io::Error>(*rows))).build()?;
    /// let slot = flush.reserve(24)?; // before the lock
    /// let slot = slot.rotate(&mut *table.lock().unwrap(), |table, _| std::mem::take(table));
    /// assert_eq!(slot.submit(|rows| Ok(rows.len()))?.wait()?, 3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// As `swap` does; the flush is then abandoned.
    pub fn rotate<S: ?Sized>(
        self,
        state: &mut S,
        swap: impl FnOnce(&mut S, u64) -> F::Job,
    ) -> Rotated<F> {
        let Self {
            core,
            permit,
            bytes,
        } = self;
        permit.take_out();
        let bytes = bytes.map_or(0, Permit::take_out);
        Rotated::new(core, bytes, |sequence| swap(state, sequence))
    }

    /// Unbinds the reservation from this thread: the result can be sent to another. If that is
    /// leaked, the room does not come back.
    ///
    /// ```
    /// # use latchwork::flush::{FlushPipeline, each};
    /// # let flush = FlushPipeline::builder("tables")
    /// #     .finalizer(each(|_, rows: &mut usize| Ok::<_, std::io::Error>(*rows))).build()?;
    /// let slot = flush.reserve(0)?.detach();
    /// let writer = std::thread::spawn(move || {
    ///     let slot = slot.rotate(&mut vec![1, 2], |table, _| std::mem::take(table));
    ///     slot.submit(|rows| Ok(rows.len())).unwrap().wait().unwrap()
    /// });
    /// assert_eq!(writer.join().unwrap(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn detach(self) -> SendReservation<F> {
        SendReservation {
            core: Arc::clone(self.core),
            permit: self.permit.detach(),
            bytes: self.bytes.map(Permit::detach),
        }
    }
}

impl<F: Finalize> fmt::Debug for Reservation<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("bytes", &self.bytes.as_ref().map_or(0, Permit::count))
            .finish_non_exhaustive()
    }
}

/// A [`Reservation`] that is bound to no thread: what [`detach`](Reservation::detach) makes of one,
/// and [`reserve_with`](super::FlushPipeline::reserve_with) delivers.
#[must_use = "dropping a reservation gives it back"]
pub struct SendReservation<F: Finalize> {
    pub(super) core: Arc<Core<F>>,
    pub(super) permit: SendPermit,
    pub(super) bytes: Option<SendPermit>,
}

impl<F: Finalize> SendReservation<F> {
    /// As [`Reservation::rotate`].
    ///
    /// # Panics
    /// As `swap` does; the flush is then abandoned.
    pub fn rotate<S: ?Sized>(
        self,
        state: &mut S,
        swap: impl FnOnce(&mut S, u64) -> F::Job,
    ) -> Rotated<F> {
        self.permit.take_out();
        let bytes = self.bytes.map_or(0, SendPermit::take_out);
        Rotated::new(&self.core, bytes, |sequence| swap(state, sequence))
    }
}

impl<F: Finalize> fmt::Debug for SendReservation<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendReservation").finish_non_exhaustive()
    }
}

/// A flush that has its number. [`submit`](Self::submit) or [`complete`](Self::complete) it;
/// dropping it abandons the flush, which is a failure.
///
/// Until then, blocking calls on the pipeline return `WouldDeadlock` on the thread that rotated:
/// the call might wait for this flush. If another thread is to submit it, call
/// [`hand_over`](Self::hand_over) first.
#[must_use = "dropping it abandons the flush"]
pub struct Rotated<F: Finalize> {
    pub(super) hand: InHand<F>,
    pub(super) job: F::Job,
}

/// The right, and the duty, to complete a flush: the user's. Dropping it abandons the flush.
pub(super) struct InHand<F: Finalize> {
    sequence: u64,
    /// `None`: it has gone on, or the number is not the pipeline's.
    due: Option<(Arc<Core<F>>, Due<F>)>,
    /// Whether it is noted as in a thread's hand.
    is_held: bool,
}

impl<F: Finalize> InHand<F> {
    /// The thread that rotated has it in hand no more.
    fn let_go(&mut self) {
        if std::mem::take(&mut self.is_held)
            && let Some((core, _)) = &self.due
        {
            core.ring.hold(self.sequence, 0);
        }
    }
}

impl<F: Finalize> Drop for InHand<F> {
    fn drop(&mut self) {
        self.let_go();
        if let Some((core, due)) = self.due.take() {
            core.abandon(due);
        }
    }
}

impl<F: Finalize> Rotated<F> {
    fn new(core: &Arc<Core<F>>, bytes: u64, swap: impl FnOnce(u64) -> F::Job) -> Self {
        // AcqRel: after the last one's swap, which came before under the caller's lock, and before
        // the `next` of a drain that is to wait for this.
        let next = core.next.fetch_add(1, Ordering::AcqRel);
        let sequence = next & !STOPPED;
        let is_due = next & STOPPED == 0;
        if is_due {
            core.ring.hold(sequence, Core::<F>::this_thread());
        } else {
            core.give_back(1, bytes);
        }
        // Before the swap, which may panic.
        let due = Due {
            sequence,
            bytes,
            completer: Completer::gone(),
        };
        let hand = InHand {
            sequence,
            due: is_due.then(|| (Arc::clone(core), due)),
            is_held: is_due,
        };
        Self {
            job: swap(sequence),
            hand,
        }
    }

    /// The flush's number: the first is 0.
    pub fn sequence(&self) -> u64 {
        self.hand.sequence
    }

    /// What was rotated.
    pub fn job(&self) -> &F::Job {
        &self.job
    }

    /// Says that another thread will submit the flush, so that this one may wait for it.
    pub fn hand_over(mut self) -> Self {
        self.hand.let_go();
        self
    }

    /// What is due, with a ticket. `None`: the pipeline has been stopped.
    fn take_due(&mut self) -> Option<(Due<F>, FlushTicket<F>)> {
        let (core, _) = self.hand.due.as_ref()?;
        if core.is_stopped() {
            return None;
        }
        self.hand.let_go();
        let (core, mut due) = self.hand.due.take()?;
        let (completer, ticket): (Completer<Outcome<F>>, _) = waiter::ticket();
        due.completer = completer;
        Some((due, FlushTicket::new(core, self.sequence(), ticket)))
    }

    /// Hands the flush to a streamer, which runs `stream`. Without streamers it runs here, at once.
    ///
    /// `stream` returns what the finalizer gets. It may be called several times, see
    /// [`OnFailure::Retry`](super::OnFailure::Retry). The ticket resolves when the flush has been
    /// finalized; dropping the ticket changes nothing.
    ///
    /// # Errors
    /// [`SubmitError`] after a shutdown, with the flush.
    pub fn submit(
        mut self,
        stream: impl FnMut(&mut Job<F::Job>) -> Result<F::Item, F::Error> + Send + 'static,
    ) -> Result<FlushTicket<F>, SubmitError<F>> {
        let Some((due, ticket)) = self.take_due() else {
            return Err(SubmitError(self));
        };
        let Self { mut hand, job } = self;
        let core = ticket.core();
        let task = Task {
            due,
            content: job,
            attempts: 0,
            stream: Box::new(stream),
        };
        let taken = match core.options.streamers {
            0 => stream::run_here(core, task),
            _ => core.queue.submit(task),
        };
        match taken {
            Ok(()) => Ok(ticket),
            Err(Task { due, content, .. }) => {
                hand.due = Some((ticket.into_core(), due));
                let job = content;
                Err(SubmitError(Self { hand, job }))
            }
        }
    }

    /// Completes the flush with a result that the caller has computed itself, without a stream. An
    /// error is a failure of the flush.
    ///
    /// # Errors
    /// [`SubmitError`] after a shutdown, with the flush; the result is dropped.
    pub fn complete(
        mut self,
        result: Result<F::Item, F::Error>,
    ) -> Result<FlushTicket<F>, SubmitError<F>> {
        let Some((due, ticket)) = self.take_due() else {
            contain(|| drop(result));
            return Err(SubmitError(self));
        };
        let core = ticket.core();
        core.counters.completed.add(1);
        let fate = match result {
            Ok(item) => Fate::Item(item),
            Err(error) => Fate::failed(Failure::Stream(error)),
        };
        core.complete_due(due, fate);
        contain(|| drop(self.job));
        Ok(ticket)
    }
}

impl<F: Finalize> fmt::Debug for Rotated<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotated")
            .field("sequence", &self.sequence())
            .finish_non_exhaustive()
    }
}
