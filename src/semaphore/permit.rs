//! The guards: what owns permits, and gives them back.

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::ptr::NonNull;

use crate::holder::LeakReport;
use crate::holder::anchor::{self, Anchor, Borrowed};
use crate::holder::claim::{Claim, Held, Kind, Leak, Seat};
use crate::holder::courier;
use crate::os::clock;

use super::core::Core;

/// Permits on the claim list of a thread.
static PERMITS: Kind = Kind {
    reclaim: take_back_leaked,
};

/// # Safety
///
/// As [`Kind::reclaim`]; `core` comes from [`claim`].
#[allow(unsafe_code)]
unsafe fn take_back_leaked(core: NonNull<()>, leak: Leak) {
    let permits = leak.held.first;
    let take_back = |core: &Anchor<Core>| {
        (
            core.give_leaked(permits),
            (core.on_leak.clone(), core.name.clone()),
        )
    };
    // SAFETY: claims of this kind are made by `claim` only, from a borrowed handle on a `Core`, and this
    // one still stands, with the permits that are given back.
    let (wakes, (on_leak, component)) = unsafe { anchor::reclaim(core, take_back) };
    wakes.deliver_by_courier();
    if let Some(on_leak) = on_leak {
        courier::post(move || {
            on_leak(LeakReport {
                component,
                amount: permits,
                acquired_at: leak.acquired_at,
                thread: leak.thread,
            });
        });
    }
}

/// Puts `permits` that have been taken on the calling thread's list.
#[inline]
#[allow(unsafe_code)]
fn claim(
    seat: Seat,
    core: Borrowed<'_, Core>,
    permits: u64,
    acquired_at: &'static Location<'static>,
) -> Claim {
    let held = Held {
        first: permits,
        second: 0,
    };
    let since = core.tracks_holders.then(clock::coarse);
    // SAFETY: the permits are taken, so the core is not idle and outlives its handles until they are
    // given back: by the guard after `release` has returned them, or by the reclaim.
    unsafe { seat.claim(&PERMITS, core.uncounted(), held, acquired_at, since) }
}

/// The semaphore that a claim made by [`claim`] is on, while it stands.
#[inline]
#[allow(unsafe_code)]
fn core_of(claim: &Claim) -> Option<Borrowed<'_, Core>> {
    // SAFETY: `claim` took the pointer from a borrowed handle on a `Core`, and the claim stands for as long
    // as it is borrowed: what could reclaim it runs on this thread, after the borrow.
    claim
        .core()
        .map(|core| unsafe { Borrowed::from_uncounted(core) })
}

/// Gives back what a guard holds, if it has not been reclaimed.
#[inline]
#[allow(unsafe_code)]
fn give_back(claim: &Claim) {
    if let Some((core, held)) = claim.release() {
        // SAFETY: `claim` took the pointer from a borrowed handle on a `Core`, which the guard that
        // is being dropped keeps counted: by its lifetime, or as a field.
        let core: Borrowed<'_, Core> = unsafe { Borrowed::from_uncounted(core) };
        core.give(held.first);
    }
}

/// Permits of a [`Semaphore`](super::Semaphore), given back when dropped.
///
/// Bound to the thread that acquired it: if the guard is leaked, its permits come back when that
/// thread ends (see [`holder`](crate::holder)). To move permits to another thread, [`detach`](Self::detach) them.
///
/// ```
/// use latchwork::Semaphore;
///
/// let saves = Semaphore::new(8)?;
/// let permit = saves.acquire()?;
/// assert_eq!(saves.available(), 7);
/// drop(permit);
/// assert_eq!(saves.available(), 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a permit is given back when it is dropped"]
pub struct Permit<'a> {
    claim: Claim,
    semaphore: PhantomData<&'a Anchor<Core>>,
}

impl<'a> Permit<'a> {
    #[inline]
    pub(super) fn new(
        seat: Seat,
        core: Borrowed<'a, Core>,
        permits: u64,
        acquired_at: &'static Location<'static>,
    ) -> Self {
        Self {
            claim: claim(seat, core, permits, acquired_at),
            semaphore: PhantomData,
        }
    }

    /// How many permits this holds; 0 if they have been reclaimed by [`holder::scope`](crate::holder::scope).
    pub fn count(&self) -> u64 {
        self.claim.held().map_or(0, |held| held.first)
    }

