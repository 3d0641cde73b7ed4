//! Leases: permits with a deadline.
//!
//! A guard's permits come back when it is dropped or its thread ends. A [`Lease`] is owned by no
//! thread but by its deadline: at that, the sweeper takes its permits back, whatever has become of
//! the holder. The holder may be late and not know, so each lease has a fencing token, by which
//! what the permits protect can refuse it. `table` has the leases, and says why each ends once.

mod table;

use std::fmt;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use crate::sync::time::Instant;
use crate::sync::unmodelled::{Arc, Mutex};
use crate::waiter::Pending;

pub(super) use self::table::Leases;
use self::table::Table;
use super::{AcquireError, AcquireTimeoutError, Permit, Semaphore, TryAcquireError};

/// A handler of expired leases, run by the library's thread.
pub(super) type OnExpire = Arc<dyn Fn(ExpiredLease) + Send + Sync>;

/// Permits that come back at a deadline, if not before.
///
/// For work that may hang, and for holders that cannot be trusted to end: what
/// [`acquire_leased`](Semaphore::acquire_leased) grants. Dropping it gives the permits back; at its
/// deadline the semaphore's sweeper does, and wakes the requests that wait. A lease that was
/// forgotten comes back like any other. The holder extends it with [`renew`](Self::renew), from any
/// thread, while it is live.
///
/// From its deadline on a lease is lost, whether the sweeper has come by or not. Whatever a late
/// holder does with it then changes nothing, and says so.
///
/// # Fencing
///
/// A holder that looks at [`is_live`](Self::is_live) and then acts may be stopped in between, by
/// the scheduler, a page fault, a debugger, for longer than the lease lives. Only what it acts on
/// can refuse it: pass the [`token`](Self::token) along with each request, and have the receiver
/// remember the highest it has seen and refuse lower ones.
///
/// ```
/// use latchwork::Semaphore;
/// use std::time::Duration;
///
/// /// What the permit protects.
/// #[derive(Default)]
/// struct Log {
///     fence: u64,
///     lines: Vec<&'static str>,
/// }
///
/// impl Log {
///     fn append(&mut self, token: u64, line: &'static str) -> bool {
///         if token < self.fence {
///             return false; // a newer holder has been here
///         }
///         self.fence = token;
///         self.lines.push(line);
///         true
///     }
/// }
///
/// let mut log = Log::default();
/// let writers = Semaphore::new(1)?;
/// let hangs = writers.acquire_leased(Duration::from_millis(1))?;
/// let next = writers.acquire_leased(Duration::from_secs(60))?; // once the first has expired
/// assert!(log.append(next.token(), "next"));
/// assert!(!log.append(hangs.token(), "too late"));
/// assert!(hangs.release().is_err());
/// assert_eq!(log.lines, ["next"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With several permits several leases are live at once, and what refuses the older is a resource
/// that one holder has at a time: each connection, each part, with a fence of its own.
#[must_use = "a lease is given back when it is dropped"]
pub struct Lease {
    table: Arc<Table>,
    token: u64,
    permits: u64,
    /// The deadline as of the last renewal, for when the table no longer has it. Written under the
    /// table's lock.
    expires_at: Mutex<Instant>,
}

impl Lease {
    /// The lease's fencing token: higher than that of every lease that the semaphore granted
    /// before, from 1 on. A renewal keeps it.
    ///
    /// Tokens are the semaphore's: another one, and the next run of the program, count from 1
    /// again. For a resource that outlives the program put something before it that grows with
    /// each run.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let saves = latchwork::Semaphore::new(2)?;
    /// let one = saves.acquire_leased(Duration::from_secs(60))?;
    /// let two = saves.acquire_leased(Duration::from_secs(60))?;
    /// assert!(one.token() < two.token());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn token(&self) -> u64 {
        self.token
    }

    /// How many permits were leased.
    pub fn count(&self) -> u64 {
        self.permits
    }

    /// When the lease expires, or has expired.
    pub fn expires_at(&self) -> Instant {
        *self.expires_at.lock()
    }

    /// How long the lease lives on unless it is renewed; zero if it is lost.
    pub fn remaining(&self) -> Duration {
        self.table.remaining(self.token)
    }

    /// Whether the lease has not expired. It may when this has been read: see
    /// [fencing](Self#fencing).
    pub fn is_live(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Makes the lease expire `ttl` from now, which may be later or earlier than it would have. A
    /// zero `ttl` makes it expire at once; one of more than 100 years counts as 100 years.
    ///
    /// A lease that is renewed has been the holder's without interruption, and keeps its
    /// [`token`](Self::token).
    ///
    /// ```
    /// # use std::time::Duration;
    /// let saves = latchwork::Semaphore::new(1)?;
    /// let lease = saves.acquire_leased(Duration::from_secs(30))?;
    /// lease.renew(Duration::from_secs(60))?;
    /// assert!(lease.remaining() > Duration::from_secs(30));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`LeaseLost`]: it had expired. Its permits have been taken back, and stay so.
    pub fn renew(&self, ttl: Duration) -> Result<(), LeaseLost> {
        self.table.renew(self.token, ttl, &self.expires_at)
    }

    /// Gives the permits back, as dropping the lease does, and says whether it was in time.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let saves = latchwork::Semaphore::new(1)?;
    /// saves.acquire_leased(Duration::from_secs(60))?.release()?;
    /// assert!(saves.acquire_leased(Duration::ZERO)?.release().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`LeaseLost`]: it had expired, and the permits may have had other holders since.
    pub fn release(self) -> Result<(), LeaseLost> {
        self.table.end(self.token)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Too late, or released: then there is nothing left to give back.
        let _ = self.table.end(self.token);
    }
}

