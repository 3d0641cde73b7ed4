//! The guards: what owns permits, and gives them back.

use std::fmt;
use std::panic::Location;

use crate::holder::anchor::{Anchor, Borrowed};
use crate::holder::bound::{Bound, OwnedBound, Prepared};
use crate::holder::claim::Held;
use crate::os::clock;

use super::core::Core;

fn held(permits: u64) -> Held {
    Held {
        first: permits,
        second: 0,
    }
}

/// When a claim on a semaphore that tracks its holders begins; 0 on another.
#[inline(always)]
fn since(core: &Core) -> u64 {
    if core.tracks_holders {
        clock::coarse_nanos()
    } else {
        0
    }
}

/// Gives back what a guard holds, if it has not been reclaimed.
#[inline]
fn give_back(bound: &Bound<'_, Core>) {
    if let Some((core, held)) = bound.release() {
        core.give(held.first, bound.turn());
    }
}

fn count(bound: &Bound<'_, Core>) -> u64 {
    bound.held().map_or(0, |held| held.first)
}

fn detach(bound: &Bound<'_, Core>) -> SendPermit {
    match bound.detach() {
        Some((core, held)) => SendPermit::new(core, held.first),
        None => SendPermit::nothing(),
    }
}

/// Where and when permits were acquired.
#[derive(Clone, Copy)]
struct Origin {
    place: &'static Location<'static>,
    /// 0 where holders are not tracked.
    time: u64,
}

impl Origin {
    /// That of a guard, unless it has been reclaimed.
    fn of(bound: &Bound<'_, Core>) -> Option<Self> {
        Some(Self {
            place: bound.acquired_at()?,
            time: bound.since(),
        })
    }
}

/// Permits of a [`Semaphore`](super::Semaphore), given back when dropped.
///
/// Bound to the thread that acquired it: if the guard is leaked, its permits come back when that
/// thread ends (see [`holder`](crate::holder)). To move permits to another thread,
/// [`detach`](Self::detach) them.
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
    bound: Bound<'a, Core>,
}

impl<'a> Permit<'a> {
    /// Writes down a guard of `permits` that are about to be taken.
    #[inline(always)]
    pub(super) fn prepare(
        core: Borrowed<'a, Core>,
        permits: u64,
        acquired_at: &'static Location<'static>,
    ) -> Prepared<'a, Core> {
        Bound::prepare(core, held(permits), acquired_at, since(&core))
    }

    /// The guard of permits that have been taken as they were written down.
    #[inline(always)]
    pub(super) fn taken(prepared: Prepared<'a, Core>, permits: u64) -> Self {
        Self {
            // A claim must keep its core from being idle, and nothing does not.
            bound: if permits > 0 {
                prepared.claim()
            } else {
                Bound::nothing()
            },
        }
    }

    #[inline]
    pub(super) fn new(
        core: Borrowed<'a, Core>,
        permits: u64,
        acquired_at: &'static Location<'static>,
    ) -> Self {
        Self::taken(Self::prepare(core, permits, acquired_at), permits)
    }

    /// How many permits this holds; 0 if they have been reclaimed by
    /// [`holder::scope`](crate::holder::scope).
    pub fn count(&self) -> u64 {
        count(&self.bound)
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
        let origin = Origin::of(&self.bound)?;
        let core = self.bound.core()?;
        if rest == 0 {
            self.bound.release();
        } else {
            self.bound.set_first(rest);
        }
        let bound = if n > 0 {
            Bound::new(core, held(n), origin.place, origin.time)
        } else {
            Bound::nothing()
        };
        Some(Permit { bound })
    }

    /// Takes over the permits of `other`.
    ///
    /// # Panics
    ///
    /// If the two are of different semaphores.
    pub fn merge(&mut self, other: Permit<'a>) {
        let Some(core) = self.bound.core() else {
            *self = other;
            return;
        };
        if let Some(others) = other.bound.core() {
            assert!(
                core.uncounted() == others.uncounted(),
                "permits of two semaphores cannot be merged"
            );
            let count = self.count() + other.count();
            other.bound.release();
            self.bound.set_first(count);
        }
    }

    /// Lowers the semaphore's capacity by the permits held, on purpose: they do not come back.
    ///
    /// After a cut by [`set_max`](super::Semaphore::set_max) that still waits for permits to come
    /// back, forgotten ones count towards that cut first.
    ///
    /// ```
    /// # let saves = latchwork::Semaphore::new(8)?;
    /// saves.acquire_many(3)?.forget();
    /// assert_eq!((saves.max(), saves.available()), (5, 5));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn forget(self) {
        if let Some((core, held)) = self.bound.release() {
            core.forget(held.first);
        }
    }

    /// Takes the permits out of the guard, and says how many they are: the caller owns them now.
    pub(crate) fn take_out(self) -> u64 {
        self.bound.release().map_or(0, |(_, held)| held.first)
    }

    /// Unbinds the permits from this thread: the result can be sent to another, and is owned by
    /// none.
    ///
    /// Permits that are leaked while detached are not reclaimed by any thread's end.
    pub fn detach(self) -> SendPermit {
        detach(&self.bound)
    }

    /// Gives the guard a handle of its own, so that it need not borrow the semaphore. It stays
    /// bound to this thread.
    pub fn into_owned(self) -> OwnedPermit {
        let origin = Origin::of(&self.bound);
        OwnedPermit::new(self.detach(), origin)
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        give_back(&self.bound);
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.count()).finish()
    }
}