    /// Splits off `n` permits into a guard of their own; `None` if there are fewer.
    ///
    /// ```
    /// # let saves = latchwork::Semaphore::new(8)?;
    /// let mut five = saves.acquire_many(5)?;
    /// let two = five.split(2).unwrap();
    /// assert_eq!((five.count(), two.count()), (3, 2));
    /// assert!(five.split(4).is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn split(&mut self, n: u64) -> Option<Permit<'a>> {
        let rest = self.count().checked_sub(n)?;
        let acquired_at = self.claim.acquired_at()?;
        let part = Self {
            claim: claim(Seat::find(), core_of(&self.claim)?, n, acquired_at),
            semaphore: PhantomData,
        };
        self.claim.set_first(rest);
        Some(part)
    }

    /// Takes over the permits of `other`.
    ///
    /// # Panics
    ///
    /// If the two are of different semaphores.
    pub fn merge(&mut self, other: Permit<'a>) {
        // One that has been reclaimed has nothing to give, or nowhere to put it.
        if let (Some(core), Some(others)) = (self.claim.core(), other.claim.core()) {
            assert!(core == others, "permits of two semaphores cannot be merged");
            let count = self.count() + other.count();
            other.claim.release();
            self.claim.set_first(count);
        }
    }

    /// Lowers the semaphore's capacity by the permits held, on purpose: they do not come back.
    ///
    /// After a cut by [`set_max`](super::Semaphore::set_max) that still waits for permits to come back,
    /// forgotten ones count towards that cut first.
    ///
    /// ```
    /// # let saves = latchwork::Semaphore::new(8)?;
    /// saves.acquire_many(3)?.forget();
    /// assert_eq!((saves.max(), saves.available()), (5, 5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forget(self) {
        if let Some(core) = core_of(&self.claim) {
            let core = core.to_anchor();
            let permits = self.count();
            self.claim.release();
            core.forget(permits);
        }
    }

    /// Unbinds the permits from this thread: the result can be sent to another, and is owned by none.
    ///
    /// Permits that are leaked while detached are not reclaimed by any thread's end.
    pub fn detach(self) -> SendPermit {
        detach(&self.claim)
    }

    /// Gives the guard a handle of its own, so that it need not borrow the semaphore. It stays bound to this thread.
    pub fn into_owned(self) -> OwnedPermit {
        let acquired_at = self.claim.acquired_at();
        OwnedPermit::new(
            detach(&self.claim),
            acquired_at.unwrap_or(Location::caller()),
        )
    }
}

/// Takes permits off the thread's list and gives them a handle of their own.
fn detach(claim: &Claim) -> SendPermit {
    let core = core_of(claim).map(Borrowed::to_anchor);
    let permits = claim.release().map_or(0, |(_, held)| held.first);
    SendPermit { core, permits }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        give_back(&self.claim);
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.count()).finish()
    }
}

/// A [`Permit`] that carries its own handle on the semaphore, and is bound to its thread all the same.
///
/// ```
/// use latchwork::semaphore::{OwnedPermit, Semaphore};
///
/// struct Session {
///     permit: OwnedPermit,
/// }
///
/// let session = Session {
///     permit: Semaphore::new(1)?.acquire()?.into_owned(),
/// };
/// assert_eq!(session.permit.count(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a permit is given back when it is dropped"]
pub struct OwnedPermit {
    /// `None`: there was nothing left to own.
    claim: Option<Claim>,
    /// Released after the claim: `Drop::drop` comes before the fields'.
    _core: Option<Anchor<Core>>,
}

impl OwnedPermit {
    fn new(mut permit: SendPermit, acquired_at: &'static Location<'static>) -> Self {
        let permits = std::mem::take(&mut permit.permits);
        let core = permit.core.take();
        Self {
            claim: core
                .as_ref()
                .map(|core| claim(Seat::find(), core.borrow(), permits, acquired_at)),
            _core: core,
        }
    }

    /// How many permits this holds; 0 if they have been reclaimed by [`holder::scope`](crate::holder::scope).
    pub fn count(&self) -> u64 {
        let held = self.claim.as_ref().and_then(Claim::held);
        held.map_or(0, |held| held.first)
    }

    /// Unbinds the permits from this thread, as [`Permit::detach`].
    pub fn detach(self) -> SendPermit {
        self.claim.as_ref().map_or_else(SendPermit::empty, detach)
    }
}

impl Drop for OwnedPermit {
    fn drop(&mut self) {
        if let Some(claim) = &self.claim {
            give_back(claim);
        }
    }
}

impl fmt::Debug for OwnedPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedPermit").field(&self.count()).finish()
    }
}

/// Permits that are bound to no thread: `Send`, and not reclaimed when a thread ends.
///
/// What [`acquire_with`](super::Semaphore::acquire_with) delivers, and what goes along with a
/// connection from thread to thread. [`attach`](Self::attach) binds it to the thread that received it.
///
/// ```
/// use latchwork::Semaphore;
///
/// let clients = Semaphore::new(1)?;
/// let permit = clients.acquire()?.detach();
/// std::thread::spawn(move || {
///     let permit = permit.attach(); // now this thread's: it comes back even if leaked
///     std::mem::forget(permit);
/// })
/// .join()
/// .unwrap();
/// assert_eq!(clients.available(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a permit is given back when it is dropped"]
pub struct SendPermit {
    /// `None`: there are no permits either.
    core: Option<Anchor<Core>>,
    permits: u64,
}

impl SendPermit {
    pub(super) fn new(core: Anchor<Core>, permits: u64) -> Self {
        Self {
            core: Some(core),
            permits,
        }
    }

    fn empty() -> Self {
        Self {
            core: None,
            permits: 0,
        }
    }

    /// How many permits this holds.
    pub fn count(&self) -> u64 {
        self.permits
    }

    /// Binds the permits to the calling thread.
    #[track_caller]
    pub fn attach(self) -> OwnedPermit {
        OwnedPermit::new(self, Location::caller())
    }
}

impl Drop for SendPermit {
    fn drop(&mut self) {
        if let Some(core) = &self.core {
            core.give(self.permits);
        }
    }
}

impl fmt::Debug for SendPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SendPermit").field(&self.permits).finish()
    }
}