// No code of the user's runs, and so nothing panics, under a lock of the table.
impl UnwindSafe for Lease {}
impl RefUnwindSafe for Lease {}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("token", &self.token)
            .field("count", &self.permits)
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}

/// Too late: the lease has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLost;

impl fmt::Display for LeaseLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lease has expired, and its permits were taken back: acquire a new one")
    }
}

impl std::error::Error for LeaseLost {}

/// A lease that expired before its holder gave it back: what an
/// [`on_expire`](super::Builder::on_expire) handler is told.
///
/// ```
/// use latchwork::Semaphore;
/// use std::sync::mpsc;
/// use std::time::Duration;
///
/// let (send, reports) = mpsc::channel();
/// let uploads = Semaphore::builder("uploads")
///     .on_expire(move |lease| send.send(lease.to_string()).unwrap())
///     .build()?;
/// std::mem::forget(uploads.acquire_leased(Duration::from_millis(1))?);
/// assert!(reports.recv()?.starts_with("uploads: lease 1 expired with 1 acquired at "));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExpiredLease {
    /// The name of the semaphore.
    pub component: Arc<str>,
    /// The lease's token.
    pub token: u64,
    /// How many permits came back.
    pub permits: u64,
    /// Where the lease was acquired.
    pub acquired_at: &'static Location<'static>,
}

impl fmt::Display for ExpiredLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: lease {} expired with {} acquired at {}",
            self.component, self.token, self.permits, self.acquired_at
        )
    }
}

/// Leases.
impl Semaphore {
    /// Waits for a permit that comes back `ttl` after it was granted, if not before: see [`Lease`].
    ///
    /// A lease with a zero `ttl` has expired at once; a `ttl` of more than 100 years counts as 100
    /// years.
    ///
    /// ```
    /// use latchwork::Semaphore;
    /// use std::time::Duration;
    ///
    /// let saves = Semaphore::new(1)?;
    /// let lease = saves.acquire_leased(Duration::from_millis(1))?;
    /// let token = lease.token();
    /// std::mem::forget(lease);
    /// let next = saves.acquire_leased(Duration::from_secs(60))?; // after a millisecond
    /// assert!(next.token() > token);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AcquireError::Closed`]; [`AcquireError::NoSweeper`] if no thread would take the permit
    /// back: the system refuses one, the builder's [`sweeper`](super::Builder::sweeper) has been
    /// shut down, or this process is a fork of the one where that runs.
    ///
    /// # Blocking
    ///
    /// As [`acquire`](Self::acquire).
    #[track_caller]
    pub fn acquire_leased(&self, ttl: Duration) -> Result<Lease, AcquireError> {
        self.acquire_many_leased(1, ttl)
    }

    /// Leases a permit if there is one, and if taking it is not unfair to those who wait.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire), and [`TryAcquireError::NoSweeper`].
    #[track_caller]
    pub fn try_acquire_leased(&self, ttl: Duration) -> Result<Lease, TryAcquireError> {
        self.try_acquire_many_leased(1, ttl)
    }

