//! Leases: permits with a deadline, which anybody takes back after it.
//!
//! The deadline stands beside the permit's word. Whoever looks closely for a permit takes back what
//! is over, by the same step as a dead owner's, so no thread has to watch the clock, and the lease
//! of a process that is stopped ends too. A renewal gives the permit another sequence number, so
//! that it and the taking back are steps on one word: one of them fails.

use std::fmt;
use std::time::Duration;

use crate::holder::anchor::Anchor;
use crate::os::shared::word::Value;
use crate::sync::atomic::Ordering;
use crate::sync::time::{Instant, monotonic_millis, now};
use crate::sync::unmodelled::Mutex;

use super::SharedSemaphore;
use super::attempt::Refusal;
use super::control::{LONGEST_LEASE_MILLIS, LeaseWord};
use super::core::{Claim, Core};
use super::error::{AcquireError, AcquireTimeoutError, TryAcquireError};
use crate::semaphore::LeaseLost;
use crate::waiter::Pending;

/// A permit of a [`SharedSemaphore`](super::SharedSemaphore) until a deadline, with a fencing
/// token.
///
/// For work that may hang, in processes that may be stopped: after the deadline another process may
/// have the permit, whatever has become of this one. The holder may not have noticed, so what
/// the permit guards is told the [`token`](Self::token) with each request, and refuses one that is
/// smaller than one it has seen (Kleppmann, "How to do distributed locking", 2016).
///
/// Bound to no thread. Dropping it gives the permit back, if it is still this lease's.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("latchwork-lease-{}", std::process::id()));
/// use latchwork::SharedSemaphore;
/// use std::time::Duration;
///
/// let slots = SharedSemaphore::open(&path, 1)?;
/// let stuck = slots.acquire_leased(Duration::from_millis(5))?;
/// let next = slots.acquire_leased(Duration::from_secs(60))?; // after 5 ms
/// assert!(next.token() > stuck.token());
/// assert!(stuck.renew(Duration::from_secs(60)).is_err());
/// drop(stuck); // changes nothing
/// assert!(next.is_live());
/// # SharedSemaphore::remove(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a lease is given back when it is dropped"]
pub struct SharedLease {
    core: Anchor<Core>,
    token: u64,
    state: Mutex<State>,
}

struct State {
    /// `None`: given back.
    claim: Option<Claim>,
    expires_at: Instant,
}

/// A time from now, in the machine's milliseconds and this process's clock.
fn deadline(ttl: Duration) -> (u64, Instant) {
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let millis = millis.saturating_add(u64::from(!ttl.subsec_nanos().is_multiple_of(1_000_000)));
    let millis = millis.clamp(1, LONGEST_LEASE_MILLIS);
    let at = now().checked_add(Duration::from_millis(millis));
    // The clock's milliseconds are rounded down: one more, and nobody takes it back too early.
    let end = monotonic_millis().wrapping_add(millis + 1);
    (end, at.unwrap_or_else(now))
}

impl SharedSemaphore {
    /// Waits for a permit that is taken back after `ttl`, unless it is renewed: a [`SharedLease`].
    /// A `ttl` below 1 ms counts as 1 ms, and one above 49 days as 49 days.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    ///
    /// # Blocking
    ///
    /// For as long as it takes.
    pub fn acquire_leased(&self, ttl: Duration) -> Result<SharedLease, AcquireError> {
        self.lease_before(None, ttl)
    }

    /// Takes a leased permit if there is one.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire).
    pub fn try_acquire_leased(&self, ttl: Duration) -> Result<SharedLease, TryAcquireError> {
        let claim = match self.core.try_take() {
            Some(claim) => claim,
            None => self.core.try_take_one_closely()?,
        };
        Ok(self.lease(claim, ttl))
    }

