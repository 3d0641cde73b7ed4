//! The handle on a registered waiter.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::os::event;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::sync::unmodelled::OnceLock;

/// A registered waiter: the request that `acquire_with` or `latch_with` has put in line.
///
/// For event loops: the callback runs on whichever thread releases what is waited for (or at once,
/// on the calling one), and [`as_fd`](Self::as_fd) gives a descriptor that becomes readable then,
/// for a loop that would rather poll. Dropping the handle cancels: once `drop` has returned, the
/// callback has run, is running, or never will, and in the last case nothing was taken.
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
    cancel: Option<Box<dyn FnOnce() + Send>>,
}

impl Pending {
    pub(crate) fn new(delivery: Arc<Delivery>, cancel: impl FnOnce() + Send + 'static) -> Self {
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
        self.delivery.done.load(Ordering::Acquire)
    }

    /// A descriptor that becomes, and stays, readable once the callback has run. It is made at the
    /// first call.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn as_fd(&self) -> io::Result<BorrowedFd<'_>> {
        if self.delivery.event.get().is_none() {
            let _ = self.delivery.event.set(event::create()?);
            self.delivery.announce();
        }
        let event = self.delivery.event.get().expect("set above");
        Ok(event.as_fd())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(cancel) = self.cancel.take() {
            cancel();
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("delivered", &self.is_delivered())
            .finish_non_exhaustive()
    }
}

/// The news that a callback has run.
pub(crate) struct Delivery {
    done: AtomicBool,
    event: OnceLock<OwnedFd>,
}

impl Delivery {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            done: AtomicBool::new(false),
            event: OnceLock::new(),
        })
    }

    pub(crate) fn finish(&self) {
        self.done.store(true, Ordering::Release);
        self.announce();
    }

    /// `finish` stores `done` and then looks for the descriptor, `as_fd` sets the descriptor and
    /// then looks at `done`; the fence between the two on each side makes one of them see the
    /// other.
    fn announce(&self) {
        fence(Ordering::SeqCst);
        if self.done.load(Ordering::Acquire)
            && let Some(event) = self.event.get()
        {
            event::signal(event);
        }
    }
}
