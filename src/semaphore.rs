//! A counting semaphore whose permits cannot leak.
//!
//! A [`Semaphore`] bounds how much of something goes on at once: connections, saves, bytes in
//! flight. [`Semaphore::acquire`] gives a [`Permit`], a guard; dropping it gives the permit back,
//! and so does the end of the thread that leaked it. The state is one atomic word, so nobody ever
//! sees more permits taken than there are; without contention neither direction makes a system
//! call.
//!
//! | file | holds |
//! |---|---|
//! | `state` | the word: permits and flags |
//! | `core` | the line, and who gets the next permit |
//! | `permit` | the guards |
//! | `lease` | permits with a deadline, and who takes them back |
//! | `error` | the errors, one for each kind of call |

mod builder;
mod core;
mod error;
mod lease;
mod permit;
#[cfg(feature = "shared")]
pub mod shared;
mod state;

pub use builder::{BuildError, Builder, InvalidPermits};
pub use error::{AcquireError, AcquireTimeoutError, TryAcquireError};
pub use lease::{ExpiredLease, Lease, LeaseLost};
pub use permit::{OwnedPermit, Permit, SendPermit};

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use crate::holder::anchor::Anchor;
use crate::holder::bound::Prepared;
use crate::holder::claim;
use crate::os::clock;
use crate::sync::time::{Instant, now};
use crate::waiter::{Callback, Delivery, Pending, WaitHistogram, dispatcher};

use self::core::{Core, Refusal};

/// Who gets a permit that comes back while others wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fairness {
    /// Newcomers may take a free permit past the line until the oldest waiter has waited 0.5 ms;
    /// from then on permits go to it. Most of the speed of an unfair semaphore, and nobody starves.
    #[default]
    Eventual,
    /// Strictly first come first served: every permit that comes back while somebody waits is
    /// handed to the oldest waiter. Costs a context switch each time there is a line.
    Fifo,
}

/// A counting semaphore with leak-proof permits.
///
/// A handle: clones share the same permits. See the [module](self) for what it promises.
///
/// ```
/// use latchwork::Semaphore;
/// use std::time::Duration;
///
/// let saves = Semaphore::new(2)?;
/// let one = saves.acquire()?;
/// let two = saves.acquire()?;
/// assert!(saves.try_acquire().is_err());
/// assert!(saves.acquire_timeout(Duration::from_millis(1)).is_err());
/// drop(one);
/// assert!(saves.try_acquire().is_ok());
/// # drop(two);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Fairness
///
/// See [`Fairness`]. Only the oldest waiter collects permits for an `acquire_many`; a waiter that
/// gives up returns what it had been handed, and that feeds as many others as it can. A request for
/// more permits than [`max`](Self::max) waits aside and holds up nobody until
/// [`set_max`](Self::set_max) makes it possible; it keeps its age.
#[derive(Clone)]
pub struct Semaphore {
    core: Anchor<Core>,
}

impl Semaphore {
    /// A semaphore with `permits` permits and the defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    ///
    /// [`BuildError::Permits`] for 0 and for more than 2^48 - 1.
    pub fn new(permits: u64) -> Result<Self, BuildError> {
        Self::builder("semaphore").permits(permits).build()
    }

    /// Starts a semaphore that is called `name` in reports, with one permit unless told otherwise.
    pub fn builder(name: impl Into<String>) -> Builder {
        Builder::new(name.into())
    }