    /// Waits for a permit to lease, but not longer than `timeout`. A zero timeout tries once.
    ///
    /// # Errors
    ///
    /// As [`acquire_timeout`](Self::acquire_timeout), and [`AcquireTimeoutError::NoSweeper`].
    ///
    /// # Blocking
    ///
    /// Up to `timeout`.
    #[track_caller]
    pub fn acquire_leased_timeout(
        &self,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<Lease, AcquireTimeoutError> {
        self.acquire_many_leased_timeout(1, ttl, timeout)
    }

    /// Waits for a permit to lease, but not past `deadline`.
    ///
    /// # Errors
    ///
    /// As [`acquire_leased_timeout`](Self::acquire_leased_timeout).
    ///
    /// # Blocking
    ///
    /// Until `deadline`.
    #[track_caller]
    pub fn acquire_leased_deadline(
        &self,
        ttl: Duration,
        deadline: Instant,
    ) -> Result<Lease, AcquireTimeoutError> {
        self.acquire_many_leased_deadline(1, ttl, deadline)
    }

    /// Asks for a lease without waiting for it, as [`acquire_with`](Self::acquire_with). Its `ttl`
    /// begins just before `f` is called.
    ///
    /// # Errors
    ///
    /// `f` gets them, as [`acquire_leased`](Self::acquire_leased).
    ///
    /// # Panics
    ///
    /// As [`acquire_with`](Self::acquire_with).
    #[track_caller]
    pub fn acquire_leased_with(
        &self,
        ttl: Duration,
        f: impl FnOnce(Result<Lease, AcquireError>) + Send + 'static,
    ) -> Pending {
        self.acquire_many_leased_with(1, ttl, f)
    }

    /// Leases `n` permits, which come and go together: as [`acquire_many`](Self::acquire_many).
    ///
    /// # Errors
    ///
    /// As [`acquire_leased`](Self::acquire_leased), and [`AcquireError::TooMany`].
    ///
    /// # Blocking
    ///
    /// As [`acquire_many`](Self::acquire_many).
    #[track_caller]
    pub fn acquire_many_leased(&self, n: u64, ttl: Duration) -> Result<Lease, AcquireError> {
        self.core.leases.prepare()?;
        self.lease(self.acquire_many(n)?, ttl)
    }

    /// Leases `n` permits if they are there, and if taking them is not unfair to those who wait.
    ///
    /// # Errors
    ///
    /// As [`try_acquire_leased`](Self::try_acquire_leased), and [`TryAcquireError::TooMany`].
    #[track_caller]
    pub fn try_acquire_many_leased(&self, n: u64, ttl: Duration) -> Result<Lease, TryAcquireError> {
        self.core.leases.prepare()?;
        Ok(self.lease(self.try_acquire_many(n)?, ttl)?)
    }

    /// Waits for `n` permits to lease, but not longer than `timeout`. A zero timeout tries once.
    ///
    /// # Errors
    ///
    /// As [`acquire_leased_timeout`](Self::acquire_leased_timeout), and
    /// [`AcquireTimeoutError::TooMany`].
    ///
    /// # Blocking
    ///
    /// Up to `timeout`.
    #[track_caller]
    pub fn acquire_many_leased_timeout(
        &self,
        n: u64,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<Lease, AcquireTimeoutError> {
        self.core.leases.prepare()?;
        Ok(self.lease(self.acquire_many_timeout(n, timeout)?, ttl)?)
    }

    /// Waits for `n` permits to lease, but not past `deadline`.
    ///
    /// # Errors
    ///
    /// As [`acquire_many_leased_timeout`](Self::acquire_many_leased_timeout).
    ///
    /// # Blocking
    ///
    /// Until `deadline`.
    #[track_caller]
    pub fn acquire_many_leased_deadline(
        &self,
        n: u64,
        ttl: Duration,
        deadline: Instant,
    ) -> Result<Lease, AcquireTimeoutError> {
        self.core.leases.prepare()?;
        Ok(self.lease(self.acquire_many_deadline(n, deadline)?, ttl)?)
    }

    /// Asks for a lease of `n` permits without waiting for it, as
    /// [`acquire_leased_with`](Self::acquire_leased_with).
    ///
    /// # Errors
    ///
    /// `f` gets them, as [`acquire_many_leased`](Self::acquire_many_leased).
    ///
    /// # Panics
    ///
    /// As [`acquire_with`](Self::acquire_with).
    #[track_caller]
    pub fn acquire_many_leased_with(
        &self,
        n: u64,
        ttl: Duration,
        f: impl FnOnce(Result<Lease, AcquireError>) + Send + 'static,
    ) -> Pending {
        let core = self.core.clone();
        let acquired_at = Location::caller();
        self.acquire_many_with(n, move |permit| {
            let lease = permit.and_then(|permit| {
                core.leases.prepare()?;
                Leases::grant(&core, permit.take_out(), ttl, acquired_at)
            });
            drop(core);
            f(lease);
        })
    }

    #[track_caller]
    fn lease(&self, permit: Permit<'_>, ttl: Duration) -> Result<Lease, AcquireError> {
        Leases::grant(&self.core, permit.take_out(), ttl, Location::caller())
    }
}
