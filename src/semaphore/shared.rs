//! A semaphore that processes share, whose permits come back when a process ends.
//!
//! A [`SharedSemaphore`] is a mapped file. Processes that open it share its permits, and what one
//! of them holds comes back when it ends, also by SIGKILL, an abort or `exec`: the kernel marks the
//! dead process, and whoever needs a permit next takes over those that it held. There is no daemon,
//! and without contention no system call.
//!
//! | file | holds |
//! |---|---|
//! | `control` | the words |
//! | `core` | the steps on them: the fast way in and out |
//! | `gate` | the number of permits, and when newcomers have to look closer |
//! | `attempt` | the slow way: looking closely, and waiting |
//! | `requests` | requests that wait without a thread |
//! | `permit`, `lease` | the guards |
//! | `builder`, `error`, `stats` | how it is opened, what it answers, what can be asked |
//!
//! What comes back when a process dies, and when:
//!
//! | | its permits are free |
//! |---|---|
//! | SIGKILL, abort, exit, a crash | at once; with [`strict`](Builder::strict), when the kernel has freed all that the process had |
//! | a core dump | when the dump has been written |
//! | `exec` that succeeds | at once: the new program has not opened the semaphore |
//! | `fork` | not at all: they belong to the parent. In the child, guards do nothing and acquiring is refused until the child opens the semaphore itself |
//! | SIGSTOP, a debugger | not at all: the process still holds them. A [lease](SharedLease) ends nevertheless |

mod attempt;
mod builder;
pub(crate) mod control;
mod core;
mod error;
mod gate;
mod lease;
mod permit;
mod requests;
mod stats;

pub use builder::Builder;
pub use error::{AcquireError, AcquireTimeoutError, TryAcquireError};
pub use lease::SharedLease;
pub use permit::{SharedOwnedPermit, SharedPermit, SharedPermits, SharedSendPermit};
pub use stats::{SharedHolder, SharedStats, SharedWaiter};

pub use crate::os::shared::error::OpenError;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::panic::Location;
use std::path::Path;
use std::time::Duration;

use crate::holder::OnLeak;
use crate::holder::anchor::Anchor;
use crate::os::shared::{Attachment, file};
use crate::sync::time::{Instant, now};
use crate::sync::unmodelled::Arc;
use crate::waiter::{Callback, Delivery, Pending, dispatcher};

use self::attempt::Refusal;
use self::control::{Cell, Control};
use self::core::{Claim, Core};
use super::builder::InvalidPermits;

/// A counting semaphore that processes share, with leak-proof permits.
///
/// Use it to bound what goes on at once on a machine: the compilers of a build, the workers of
/// several servers, the downloads of a user. Within one process, [`Semaphore`](crate::Semaphore) is
/// faster and can do more. A handle: clones share one attachment to the file.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("latchwork-shared-{}", std::process::id()));
/// use latchwork::SharedSemaphore;
///
/// let jobs = SharedSemaphore::open(&path, 2)?; // in each of the processes
/// let job = jobs.acquire()?;
/// assert_eq!((jobs.current(), jobs.available()), (1, 1));
/// drop(job); // or SIGKILL
/// # SharedSemaphore::remove(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Trust
///
/// Only the user who owns the file can open it. Processes of that user can take permits, and can
/// also write garbage into the file. Then the count of permits may be wrong, and calls may return
/// [`Detached`](AcquireError::Detached); but no memory of this process is touched, and no thread
/// spins. [`remove`](Self::remove) the file and open it again. If somebody truncates the file,
/// every process that uses it is killed by SIGBUS.
///
/// A process that closes descriptors which it has not opened itself (`close_range`) may close the
/// one whose lock says that the process lives. It then loses its permits after a while.
///
/// # Fairness
///
/// Newcomers may take a free permit past those who wait until one of these has waited for 2 ms;
/// then they queue behind it. Among those who wait there is no order. One request at a time
/// collects several permits.
///
/// # Blocking
///
/// Since whoever should wake a waiter may be killed before it does, a waiting thread looks for a
/// permit every 50 ms by itself.
#[derive(Clone)]
pub struct SharedSemaphore {
    core: Anchor<Core>,
    path: Arc<Path>,
}