    /// Waits for a leased permit, but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`acquire_timeout`](Self::acquire_timeout).
    ///
    /// # Blocking
    ///
    /// Up to `timeout`.
    pub fn acquire_leased_timeout(
        &self,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<SharedLease, AcquireTimeoutError> {
        self.lease_before(now().checked_add(timeout), ttl)
    }

    /// Waits for a leased permit, but not past `deadline`.
    ///
    /// # Errors
    ///
    /// As [`acquire_leased_timeout`](Self::acquire_leased_timeout).
    ///
    /// # Blocking
    ///
    /// Until `deadline`.
    pub fn acquire_leased_deadline(
        &self,
        ttl: Duration,
        deadline: Instant,
    ) -> Result<SharedLease, AcquireTimeoutError> {
        self.lease_before(Some(deadline), ttl)
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
    pub fn acquire_leased_with(
        &self,
        ttl: Duration,
        f: impl FnOnce(Result<SharedLease, AcquireError>) + Send + 'static,
    ) -> Pending {
        let core = self.core.clone();
        self.acquire_with(move |permit| {
            f(permit.map(|permit| {
                let claim = permit.take_out().into_iter().next();
                SharedLease::new(core, claim.expect("one was asked for"), ttl)
            }));
        })
    }

    fn lease_before<E: From<Refusal>>(
        &self,
        deadline: Option<Instant>,
        ttl: Duration,
    ) -> Result<SharedLease, E> {
        let claim = match self.core.try_take() {
            Some(claim) => claim,
            None => self.core.wait_for_one(deadline)?,
        };
        Ok(self.lease(claim, ttl))
    }

    fn lease(&self, claim: Claim, ttl: Duration) -> SharedLease {
        SharedLease::new(self.core.clone(), claim, ttl)
    }
}

impl SharedLease {
    /// A permit that has just been taken becomes a lease.
    fn new(core: Anchor<Core>, claim: Claim, ttl: Duration) -> Self {
        let tokens = &core.control().tokens;
        let token = tokens.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        let expires_at = write(&core, claim.cell, claim.value, ttl);
        // From here on it ends by itself. It may be gone already, as any lease may be.
        core.exchange(claim, claim.value);
        Self {
            core,
            token,
            state: Mutex::new(State {
                claim: Some(claim),
                expires_at,
            }),
        }
    }

    /// The fencing token: larger than that of every lease granted before on this file. It begins
    /// anew where the file is [removed](super::SharedSemaphore::remove) or the machine started
    /// again.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// When the lease is over, unless it is renewed.
    pub fn expires_at(&self) -> Instant {
        self.state.lock().expires_at
    }

    /// How long that is from now; zero once it is over.
    pub fn remaining(&self) -> Duration {
        self.expires_at().saturating_duration_since(now())
    }

    /// Whether the permit is this lease's still. It may not be the moment after: what it guards has
    /// to look at the [`token`](Self::token).
    pub fn is_live(&self) -> bool {
        let state = self.state.lock();
        let cells = self.core.area().cells;
        let is_there = |claim: Claim| cells[claim.cell].word.read().is_same_claim(claim.value);
        now() < state.expires_at
            && !self.core.attached.is_inherited()
            && state.claim.is_some_and(is_there)
    }

    /// Makes the lease last for `ttl` from now. The token stays.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`] if it was over: the permit may be somebody else's.
    pub fn renew(&self, ttl: Duration) -> Result<(), LeaseLost> {
        let mut state = self.state.lock();
        let claim = state.claim.ok_or(LeaseLost)?;
        if self.core.attached.is_inherited() || now() >= state.expires_at {
            return Err(LeaseLost);
        }
        let mut next = self.core.new_claim();
        while next.sequence() & 1 == claim.value.sequence() & 1 {
            next = self.core.new_claim();
        }
        let expires_at = write(&self.core, claim.cell, next, ttl);
        let value = self.core.exchange(claim, next).ok_or(LeaseLost)?;
        state.claim = Some(Claim { value, ..claim });
        state.expires_at = expires_at;
        Ok(())
    }

    /// Gives the permit back, and says whether it was this lease's until now.
    ///
    /// # Errors
    ///
    /// [`LeaseLost`] if it was over: the permit may be somebody else's.
    pub fn release(self) -> Result<(), LeaseLost> {
        let was_live = now() < self.expires_at();
        match self.give_back() && was_live {
            true => Ok(()),
            false => Err(LeaseLost),
        }
    }

    fn give_back(&self) -> bool {
        let claim = self.state.lock().claim.take();
        claim.is_some_and(|claim| self.core.give_back(claim))
    }
}

fn write(core: &Core, cell: usize, value: Value, ttl: Duration) -> Instant {
    let (millis, at) = deadline(ttl);
    let lease = LeaseWord::new(value, millis);
    let word = core.area().cells[cell].lease(value);
    word.store(lease.0, Ordering::SeqCst);
    at
}

impl Drop for SharedLease {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl fmt::Debug for SharedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLease")
            .field("token", &self.token)
            .field("is_live", &self.is_live())
            .finish_non_exhaustive()
    }
}
