//! The handle on a registered waiter.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::panic::{RefUnwindSafe, UnwindSafe};

use super::event::Event;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::mutant;

/// A registered waiter: the request that `acquire_with` or `latch_with` has put in line.
///
/// For event loops: the callback runs on whichever thread releases what is waited for (or at once,
/// on the calling one), and [`as_fd`](Self::as_fd) gives a descriptor that becomes readable then,
/// for a loop that would rather poll. Dropping the handle cancels: once `drop` has returned, the
/// callback has run, is running, or never will, and in the last case nothing stays taken: what had
/// been granted already is given back by the thread that was about to call.
///
/// ```
/// use latchwork::Semaphore;
/// use std::sync::mpsc;
///
/// let permits = Semaphore::new(1).unwrap();
/// let held = permits.acquire().unwrap();
/// let (send, receive) = mpsc::channel();
/// let pending = permits.acquire_with(move |permit| send.send(permit).unwrap());
/// assert!(!pending.is_delivered());
/// drop(held); // runs the callback
/// assert!(pending.is_delivered());
/// assert_eq!(receive.recv().unwrap().unwrap().count(), 1);
/// ```
#[must_use = "dropping a `Pending` cancels the request"]
pub struct Pending {
    delivery: Arc<Delivery>,
    cancel: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Pending {
    pub(crate) fn new(
        delivery: Arc<Delivery>,
        cancel: impl FnOnce() + Send + Sync + 'static,
    ) -> Self {
        Self {
            delivery,
            cancel: Some(Box::new(cancel)),
        }
    }

    /// For a request that was answered before it got in line.
    pub(crate) fn delivered(delivery: Arc<Delivery>) -> Self {
        Self {
            delivery,
            cancel: None,
        }
    }

    /// Whether the callback has run.
    pub fn is_delivered(&self) -> bool {
        self.delivery.is_done()
    }

    /// Cancels the request, as dropping the handle does, and says whether that was in time: `true`
    /// if the callback will never be called, `false` if it has been called, or is being so.
    ///
    /// ```
    /// use latchwork::Semaphore;
    ///
    /// let permits = Semaphore::new(1).unwrap();
    /// let held = permits.acquire().unwrap();
    /// let pending = permits.acquire_with(|_| unreachable!());
    /// assert!(pending.cancel());
    /// drop(held);
    /// assert!(!permits.acquire_with(drop).cancel()); // it had a permit at once
    /// ```
    pub fn cancel(mut self) -> bool {
        self.leave()
    }

    /// Out of line, if it still stands there; uncalled, if it has been granted and not begun.
    fn leave(&mut self) -> bool {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
        self.delivery.cancel()
    }

    /// A descriptor that becomes, and stays, readable once the callback has run. It is made at the
    /// first call.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn as_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.delivery.event.as_fd(|| self.is_delivered())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("delivered", &self.is_delivered())
            .finish_non_exhaustive()
    }
}

const WAITING: u32 = 0;
const RUNNING: u32 = 1;
const DONE: u32 = 2;
const CANCELLED: u32 = 3;

/// How far a callback has come.
///
/// | state | next | by |
/// |---|---|---|
/// | `WAITING` | `RUNNING` | whoever calls it |
/// | `WAITING` | `CANCELLED` | the drop of its [`Pending`] |
/// | `RUNNING` | `DONE` | whoever called it |
pub(crate) struct Delivery {
    state: AtomicU32,
    event: Event,
}

impl Delivery {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: AtomicU32::new(WAITING),
            event: Event::new(),
        })
    }

    fn leave_waiting(&self, next: u32) -> bool {
        self.state
            .compare_exchange(WAITING, next, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Before the callback runs. `false`: it has been cancelled.
    pub(crate) fn begin(&self) -> bool {
        self.leave_waiting(RUNNING) || mutant::enabled("pending-runs-cancelled")
    }

    fn cancel(&self) -> bool {
        self.leave_waiting(CANCELLED)
    }

    /// After the callback has run.
    pub(crate) fn finish(&self) {
        self.state.store(DONE, Ordering::Release);
        self.event.announce(|| self.is_done());
    }

    fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) == DONE
    }
}

// Nothing of a request is left half done by a panic: callbacks are contained.
impl UnwindSafe for Pending {}
impl RefUnwindSafe for Pending {}
