//! The handle on a flush that is not finalized yet.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::sync::time::{Instant, now};
use crate::sync::{Arc, hint, mutant};
use crate::waiter::{Pending, Ticket, TicketError};

use super::core::{Core, Outcome, Refused};
use super::error::WaitError;
use super::finalizer::Finalize;

/// Waits for a submitted flush to be finalized. Dropping it changes nothing: the flush goes on.
///
/// ```
/// use latchwork::flush::{FlushPipeline, each};
///
/// let flush = FlushPipeline::builder("numbers")
///     .finalizer(each(|_, item: &mut u64| Ok::<_, std::io::Error>(*item + 1)))
///     .build()?;
/// let ticket = flush.reserve(0)?.rotate(&mut 41, |state, _| *state).submit(|job| Ok(**job))?;
/// assert_eq!(ticket.sequence(), 0);
/// assert_eq!(ticket.wait()?, 42); // it has been finalized
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the outcome, and an error, are lost with the ticket: drop it where that is meant"]
pub struct FlushTicket<F: Finalize> {
    core: Arc<Core<F>>,
    sequence: u64,
    ticket: Ticket<Outcome<F>>,
}

impl<F: Finalize> FlushTicket<F> {
    pub(super) fn new(core: Arc<Core<F>>, sequence: u64, ticket: Ticket<Outcome<F>>) -> Self {
        Self {
            core,
            sequence,
            ticket,
        }
    }

    pub(super) fn core(&self) -> &Arc<Core<F>> {
        &self.core
    }

    pub(super) fn into_core(self) -> Arc<Core<F>> {
        self.core
    }

    /// The flush's number.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the flush has been finalized, or has failed and was skipped.
    pub fn is_done(&self) -> bool {
        self.ticket.is_done()
    }

    /// Waits until the flush is finalized, and returns what the finalizer returned for it.
    ///
    /// # Errors
    /// [`Failed`](WaitError::Failed), [`FailurePanicked`](WaitError::FailurePanicked),
    /// [`ShutDown`](WaitError::ShutDown). With the ticket, which can be waited for again:
    /// [`Halted`](WaitError::Halted), [`WouldDeadlock`](WaitError::WouldDeadlock).
    ///
    /// # Blocking
    /// Until the flush is finalized, or has failed, or the pipeline halts.
    pub fn wait(self) -> Result<F::Output, WaitError<F>> {
        self.wait_until(None)
    }

    /// As [`wait`](Self::wait), but not longer than `timeout`.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and [`TimedOut`](WaitError::TimedOut) with the ticket.
    ///
    /// # Blocking
    /// Up to `timeout`.
    pub fn wait_timeout(self, timeout: Duration) -> Result<F::Output, WaitError<F>> {
        // A time-out beyond the end of time is none.
        self.wait_until(now().checked_add(timeout))
    }

    /// As [`wait`](Self::wait), but not past `deadline`.
    ///
    /// # Errors
    /// As [`wait_timeout`](Self::wait_timeout).
    ///
    /// # Blocking
    /// Until `deadline`.
    pub fn wait_deadline(self, deadline: Instant) -> Result<F::Output, WaitError<F>> {
        self.wait_until(Some(deadline))
    }

    fn wait_until(self, deadline: Option<Instant>) -> Result<F::Output, WaitError<F>> {
        let Self {
            core,
            sequence,
            ticket,
        } = self;
        let ticket = match ticket.try_take() {
            Ok(result) => return read(result),
            Err(ticket) => ticket,
        };
        if core.home.is_elsewhere() {
            return Err(WaitError::ShutDown);
        }
        if core.would_wait_for_itself() {
            return Err(WaitError::WouldDeadlock(Self::new(core, sequence, ticket)));
        }
        if deadline.is_some_and(|deadline| now() >= deadline) {
            let halted = core.halted_before(sequence);
            return Err(Self::new(core, sequence, ticket).still_open(halted));
        }
        // A moment, before the finalizer is made to wake this thread.
        let ticket = match hint::lulls().any(|()| ticket.is_done()) {
            true => match ticket.try_take() {
                Ok(result) => return read(result),
                Err(ticket) => ticket,
            },
            false => ticket,
        };
        let nudger = ticket.nudger();
        core.control.lock().sleepers.push(ticket.nudger());
        // Asked after it is on the list of those that a halt nudges.
        let halted = || match mutant::enabled("flush-ticket-sleeps-through-halt") {
            true => None,
            false => core.halted_before(sequence),
        };
        // The halt may be over by the time that the wait is.
        let seen = Cell::new(None);
        let waited = ticket.sleep_unless(deadline, || {
            seen.set(halted());
            seen.get().is_some()
        });
        let is_it = |other: &mut _| nudger.is_same(other);
        let gone: Vec<_> = core.control.lock().sleepers.extract_if(.., is_it).collect();
        drop(gone);
        match waited {
            Ok(result) => read(result),
            Err(ticket) => {
                let ticket = Self::new(Arc::clone(&core), sequence, ticket);
                Err(ticket.still_open(seen.get()))
            }
        }
    }

    /// The time is up, or there is a halt.
    fn still_open(self, halted: Option<u64>) -> WaitError<F> {
        match halted {
            Some(at) => WaitError::Halted(at, self),
            None => WaitError::TimedOut(self),
        }
    }

    /// The outcome, if it is there.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and [`WouldBlock`](WaitError::WouldBlock) with the ticket.
    pub fn try_wait(self) -> Result<F::Output, WaitError<F>> {
        let Self {
            core,
            sequence,
            ticket,
        } = self;
        match ticket.try_take() {
            Ok(result) => read(result),
            Err(ticket) => {
                let halted = core.halted_before(sequence);
                let ticket = Self::new(core, sequence, ticket);
                Err(match halted {
                    Some(at) => WaitError::Halted(at, ticket),
                    None => WaitError::WouldBlock(ticket),
                })
            }
        }
    }

    /// Calls `f` when the flush has been finalized, or has failed and was skipped: at once on this
    /// thread if that is so already, else later on the pipeline's. For event loops. A halt does not
    /// call it.
    ///
    /// Once the [`Pending`] has been dropped, `f` is not called; the flush goes on.
    pub fn wait_with(
        self,
        f: impl FnOnce(Result<F::Output, WaitError<F>>) + Send + 'static,
    ) -> Pending {
        self.ticket.wait_with(move |result| f(read(result)))
    }

    /// A descriptor that becomes, and stays, readable when the flush has been finalized, or has
    /// failed and was skipped. It is made at the first call.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn as_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.ticket.as_fd()
    }
}

fn read<F: Finalize>(result: Result<Outcome<F>, TicketError>) -> Result<F::Output, WaitError<F>> {
    match result {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(Refused::Failed(error))) => Err(WaitError::Failed(error)),
        Ok(Err(Refused::Panicked(panic))) => Err(WaitError::FailurePanicked(panic)),
        Err(TicketError::Panicked(panic)) => Err(WaitError::FailurePanicked(panic)),
        Err(TicketError::Lost) => Err(WaitError::ShutDown),
    }
}

impl<F: Finalize> fmt::Debug for FlushTicket<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushTicket")
            .field("sequence", &self.sequence)
            .field("done", &self.is_done())
            .finish_non_exhaustive()
    }
}