impl SharedSemaphore {
    /// Opens the semaphore at a path, and creates it with `permits` permits if there is none.
    ///
    /// A name without a slash stands for a file in `$XDG_RUNTIME_DIR/latchwork`, or
    /// `/dev/shm/latchwork-UID` if that variable is not set.
    ///
    /// # Errors
    ///
    /// As [`Builder::open`]; [`OpenError::is_mismatch`] if it was made for another number.
    ///
    /// # Blocking
    ///
    /// As [`Builder::open`].
    pub fn open(name: impl AsRef<Path>, permits: u32) -> Result<Self, OpenError> {
        Self::builder(name).permits(permits).open()
    }

    /// Starts a [`Builder`] for more options; one permit unless told otherwise.
    pub fn builder(name: impl AsRef<Path>) -> Builder {
        Builder::new(name.as_ref())
    }

    /// Removes the file, and says whether there was one. Processes that have it open go on sharing
    /// the removed one; the next to open the name creates a new one.
    ///
    /// # Errors
    ///
    /// When the system refuses the removal.
    pub fn remove(name: impl AsRef<Path>) -> Result<bool, OpenError> {
        file::remove(&file::resolve(name.as_ref())?)
    }

    pub(crate) fn with_attachment(
        attached: Attachment<Control, Cell>,
        path: &Path,
        tracks_holders: bool,
        on_leak: Option<OnLeak>,
    ) -> Self {
        let name: Arc<str> = path.to_string_lossy().into();
        Self {
            core: Anchor::new(Core::new(attached, tracks_holders, name, on_leak)),
            path: path.into(),
        }
    }

