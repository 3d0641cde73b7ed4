//! Reservations: room for a flush, of a count and of bytes.
//!
//! A flush takes one permit of a semaphore, and, where bytes are bounded, as many of another; in
//! this order, so that two who reserve never wait for each other. A halt and a close turn everybody
//! away by closing the semaphores; after a halt they are opened again, and who was turned away
//! looks why.

use std::time::Duration;

use crate::semaphore::{
    AcquireError, AcquireTimeoutError, Permit, Semaphore, SendPermit, TryAcquireError,
};
use crate::sync::time::{Instant, now};
use crate::sync::{Arc, hint, unmodelled};
use crate::waiter::{Callback, Delivery, Pending};

use super::FlushPipeline;
use super::error::ReserveError;
use super::finalizer::Finalize;
use super::slot::{Reservation, SendReservation};

impl<F: Finalize> FlushPipeline<F> {
    /// Reserves room for a flush of `bytes` bytes, and waits while there is none. Without a
    /// [bound on bytes](super::Builder::max_in_flight_bytes) the number does not matter.
    ///
    /// Call it before taking the lock that guards the state: a writer that waits here with the lock
    /// held stops all others.
    ///
    /// # Errors
    /// [`Closed`](ReserveError::Closed), [`Halted`](ReserveError::Halted),
    /// [`WouldDeadlock`](ReserveError::WouldDeadlock).
    ///
    /// # Blocking
    /// Until there is room.
    ///
    /// # Fairness
    /// As the [`Semaphore`]'s.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation<'_, F>, ReserveError> {
        self.reserve_until(bytes, None)
    }

    /// As [`reserve`](Self::reserve), but does not wait.
    ///
    /// # Errors
    /// [`WouldBlock`](ReserveError::WouldBlock) if there is no room;
    /// [`Closed`](ReserveError::Closed), [`Halted`](ReserveError::Halted).
    pub fn try_reserve(&self, bytes: u64) -> Result<Reservation<'_, F>, ReserveError> {
        let core = self.core();
        loop {
            match self.take_now(bytes) {
                Ok(reservation) => return Ok(reservation),
                Err(TryAcquireError::Closed) => {
                    if let Some(refusal) = core.refusal() {
                        return Err(refusal);
                    }
                    // It went on in between.
                }
                Err(_) => return Err(ReserveError::WouldBlock),
            }
        }
    }

    /// As [`reserve`](Self::reserve), but waits no longer than `timeout`.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve), and [`TimedOut`](ReserveError::TimedOut).
    ///
    /// # Blocking
    /// Up to `timeout`.
    pub fn reserve_timeout(
        &self,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Reservation<'_, F>, ReserveError> {
        // A time-out beyond the end of time is none.
        self.reserve_until(bytes, now().checked_add(timeout))
    }

    /// As [`reserve`](Self::reserve), but does not wait past `deadline`.
    ///
    /// # Errors
    /// As [`reserve_timeout`](Self::reserve_timeout).
    ///
    /// # Blocking
    /// Until `deadline`.
    pub fn reserve_deadline(
        &self,
        bytes: u64,
        deadline: Instant,
    ) -> Result<Reservation<'_, F>, ReserveError> {
        self.reserve_until(bytes, Some(deadline))
    }

    fn take_now(&self, bytes: u64) -> Result<Reservation<'_, F>, TryAcquireError> {
        let core = self.core();
        let permit = core.permits.try_acquire()?;
        let bytes = match &core.bytes {
            Some(bound) => Some(bound.try_acquire_many(core.weight(bytes))?),
            None => None,
        };
        Ok(Reservation {
            core,
            permit,
            bytes,
        })
    }

    fn reserve_until(
        &self,
        bytes: u64,
        deadline: Option<Instant>,
    ) -> Result<Reservation<'_, F>, ReserveError> {
        let core = self.core();
        loop {
            match self.try_reserve(bytes) {
                Err(ReserveError::WouldBlock) => {}
                decided => return decided,
            }
            if core.home.is_elsewhere() {
                return Err(ReserveError::Closed);
            }
            if core.would_wait_for_itself() || core.permits.is_held_here() {
                return Err(ReserveError::WouldDeadlock);
            }
            let is_late = deadline.is_some_and(|deadline| now() >= deadline);
            // A moment, before the finalizer is made to wake this thread.
            if !is_late && hint::lulls().any(|()| core.permits.available() > 0) {
                match self.try_reserve(bytes) {
                    Err(ReserveError::WouldBlock) => {}
                    decided => return decided,
                }
            }
            let acquired = acquire(&core.permits, 1, deadline).and_then(|permit| {
                let bytes = match &core.bytes {
                    Some(bound) => Some(acquire(bound, core.weight(bytes), deadline)?),
                    None => None,
                };
                Ok(Reservation {
                    core,
                    permit,
                    bytes,
                })
            });
            match acquired {
                Ok(reservation) => return Ok(reservation),
                Err(AcquireTimeoutError::TimedOut) => return Err(ReserveError::TimedOut),
                Err(_) => {
                    if let Some(refusal) = core.refusal() {
                        return Err(refusal);
                    }
                    // It went on in between.
                }
            }
        }
    }

    /// Asks for room without waiting for it: `f` is called with it once there is, at once on this
    /// thread or later on the one that makes room. For event loops. `f` must not wait. Dropping the
    /// [`Pending`] before that cancels.
    ///
    /// # Errors
    /// `f` gets [`Closed`](ReserveError::Closed) or [`Halted`](ReserveError::Halted).
    pub fn reserve_with(
        &self,
        bytes: u64,
        f: impl FnOnce(Result<SendReservation<F>, ReserveError>) + Send + 'static,
    ) -> Pending {
        let core = Arc::clone(self.core());
        let refused = {
            let core = Arc::clone(&core);
            move || core.refusal().unwrap_or(ReserveError::Closed)
        };
        let Some(bound) = core.bytes.clone() else {
            let permits = core.permits.clone();
            return permits.acquire_with(move |permit: Result<SendPermit, AcquireError>| {
                f(permit.map_err(|_| refused()).map(|permit| SendReservation {
                    core,
                    permit,
                    bytes: None,
                }));
            });
        };
        // The second wait begins in the first one's callback; a cancel ends whichever stands.
        let delivery = Delivery::new();
        let callback = Callback {
            run: Box::new(move |result, is_wanted| {
                if is_wanted {
                    f(result);
                }
            }),
            delivery: Arc::clone(&delivery),
        };
        let weight = core.weight(bytes);
        let stage: unmodelled::Arc<unmodelled::Mutex<Stage>> = unmodelled::Arc::default();
        let its_stage = unmodelled::Arc::clone(&stage);
        let permits = core.permits.clone();
        let first = permits.acquire_with(move |permit: Result<SendPermit, AcquireError>| {
            let Ok(permit) = permit else {
                return callback.deliver(Err(refused()));
            };
            let second = bound.acquire_many_with(weight, move |bytes| {
                callback.deliver(bytes.map_err(|_| refused()).map(|bytes| SendReservation {
                    core,
                    permit,
                    bytes: Some(bytes),
                }));
            });
            let mut stage = its_stage.lock();
            if let Stage::First = *stage {
                *stage = Stage::Second { _pending: second };
            } else {
                drop(stage);
                drop(second);
            }
        });
        Pending::new(delivery, move || {
            drop(first);
            let before = std::mem::replace(&mut *stage.lock(), Stage::Cancelled);
            drop(before);
        })
    }
}

/// What a reservation by callback waits for.
#[derive(Default)]
enum Stage {
    /// A permit.
    #[default]
    First,
    /// Its bytes.
    Second {
        _pending: Pending,
    },
    Cancelled,
}

fn acquire(
    semaphore: &Semaphore,
    permits: u64,
    deadline: Option<Instant>,
) -> Result<Permit<'_>, AcquireTimeoutError> {
    match deadline {
        Some(deadline) => semaphore.acquire_many_deadline(permits, deadline),
        None => Ok(semaphore.acquire_many(permits)?),
    }
}
