//! A result that is not there yet: one thread completes it, once, and another waits for it.
//!
//! | part | holds |
//! |---|---|
//! | `slot` | what the two ends share, and why nobody sleeps past a result |
//! | `call` | who has the waiter look around |

#[cfg(feature = "flush")]
mod call;
mod slot;

#[cfg(feature = "flush")]
pub(crate) use call::{Nudger, Sleeper};

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use crate::sync::time::{Instant, now};
use crate::sync::{Arc, mutant};

use super::callback::Callback;
use super::panic::Panic;
use super::pending::{Delivery, Pending};
use slot::{CANCELLED, Finisher, RUNNING, Waiter};

/// Why there is no result.
///
/// ```
/// use latchwork::worker::{TicketError, ticket};
///
/// let (completer, ticket) = ticket::<u64>();
/// drop(completer);
/// assert!(matches!(ticket.wait(), Err(TicketError::Lost)));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum TicketError {
    /// The work panicked.
    Panicked(Panic),
    /// The work was not done and will not be: its worker has shut down.
    Lost,
}

impl fmt::Display for TicketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(_) => f.write_str("the work panicked"),
            Self::Lost => f.write_str("the work was not done: its worker has shut down"),
        }
    }
}

impl std::error::Error for TicketError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Panicked(panic) => Some(panic),
            Self::Lost => None,
        }
    }
}

impl From<Panic> for TicketError {
    fn from(panic: Panic) -> Self {
        Self::Panicked(panic)
    }
}

/// Makes the two ends of a result that is not there yet.
///
/// For queues of work: the [`Completer`] goes with the work, the [`Ticket`] to whoever asked for
/// it.
///
/// ```
/// use latchwork::worker::ticket;
///
/// let (mut completer, ticket) = ticket();
/// let thread = std::thread::spawn(move || {
///     if completer.begin() {
///         completer.complete(Ok(6 * 7));
///     }
/// });
/// assert_eq!(ticket.wait().unwrap(), 42);
/// # thread.join().unwrap();
/// ```
pub fn ticket<T>() -> (Completer<T>, Ticket<T>) {
    let (finisher, slot) = slot::ends();
    let completer = Completer {
        slot: Some(finisher),
    };
    let ticket = Ticket {
        slot,
        withdraw: None,
    };
    (completer, ticket)
}

/// The end that does the work, and says what came of it. Dropping it undone tells the other end
/// that the work is [`Lost`](TicketError::Lost).
///
/// See [`ticket`].
#[must_use = "dropping a `Completer` says that the work is lost"]
pub struct Completer<T> {
    /// `None`: completed.
    slot: Option<Finisher<T>>,
}

impl<T> Completer<T> {
    /// One that is completed, or whose ticket nobody has.
    #[cfg(feature = "flush")]
    pub(crate) const fn gone() -> Self {
        Self { slot: None }
    }

    /// Leaves one behind that is [`gone`](Self::gone).
    #[cfg(feature = "flush")]
    pub(crate) fn take(&mut self) -> Self {
        Self {
            slot: self.slot.take(),
        }
    }

    /// Before the work. `false`: it has been cancelled and must not be done; from `true` on it
    /// cannot be cancelled any more.
    ///
    /// ```
    /// # use latchwork::worker::ticket;
    /// let (mut completer, ticket) = ticket::<u64>();
    /// assert!(ticket.cancel());
    /// assert!(!completer.begin());
    /// ```
    pub fn begin(&mut self) -> bool {
        self.slot.as_ref().is_some_and(|slot| {
            slot.leave_waiting(RUNNING)
                || slot.is_running()
                || mutant::enabled("ticket-runs-cancelled")
        })
    }

    /// After the work: hands over its result, or the panic that it ended in. Without a
    /// [`begin`](Self::begin) before, that is done here; the result of cancelled work is dropped.
    ///
    /// ```
    /// # use latchwork::worker::ticket;
    /// let (completer, ticket) = ticket();
    /// completer.complete(Ok("done"));
    /// assert_eq!(ticket.wait().unwrap(), "done");
    /// ```
    pub fn complete(mut self, result: Result<T, Panic>) {
        if self.begin()
            && let Some(slot) = self.slot.take()
        {
            slot.finish_and_wake(result.map_err(TicketError::from));
        }
    }