    /// Waits for a permit.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Closed`].
    ///
    /// # Blocking
    ///
    /// For as long as it takes. A thread that itself holds the permit it waits for waits for ever.
    #[inline]
    #[track_caller]
    pub fn acquire(&self) -> Result<Permit<'_>, AcquireError> {
        self.acquire_many(1)
    }

    /// Takes a permit if there is one, and if taking it is not unfair to those who wait.
    ///
    /// # Errors
    ///
    /// [`TryAcquireError::WouldBlock`], [`TryAcquireError::Closed`].
    #[inline]
    #[track_caller]
    pub fn try_acquire(&self) -> Result<Permit<'_>, TryAcquireError> {
        self.try_acquire_many(1)
    }

    /// Waits for a permit, but not longer than `timeout`. A zero timeout tries once.
    ///
    /// # Errors
    ///
    /// [`AcquireTimeoutError::TimedOut`]: nothing was taken, and nothing will be.
    /// [`AcquireTimeoutError::Closed`].
    ///
    /// # Blocking
    ///
    /// Up to `timeout`.
    #[inline]
    #[track_caller]
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Permit<'_>, AcquireTimeoutError> {
        self.acquire_many_timeout(1, timeout)
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
    pub fn acquire_deadline(&self, deadline: Instant) -> Result<Permit<'_>, AcquireTimeoutError> {
        self.acquire_many_deadline(1, deadline)
    }

    /// Waits for `n` permits, which come as one guard: a byte budget, say.
    ///
    /// ```
    /// # use latchwork::Semaphore;
    /// let in_flight = Semaphore::new(64 << 20)?;
    /// let message = vec![0; 4096];
    /// let budget = in_flight.acquire_many(message.len() as u64)?;
    /// assert_eq!(in_flight.current(), 4096);
    /// # drop(budget);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AcquireError::TooMany`] above the builder's ceiling, which no [`set_max`](Self::set_max)
    /// can reach; [`AcquireError::Closed`].
    ///
    /// # Blocking
    ///
    /// For as long as it takes; while `n` is above [`max`](Self::max), until that is raised.
    #[inline]
    #[track_caller]
    pub fn acquire_many(&self, n: u64) -> Result<Permit<'_>, AcquireError> {
        let prepared = self.prepare(n);
        if self.core.try_take(n).is_ok() {
            return Ok(Permit::taken(prepared, n));
        }
        self.check(n)?;
        match self.core.take_or_wait(n, None) {
            Ok(()) => Ok(self.permit(n)),
            Err(_) => Err(AcquireError::Closed),
        }
    }

    /// Takes `n` permits if they are there, and if taking them is not unfair to those who wait.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire), and [`TryAcquireError::TooMany`].
    #[inline]
    #[track_caller]
    pub fn try_acquire_many(&self, n: u64) -> Result<Permit<'_>, TryAcquireError> {
        let prepared = self.prepare(n);
        if self.core.try_take(n).is_ok() {
            return Ok(Permit::taken(prepared, n));
        }
        self.check(n)?;
        match self.core.try_take(n) {
            Ok(()) => Ok(Permit::taken(prepared, n)),
            Err(Refusal::Closed) => Err(TryAcquireError::Closed),
            Err(Refusal::NotNow) => Err(TryAcquireError::WouldBlock),
        }
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
    #[inline]
    #[track_caller]
    pub fn acquire_many_timeout(
        &self,
        n: u64,
        timeout: Duration,
    ) -> Result<Permit<'_>, AcquireTimeoutError> {
        // No clock is read unless there is a wait. A timeout beyond the end of time is none.
        self.acquire_many_until(n, || now().checked_add(timeout))
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
    #[inline]
    #[track_caller]
    pub fn acquire_many_deadline(
        &self,
        n: u64,
        deadline: Instant,
    ) -> Result<Permit<'_>, AcquireTimeoutError> {
        self.acquire_many_until(n, || Some(deadline))
    }

    #[inline]
    #[track_caller]
    fn acquire_many_until(
        &self,
        n: u64,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Permit<'_>, AcquireTimeoutError> {
        let prepared = self.prepare(n);
        if self.core.try_take(n).is_ok() {
            return Ok(Permit::taken(prepared, n));
        }
        self.check(n)?;
        match self.core.take_or_wait(n, deadline()) {
            Ok(()) => Ok(self.permit(n)),
            Err(Refusal::Closed) => Err(AcquireTimeoutError::Closed),
            Err(Refusal::NotNow) => Err(AcquireTimeoutError::TimedOut),
        }
    }

    /// Asks for a permit without waiting for it: `f` is called with it once it is there.
    ///
    /// For event loops. `f` runs at once on this thread if a permit is free, else later on the
    /// thread that gives one back, or on the library's own (`lw-dispatch`), as when that thread is
    /// ending. It runs outside all locks, and a panic in it is caught. It must not wait: other
    /// callbacks on the same thread are called when it has returned. Dropping the [`Pending`]
    /// cancels.
    ///
    /// ```
    /// use latchwork::Semaphore;
    /// use std::sync::mpsc;
    ///
    /// let permits = Semaphore::new(1)?;
    /// let held = permits.acquire()?;
    /// let (send, receive) = mpsc::channel();
    /// let pending = permits.acquire_with(move |permit| send.send(permit).unwrap());
    /// assert!(receive.try_recv().is_err());
    /// drop(held);
    /// let permit = receive.recv()?;
    /// # drop(pending);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `f` gets them, as [`acquire`](Self::acquire).
    ///
    /// # Panics
    ///
    /// When the system refuses the one thread that serves callbacks on behalf of ending threads.
    pub fn acquire_with(
        &self,
        f: impl FnOnce(Result<SendPermit, AcquireError>) + Send + 'static,
    ) -> Pending {
        self.acquire_many_with(1, f)
    }

    /// Asks for `n` permits without waiting for them, as [`acquire_with`](Self::acquire_with).
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
        n: u64,
        f: impl FnOnce(Result<SendPermit, AcquireError>) + Send + 'static,
    ) -> Pending {
        dispatcher::start().expect("a thread for callbacks could not be started");
        let delivery = Delivery::new();
        let handle = self.core.clone();
        let callback = Callback {
            run: Box::new(move |outcome: core::Outcome, is_wanted| {
                let permit = outcome.map(|()| SendPermit::new(handle, n));
                if is_wanted {
                    f(permit);
                }
            }),
            delivery: delivery.clone(),
        };
        if let Err(error) = self.check(n) {
            callback.deliver(Err(error));
            return Pending::delivered(delivery);
        }
        match self.core.take_or_register(n, callback) {
            Ok(key) => {
                let core = self.core.clone();
                Pending::new(delivery, move || core.cancel(key))
            }
            Err((callback, outcome)) => {
                callback.deliver(outcome);
                Pending::delivered(delivery)
            }
        }
    }

    /// Runs `f` while holding a permit that it only borrows: it cannot be leaked.
    ///
    /// ```
    /// # let saves = latchwork::Semaphore::new(1)?;
    /// let answer = saves.with_permit(|_| 6 * 7)?;
    /// assert_eq!(answer, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire), and then `f` is not run.
    ///
    /// # Blocking
    ///
    /// As [`acquire`](Self::acquire).
    #[track_caller]
    pub fn with_permit<R>(&self, f: impl FnOnce(&Permit<'_>) -> R) -> Result<R, AcquireError> {
        let permit = self.acquire()?;
        Ok(f(&permit))
    }

    /// Sets the number of permits. Permits that are held stay valid: after a cut, requests wait
    /// until enough have come back.
    ///
    /// # Errors
    ///
    /// [`InvalidPermits`] for 0 and for more than the builder's ceiling.
    pub fn set_max(&self, permits: u64) -> Result<(), InvalidPermits> {
        InvalidPermits::check(permits, self.core.ceiling)?;
        self.core.set_max(permits);
        Ok(())
    }

    /// How many permits there are, taken or not.
    pub fn max(&self) -> u64 {
        self.core.max()
    }

    /// How many permits are taken, those handed to the oldest waiter so far among them.
    ///
    /// Above [`max`](Self::max) only between a cut by [`set_max`](Self::set_max) and the return of
    /// the permits that run.
    pub fn current(&self) -> u64 {
        self.core.taken()
    }

    /// How many permits could be taken now.
    pub fn available(&self) -> u64 {
        self.core.available()
    }

    /// How many requests wait.
    pub fn waiters(&self) -> usize {
        self.core.counters.waiters.get() as usize
    }

    /// Refuses all requests that wait, and all later ones. Permits that are held stay valid.
    pub fn close(&self) {
        self.core.close();
    }

    /// Whether [`close`](Self::close) has been called.
    pub fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    /// As [`close`](Self::close), under a lock of the caller's: who waits is told by a call of the
    /// result, outside it.
    #[cfg(feature = "flush")]
    #[must_use = "who waits is told by a call of it"]
    pub(crate) fn close_later(&self) -> impl FnOnce() + use<> {
        let wakes = self.core.refuse_all();
        || wakes.deliver()
    }

    /// Ends [`close`](Self::close).
    #[cfg(feature = "flush")]
    pub(crate) fn reopen(&self) {
        self.core.reopen();
    }

    /// Whether the calling thread holds permits, by guards that are bound to it.
    #[cfg(feature = "flush")]
    pub(crate) fn is_held_here(&self) -> bool {
        crate::holder::claim::holds(self.core.borrow().uncounted())
    }

    /// Gives back permits that were [taken out](Permit::take_out) of their guard.
    #[cfg(feature = "flush")]
    pub(crate) fn give_back(&self, permits: u64) {
        if permits > 0 {
            self.core.give(permits, 0);
        }
    }

    /// What the semaphore is called in reports.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Who holds permits, if the builder was asked to [`track_holders`](Builder::track_holders);
    /// else nobody is listed.
    ///
    /// Guards bound to a thread are listed, and [leases](Self::acquire_leased);
    /// [detached](Permit::detach) guards are not. The list is not of one moment: holders come and
    /// go while it is made.
    pub fn holders(&self) -> Vec<Holder> {
        if !self.core.tracks_holders {
            return Vec::new();
        }
        let now = clock::coarse_nanos();
        claim::holders(self.core.borrow().uncounted())
            .into_iter()
            .map(|seen| Holder {
                thread: seen.thread,
                permits: seen.held.first,
                acquired_at: seen.acquired_at,
                held_for: Duration::from_nanos(now.saturating_sub(seen.since)),
                lease: None,
            })
            .chain(self.core.leases.holders())
            .collect()
    }

    /// Counters and gauges, read without locks.
    pub fn stats(&self) -> Stats {
        let counters = &self.core.counters;
        Stats {
            max: self.max(),
            current: self.current(),
            available: self.available(),
            waiters: self.waiters(),
            waits: counters.waits.read(),
            timeouts: counters.timeouts.get(),
            hand_offs: counters.hand_offs.get(),
            leaked: counters.leaked.get(),
            leases: self.core.leases.live() as usize,
            expired: self.core.leases.expired(),
        }
    }

    fn check(&self, n: u64) -> Result<(), AcquireError> {
        if n > self.core.ceiling {
            return Err(AcquireError::TooMany);
        }
        Ok(())
    }

    #[inline(always)]
    #[track_caller]
    fn prepare(&self, n: u64) -> Prepared<'_, Core> {
        Permit::prepare(self.core.borrow(), n, Location::caller())
    }

    #[track_caller]
    fn permit(&self, n: u64) -> Permit<'_> {
        Permit::new(self.core.borrow(), n, Location::caller())
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("name", &self.name())
            .field("max", &self.max())
            .field("available", &self.available())
            .field("waiters", &self.waiters())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// A thread or a [lease](Lease) that holds permits.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Holder {
    /// The name of the thread, where it has one.
    pub thread: Option<String>,
    /// How many permits.
    pub permits: u64,
    /// Where they were acquired.
    pub acquired_at: &'static Location<'static>,
    /// For how long, to within the kernel's tick (up to 10 ms).
    pub held_for: Duration,
    /// The token of the lease; `None` for a guard. A lease belongs to no thread.
    pub lease: Option<u64>,
}

/// What a [`Semaphore`] has done and how it stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// How many permits there are.
    pub max: u64,
    /// How many are taken.
    pub current: u64,
    /// How many could be taken.
    pub available: u64,
    /// How many requests wait.
    pub waiters: usize,
    /// How long requests stood in line: those that were served, and threads that gave up.
    pub waits: WaitHistogram,
    /// How many requests gave up.
    pub timeouts: u64,
    /// How many requests had to wait and were served.
    pub hand_offs: u64,
    /// How many permits came back from guards that were leaked.
    pub leaked: u64,
    /// How many leases there are.
    pub leases: usize,
    /// How many leases expired before their holders gave them back.
    pub expired: u64,
}