    /// Waits for a permit.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Closed`], [`AcquireError::Detached`].
    ///
    /// # Blocking
    ///
    /// For as long as it takes.
    #[inline(always)]
    #[track_caller]
    pub fn acquire(&self) -> Result<SharedPermit<'_>, AcquireError> {
        match self.try_now() {
            Some(permit) => Ok(permit),
            None => Ok(self.permit(self.core.wait_for_one(None)?)),
        }
    }

    /// Takes a permit if there is one, also one of a process that has died, and if taking it is not
    /// unfair to those who wait.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::WouldBlock`], [`TryAcquireError::Closed`], [`TryAcquireError::Detached`].
    #[inline]
    #[track_caller]
    pub fn try_acquire(&self) -> Result<SharedPermit<'_>, TryAcquireError> {
        match self.try_now() {
            Some(permit) => Ok(permit),
            None => Ok(self.permit(self.core.try_take_one_closely()?)),
        }
    }

    /// Waits for a permit, but not longer than `timeout`. A zero timeout tries once.
    ///
    /// # Errors
    ///
    /// [`AcquireTimeoutError::TimedOut`]: nothing was taken, and nothing will be.
    /// [`AcquireTimeoutError::Closed`], [`AcquireTimeoutError::Detached`].
    ///
    /// # Blocking
    ///
    /// Up to `timeout`.
    #[inline]
    #[track_caller]
    pub fn acquire_timeout(
        &self,
        timeout: Duration,
    ) -> Result<SharedPermit<'_>, AcquireTimeoutError> {
        match self.try_now() {
            Some(permit) => Ok(permit),
            None => {
                // A timeout beyond the end of time is none.
                let deadline = now().checked_add(timeout);
                Ok(self.permit(self.core.wait_for_one(deadline)?))
            }
        }
    }

    /// Waits for a permit, but not past `deadline`.
    ///
    /// # Errors
    ///
    /// As [`acquire_timeout`](Self::acquire_timeout).
    ///
    /// # Blocking
    ///
    /// Until `deadline`.
    #[inline]
    #[track_caller]
    pub fn acquire_deadline(
        &self,
        deadline: Instant,
    ) -> Result<SharedPermit<'_>, AcquireTimeoutError> {
        match self.try_now() {
            Some(permit) => Ok(permit),
            None => Ok(self.permit(self.core.wait_for_one(Some(deadline))?)),
        }
    }

    /// Waits for `n` permits, which come as one guard.
    ///
    /// # Errors
    ///
    /// [`AcquireError::TooMany`] above the file's ceiling, which no [`set_max`](Self::set_max) can
    /// reach; otherwise as [`acquire`](Self::acquire).
    ///
    /// # Blocking
    ///
    /// For as long as it takes; while `n` is above [`max`](Self::max), until that is raised.
    #[track_caller]
    pub fn acquire_many(&self, n: u32) -> Result<SharedPermits<'_>, AcquireError> {
        let wanted = self.check(n)?;
        Ok(self.permits(self.core.wait(wanted, None)?))
    }

    /// Takes `n` permits if they are there, as [`try_acquire`](Self::try_acquire).
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire), and [`TryAcquireError::TooMany`].
    #[track_caller]
    pub fn try_acquire_many(&self, n: u32) -> Result<SharedPermits<'_>, TryAcquireError> {
        let wanted = self.check(n)?;
        Ok(self.permits(self.core.try_take_closely(wanted)?))
    }

    /// Waits for `n` permits, but not longer than `timeout`. A zero timeout tries once.
    ///
    /// # Errors
    ///
    /// As [`acquire_timeout`](Self::acquire_timeout), and [`AcquireTimeoutError::TooMany`].
    ///
    /// # Blocking
    ///
    /// Up to `timeout`.
    #[track_caller]
    pub fn acquire_many_timeout(
        &self,
        n: u32,
        timeout: Duration,
    ) -> Result<SharedPermits<'_>, AcquireTimeoutError> {
        let wanted = self.check(n)?;
        // A timeout beyond the end of time is none.
        Ok(self.permits(self.core.wait(wanted, now().checked_add(timeout))?))
    }

    /// Waits for `n` permits, but not past `deadline`.
    ///
    /// # Errors
    ///
    /// As [`acquire_many_timeout`](Self::acquire_many_timeout).
    ///
    /// # Blocking
    ///
    /// Until `deadline`.
    #[track_caller]
    pub fn acquire_many_deadline(
        &self,
        n: u32,
        deadline: Instant,
    ) -> Result<SharedPermits<'_>, AcquireTimeoutError> {
        let wanted = self.check(n)?;
        Ok(self.permits(self.core.wait(wanted, Some(deadline))?))
    }

    /// Asks for a permit without waiting for it: `f` is called with it once it is there, on a
    /// thread of the library's; or at once, on this one, if it is there or refused. Dropping the
    /// [`Pending`] cancels.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join(format!("latchwork-with-{}", std::process::id()));
    /// use latchwork::SharedSemaphore;
    /// use std::sync::mpsc;
    ///
    /// let jobs = SharedSemaphore::open(&path, 1)?;
    /// let held = jobs.acquire()?;
    /// let (send, receive) = mpsc::channel();
    /// let pending = jobs.acquire_with(move |permit| send.send(permit).unwrap());
    /// drop(held); // here, or in any other process
    /// assert_eq!(receive.recv()??.count(), 1);
    /// # drop(pending);
    /// # SharedSemaphore::remove(&path)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `f` gets them, as [`acquire`](Self::acquire).
    ///
    /// # Panics
    ///
    /// When the system refuses the one thread that runs callbacks.
    pub fn acquire_with(
        &self,
        f: impl FnOnce(Result<SharedSendPermit, AcquireError>) + Send + 'static,
    ) -> Pending {
        self.acquire_many_with(1, f)
    }

    /// Asks for `n` permits, as [`acquire_with`](Self::acquire_with).
    ///
    /// # Errors
    ///
    /// `f` gets them, as [`acquire_many`](Self::acquire_many).
    ///
    /// # Panics
    ///
    /// As [`acquire_with`](Self::acquire_with).
    pub fn acquire_many_with(
        &self,
        n: u32,
        f: impl FnOnce(Result<SharedSendPermit, AcquireError>) + Send + 'static,
    ) -> Pending {
        dispatcher::start().expect("a thread for callbacks could not be started");
        let delivery = Delivery::new();
        let handle = self.core.clone();
        let wanted = self.check(n);
        let callback = Callback {
            run: Box::new(move |outcome: requests::Outcome, is_wanted| {
                let permit = match (wanted, outcome) {
                    (Ok(_), Ok(claims)) => Ok(SharedSendPermit::new(handle, claims)),
                    (Err(error), _) => Err(error),
                    (_, Err(refusal)) => Err(refusal.into()),
                };
                if is_wanted {
                    f(permit);
                }
            }),
            delivery: delivery.clone(),
        };
        let Ok(wanted) = wanted else {
            callback.deliver(Err(Refusal::NotNow));
            return Pending::delivered(delivery);
        };
        match self.core.try_take_closely(wanted) {
            Err(Refusal::NotNow) => {}
            outcome => {
                callback.deliver(outcome);
                return Pending::delivered(delivery);
            }
        }
        let number = requests::register(&self.core, wanted, callback);
        let core = self.core.clone();
        Pending::new(delivery, move || requests::cancel(&core, number))
    }

    /// Runs `f` while holding a permit that it only borrows: it cannot be leaked.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and then `f` is not run.
    #[track_caller]
    pub fn with_permit<R>(
        &self,
        f: impl FnOnce(&SharedPermit<'_>) -> R,
    ) -> Result<R, AcquireError> {
        let permit = self.acquire()?;
        Ok(f(&permit))
    }

    /// Sets the number of permits, for all processes. Running ones stay: after a cut, new ones wait
    /// until enough have come back.
    ///
    /// # Errors
    ///
    /// [`InvalidPermits`] for 0 and for more than the file has room for.
    pub fn set_max(&self, permits: u32) -> Result<(), InvalidPermits> {
        InvalidPermits::check(permits.into(), self.ceiling().into())?;
        self.core.set_max(permits);
        Ok(())
    }

    /// How many permits there are, taken or not.
    pub fn max(&self) -> u32 {
        self.core.target() as u32
    }

    /// The highest number that [`set_max`](Self::set_max) accepts.
    pub fn ceiling(&self) -> u32 {
        self.core.area().cells.len() as u32
    }

    /// How many permits are taken, by all processes. Those of dead processes do not count.
    ///
    /// It reads one permit after the other, not all at one moment.
    pub fn current(&self) -> u32 {
        self.core.held().count() as u32
    }

    /// How many permits could be taken.
    pub fn available(&self) -> u32 {
        self.max().saturating_sub(self.current())
    }

    /// How many requests wait, in all processes.
    pub fn waiters(&self) -> u32 {
        let waiting = self.core.waiting().map(|(_, requests)| requests);
        waiting.fold(0, u32::saturating_add)
    }

    /// Refuses all requests that wait, and all later ones, in all processes. It cannot be undone.
    /// Permits that are held stay valid.
    pub fn close(&self) {
        self.core.close();
    }

    /// Whether [`close`](Self::close) has been called, by whichever process.
    pub fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    /// Whether the semaphore is [strict](Builder::strict).
    pub fn is_strict(&self) -> bool {
        self.core.is_strict
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor whose lock on the file says that this process lives.
    ///
    /// With [`strict`](Builder::strict), permits come back when the last descriptor of it has been
    /// closed: hand a command a duplicate that it inherits, and they last until both have ended.
    /// Dropping the permits gives them back all the same.
    ///
    /// `None` in the child of a fork, which does not have it.
    pub fn lifeline_fd(&self) -> Option<BorrowedFd<'_>> {
        let attached = &self.core.attached;
        (!attached.is_inherited()).then(|| attached.lock_fd())
    }

    fn check(&self, n: u32) -> Result<usize, AcquireError> {
        match n > self.ceiling() {
            true => Err(AcquireError::TooMany),
            false => Ok(n as usize),
        }
    }

    #[inline(always)]
    #[track_caller]
    fn try_now(&self) -> Option<SharedPermit<'_>> {
        SharedPermit::take_now(&self.core, Location::caller())
    }

    #[track_caller]
    fn permit(&self, claim: Claim) -> SharedPermit<'_> {
        SharedPermit::taken(&self.core, claim, Location::caller())
    }

    #[track_caller]
    fn permits(&self, claims: Vec<Claim>) -> SharedPermits<'_> {
        SharedPermits::taken(self.core.borrow(), claims, Location::caller())
    }
}

impl Core {
    #[cold]
    pub(super) fn wait_for_one(&self, deadline: Option<Instant>) -> Result<Claim, Refusal> {
        Ok(only(self.wait(1, deadline)?))
    }

    #[cold]
    pub(super) fn try_take_one_closely(&self) -> Result<Claim, Refusal> {
        Ok(only(self.try_take_closely(1)?))
    }
}

fn only(claims: Vec<Claim>) -> Claim {
    let claim = claims.into_iter().next();
    claim.expect("a request for one permit is done when it has one")
}

impl fmt::Debug for SharedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSemaphore")
            .field("path", &self.path)
            .field("max", &self.max())
            .field("current", &self.current())
            .field("waiters", &self.waiters())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