    /// As [`complete`](Self::complete), of work that nobody can cancel; and who sleeps until then is
    /// the caller's to wake.
    #[cfg(feature = "flush")]
    pub(crate) fn complete_quietly(mut self, result: Result<T, Panic>) -> Option<Sleeper<T>> {
        let sleeper = self.slot.take()?.finish(result.map_err(TicketError::from));
        sleeper.map(Sleeper)
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        if self.begin()
            && let Some(slot) = self.slot.take()
            && !mutant::enabled("ticket-is-lost-silently")
        {
            slot.finish_and_wake(Err(TicketError::Lost));
        }
    }
}

/// The end that waits for a result: of a message to a [`Worker`](crate::worker::Worker), or of any
/// work whose [`Completer`] somebody has.
///
/// Dropping it lets the work go on, unseen; [`cancel`](Self::cancel) keeps it from beginning.
///
/// ```
/// use std::time::Duration;
/// use latchwork::worker::Worker;
///
/// let worker = Worker::new("squares", |n: u64| n * n);
/// let mut ticket = worker.submit(12).unwrap();
/// let square = loop {
///     match ticket.wait_timeout(Duration::from_secs(1)) {
///         Ok(result) => break result.unwrap(),
///         Err(again) => ticket = again, // time for something else
///     }
/// };
/// assert_eq!(square, 144);
/// ```
#[must_use = "the result, and a panic, are lost with the ticket: drop it where that is meant"]
pub struct Ticket<T> {
    slot: Waiter<T>,
    /// Takes cancelled work out of the queue that it stands in.
    withdraw: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl<T> Ticket<T> {
    /// Has `withdraw` called when the work has been cancelled.
    pub(crate) fn on_cancel(mut self, withdraw: impl FnOnce() + Send + Sync + 'static) -> Self {
        self.withdraw = Some(Box::new(withdraw));
        self
    }

    /// Waits for the result.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// let worker = Worker::new("squares", |n: u64| n * n);
    /// assert_eq!(worker.submit(3).unwrap().wait().unwrap(), 9);
    /// ```
    ///
    /// # Errors
    /// [`TicketError::Panicked`] with the work's panic, which can be
    /// [resumed](Panic::resume) here; [`TicketError::Lost`].
    ///
    /// # Blocking
    /// Until the work has been done, or is lost.
    pub fn wait(self) -> Result<T, TicketError> {
        self.slot.take()
    }

    /// Waits for the result, but not longer than `timeout`. A zero timeout looks once.
    ///
    /// ```
    /// # use latchwork::worker::ticket;
    /// let (completer, ticket) = ticket();
    /// let ticket = ticket.wait_timeout(std::time::Duration::ZERO).unwrap_err();
    /// completer.complete(Ok(1));
    /// assert_eq!(ticket.wait().unwrap(), 1);
    /// ```
    ///
    /// # Errors
    /// The ticket, when the time is up: the work goes on, and can be waited for again or be
    /// cancelled.
    ///
    /// # Blocking
    /// Up to `timeout`.
    pub fn wait_timeout(self, timeout: Duration) -> Result<Result<T, TicketError>, Self> {
        if self.is_done() || timeout.is_zero() {
            return self.try_take();
        }
        // A time-out beyond the end of time is none.
        let deadline = now().checked_add(timeout);
        self.wait_until(deadline)
    }

    /// Waits for the result, but not past `deadline`.
    ///
    /// ```
    /// # use latchwork::worker::ticket;
    /// let (_completer, ticket) = ticket::<u64>();
    /// assert!(ticket.wait_deadline(std::time::Instant::now()).is_err());
    /// ```
    ///
    /// # Errors
    /// As [`wait_timeout`](Self::wait_timeout).
    ///
    /// # Blocking
    /// Until `deadline`.
    pub fn wait_deadline(self, deadline: Instant) -> Result<Result<T, TicketError>, Self> {
        self.wait_until(Some(deadline))
    }

    fn wait_until(self, deadline: Option<Instant>) -> Result<Result<T, TicketError>, Self> {
        self.slot.park(deadline);
        self.try_take()
    }

    /// Waits for the work to begin until `deadline`, and then for its result, however long that
    /// takes. `None`: it had not begun by then, and never will.
    ///
    /// ```
    /// # use latchwork::worker::ticket;
    /// # use std::time::Instant;
    /// let (mut completer, waits) = ticket::<u64>();
    /// assert!(waits.wait_or_cancel(Instant::now()).is_none());
    /// assert!(!completer.begin());
    /// ```
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Blocking
    /// Until `deadline`; while the work is being done, past it.
    pub fn wait_or_cancel(mut self, deadline: Instant) -> Option<Result<T, TicketError>> {
        if !self.slot.park(Some(deadline)) && self.withdraw() {
            return None;
        }
        Some(self.slot.take())
    }

    /// As [`wait_deadline`](Self::wait_deadline), but sleeps at once, and gives up when `is_over`,
    /// which is asked again after each [`nudge`](Nudger::nudge).
    #[cfg(feature = "flush")]
    pub(crate) fn sleep_unless(
        self,
        deadline: Option<Instant>,
        is_over: impl Fn() -> bool,
    ) -> Result<Result<T, TicketError>, Self> {
        self.slot.sleep_unless(deadline, is_over);
        self.try_take()
    }

    #[cfg(feature = "flush")]
    pub(crate) fn nudger(&self) -> Nudger<T> {
        Nudger(Arc::clone(&self.slot))
    }

    /// The result, if it is there.
    ///
    /// ```
    /// # use latchwork::worker::ticket;
    /// let (completer, ticket) = ticket();
    /// let ticket = ticket.try_take().unwrap_err();
    /// completer.complete(Ok(1));
    /// assert_eq!(ticket.try_take().unwrap().unwrap(), 1);
    /// ```
    ///
    /// # Errors
    /// The ticket, while there is none.
    pub fn try_take(self) -> Result<Result<T, TicketError>, Self> {
        let Self { slot, withdraw } = self;
        slot.try_take().map_err(|slot| Self { slot, withdraw })
    }

    /// Whether the result is there.
    ///
    /// ```
    /// # use latchwork::worker::ticket;
    /// let (completer, ticket) = ticket();
    /// assert!(!ticket.is_done());
    /// completer.complete(Ok(1));
    /// assert!(ticket.is_done());
    /// ```
    pub fn is_done(&self) -> bool {
        self.slot.is_done()
    }

    /// Cancels the work if it has not begun. `true`: it never will. `false`: it has, or is lost;
    /// whatever it results in is dropped.
    ///
    /// ```
    /// # use latchwork::worker::ticket;
    /// let (mut completer, ticket) = ticket::<u64>();
    /// assert!(completer.begin());
    /// assert!(!ticket.cancel());
    /// ```
    pub fn cancel(mut self) -> bool {
        self.withdraw()
    }

    fn withdraw(&mut self) -> bool {
        let is_cancelled = self.slot.leave_waiting(CANCELLED);
        if let Some(withdraw) = self.withdraw.take().filter(|_| is_cancelled) {
            withdraw();
        }
        is_cancelled
    }

    /// Calls `f` with the result: at once on this thread if it is there, else later on the thread
    /// that completes the work. For event loops. Once the [`Pending`] has been dropped, `f` is not
    /// called; the work goes on.
    ///
    /// ```
    /// # use latchwork::worker::ticket;
    /// use std::sync::mpsc;
    ///
    /// let (completer, ticket) = ticket();
    /// let (sender, results) = mpsc::channel();
    /// let pending = ticket.wait_with(move |result| sender.send(result.unwrap()).unwrap());
    /// completer.complete(Ok(7));
    /// assert!(pending.is_delivered());
    /// assert_eq!(results.recv().unwrap(), 7);
    /// ```
    pub fn wait_with(self, f: impl FnOnce(Result<T, TicketError>) + Send + 'static) -> Pending
    where
        T: Send + 'static,
    {
        let delivery = Delivery::new();
        let callback = Callback {
            run: Box::new(move |result, is_wanted| {
                if is_wanted {
                    f(result);
                }
            }),
            delivery: Arc::clone(&delivery),
        };
        let deliver = Box::new(|result| callback.deliver(result));
        match self.slot.deliver_to(deliver) {
            Some(slot) => Pending::new(delivery, move || drop(slot.take_back())),
            None => Pending::delivered(delivery),
        }
    }

    /// A descriptor that becomes, and stays, readable once the result is there. It is made at the
    /// first call.
    ///
    /// ```
    /// # use latchwork::worker::ticket;
    /// # use rustix::event::{PollFd, PollFlags, poll};
    /// let (completer, ticket) = ticket();
    /// completer.complete(Ok(1));
    /// let mut fds = [PollFd::from_borrowed_fd(ticket.as_fd()?, PollFlags::IN)];
    /// assert_eq!(poll(&mut fds, None)?, 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn as_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.slot.event.as_fd(|| !self.slot.watch())
    }
}

// A panic never meets a result half stored, and the hook of a cancel runs once.
impl<T> UnwindSafe for Ticket<T> {}
impl<T> RefUnwindSafe for Ticket<T> {}
impl<T> UnwindSafe for Completer<T> {}
impl<T> RefUnwindSafe for Completer<T> {}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("done", &self.is_done())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Completer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completer").finish_non_exhaustive()
    }
}