/// A [`Permit`] that carries its own handle on the semaphore, and is bound to its thread all the
/// same.
///
/// Leaked, its permits come back at the thread's end; the handle, which is memory that the guard
/// carries, does not.
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
    bound: Option<OwnedBound<Core>>,
}

impl OwnedPermit {
    fn new(mut permit: SendPermit, origin: Option<Origin>) -> Self {
        let core = permit.core.take().filter(|_| permit.permits > 0);
        let bound = core.zip(origin).map(|(core, origin)| {
            OwnedBound::new(core, held(permit.permits), origin.place, origin.time)
        });
        Self { bound }
    }

    /// How many permits this holds; 0 if they have been reclaimed by
    /// [`holder::scope`](crate::holder::scope).
    pub fn count(&self) -> u64 {
        self.bound.as_ref().map_or(0, |bound| count(bound.bound()))
    }

    /// Unbinds the permits from this thread, as [`Permit::detach`].
    pub fn detach(self) -> SendPermit {
        match &self.bound {
            Some(bound) => detach(bound.bound()),
            None => SendPermit::nothing(),
        }
    }
}

impl Drop for OwnedPermit {
    fn drop(&mut self) {
        if let Some(bound) = &self.bound {
            give_back(bound.bound());
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
/// connection from thread to thread. [`attach`](Self::attach) binds it to the thread that received
/// it.
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

    fn nothing() -> Self {
        Self {
            core: None,
            permits: 0,
        }
    }

    /// Takes the permits out of the guard, and says how many they are: the caller owns them now.
    pub(crate) fn take_out(mut self) -> u64 {
        std::mem::take(&mut self.permits)
    }

    /// How many permits this holds.
    pub fn count(&self) -> u64 {
        self.permits
    }

    /// Binds the permits to the calling thread.
    #[track_caller]
    pub fn attach(self) -> OwnedPermit {
        let origin = Origin {
            place: Location::caller(),
            time: self.core.as_deref().map_or(0, since),
        };
        OwnedPermit::new(self, Some(origin))
    }
}

impl Drop for SendPermit {
    fn drop(&mut self) {
        if let Some(core) = &self.core {
            core.give(self.permits, 0);
        }
    }
}

impl fmt::Debug for SendPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SendPermit").field(&self.permits).finish()
    }
}
