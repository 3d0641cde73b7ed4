//! The guards.

use std::fmt;
use std::panic::Location;

use crate::holder::anchor::{Anchor, Borrowed};
use crate::holder::bound::{Bound, OwnedBound};

use super::core::{Claim, Core};

#[inline]
fn give_back(bound: &Bound<'_, Core>) {
    if let Some((core, held)) = bound.release() {
        core.give_back(core.claim_of(held));
    }
}

/// Permits of a [`SharedSemaphore`](super::SharedSemaphore), given back when dropped.
///
/// Bound to the thread that acquired it: if the guard is leaked, its permits come back when that
/// thread ends (see [`holder`](crate::holder)); and when the process ends, however it does. To move
/// permits to another thread, [`detach`](Self::detach) them.
///
/// In the child of a fork the guard does nothing: the permits are the parent's.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("latchwork-permit-{}", std::process::id()));
/// use latchwork::SharedSemaphore;
///
/// let slots = SharedSemaphore::open(&path, 4)?;
/// let three = slots.acquire_many(3)?;
/// assert_eq!((three.count(), slots.available()), (3, 1));
/// drop(three);
/// assert_eq!(slots.available(), 4);
/// # SharedSemaphore::remove(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a permit is given back when it is dropped"]
pub struct SharedPermit<'a> {
    /// The first of them, or a claim on nothing.
    first: Bound<'a, Core>,
    /// A guard of one permit is two words and this.
    rest: Option<Box<Vec<Bound<'a, Core>>>>,
}

impl<'a> SharedPermit<'a> {
    /// Takes a permit that is free for everybody to see. `None`: look closer.
    #[inline]
    pub(super) fn take_now(
        core: Borrowed<'a, Core>,
        acquired_at: &'static Location<'static>,
    ) -> Option<Self> {
        loop {
            let claim = core.find()?;
            // Written down before it is taken: what comes after that step waits for it.
            let prepared = Bound::prepare(core, claim.into(), acquired_at, 0);
            if core.take(claim) {
                return Some(Self {
                    first: prepared.claim(),
                    rest: None,
                });
            }
        }
    }

    pub(super) fn many(
        core: Borrowed<'a, Core>,
        claims: Vec<Claim>,
        acquired_at: &'static Location<'static>,
    ) -> Self {
        let mut bounds = claims
            .into_iter()
            .map(|claim| Bound::new(core, claim.into(), acquired_at, 0));
        let first = bounds.next().unwrap_or_else(Bound::nothing);
        let rest: Vec<_> = bounds.collect();
        Self {
            first,
            rest: (!rest.is_empty()).then(|| Box::new(rest)),
        }
    }

    fn bounds(&self) -> impl Iterator<Item = &Bound<'a, Core>> {
        std::iter::once(&self.first).chain(self.rest.iter().flat_map(|rest| rest.iter()))
    }

    /// How many permits this holds; fewer than were acquired if
    /// [`holder::scope`](crate::holder::scope) has reclaimed them.
    pub fn count(&self) -> u32 {
        self.bounds().filter(|bound| bound.held().is_some()).count() as u32
    }

    /// Unbinds the permits from this thread: they are the process's, and the result can be sent to
    /// another thread.
    ///
    /// Permits that are leaked while detached come back when the process ends.
    pub fn detach(self) -> SharedSendPermit {
        let mut core = None;
        let mut claims = Vec::new();
        for (anchor, held) in self.bounds().filter_map(Bound::detach) {
            claims.push(anchor.claim_of(held));
            core = Some(anchor);
        }
        SharedSendPermit { core, claims }
    }

    /// Gives the guard a handle of its own, so that it need not borrow the semaphore. It stays
    /// bound to this thread.
    #[track_caller]
    pub fn into_owned(self) -> SharedOwnedPermit {
        let acquired_at = self.bounds().find_map(Bound::acquired_at);
        let acquired_at = acquired_at.unwrap_or(Location::caller());
        self.detach().bind(acquired_at)
    }
}

impl Drop for SharedPermit<'_> {
    #[inline]
    fn drop(&mut self) {
        give_back(&self.first);
        for bound in self.rest.iter().flat_map(|rest| rest.iter()) {
            give_back(bound);
        }
    }
}

impl fmt::Debug for SharedPermit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedPermit").field(&self.count()).finish()
    }
}

/// A [`SharedPermit`] that carries its own handle on the semaphore, and is bound to its thread all
/// the same.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("latchwork-owned-{}", std::process::id()));
/// use latchwork::SharedSemaphore;
///
/// let permit = SharedSemaphore::open(&path, 1)?.acquire()?.into_owned();
/// assert_eq!(permit.count(), 1);
/// # SharedSemaphore::remove(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a permit is given back when it is dropped"]
pub struct SharedOwnedPermit {
    bounds: Vec<OwnedBound<Core>>,
}

impl SharedOwnedPermit {
    /// As [`SharedPermit::count`].
    pub fn count(&self) -> u32 {
        let held = |bound: &&OwnedBound<Core>| bound.bound().held().is_some();
        self.bounds.iter().filter(held).count() as u32
    }

    /// As [`SharedPermit::detach`].
    pub fn detach(self) -> SharedSendPermit {
        let mut core = None;
        let mut claims = Vec::new();
        let bounds = self.bounds.iter().map(OwnedBound::bound);
        for (anchor, held) in bounds.filter_map(Bound::detach) {
            claims.push(anchor.claim_of(held));
            core = Some(anchor);
        }
        SharedSendPermit { core, claims }
    }
}

impl Drop for SharedOwnedPermit {
    fn drop(&mut self) {
        for bound in &self.bounds {
            give_back(bound.bound());
        }
    }
}

impl fmt::Debug for SharedOwnedPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedOwnedPermit")
            .field(&self.count())
            .finish()
    }
}

/// Permits that are the process's and bound to none of its threads: `Send`, and not reclaimed when
/// a thread ends.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("latchwork-send-{}", std::process::id()));
/// use latchwork::SharedSemaphore;
///
/// let slots = SharedSemaphore::open(&path, 1)?;
/// let permit = slots.acquire()?.detach();
/// std::thread::spawn(move || std::mem::forget(permit.attach()))
///     .join()
///     .unwrap();
/// assert_eq!(slots.available(), 1); // attached, it was that thread's
/// # SharedSemaphore::remove(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a permit is given back when it is dropped"]
pub struct SharedSendPermit {
    /// `None`: there are no permits either.
    core: Option<Anchor<Core>>,
    claims: Vec<Claim>,
}

impl SharedSendPermit {
    pub(super) fn new(core: Anchor<Core>, claims: Vec<Claim>) -> Self {
        Self {
            core: Some(core),
            claims,
        }
    }

    /// How many permits this holds.
    pub fn count(&self) -> u32 {
        self.claims.len() as u32
    }

    /// Binds the permits to the calling thread.
    #[track_caller]
    pub fn attach(self) -> SharedOwnedPermit {
        self.bind(Location::caller())
    }

    fn bind(mut self, acquired_at: &'static Location<'static>) -> SharedOwnedPermit {
        let claims = std::mem::take(&mut self.claims);
        let bounds = self.core.take().map(|core| {
            claims
                .into_iter()
                .map(|claim| OwnedBound::new(core.clone(), claim.into(), acquired_at, 0))
                .collect()
        });
        SharedOwnedPermit {
            bounds: bounds.unwrap_or_default(),
        }
    }
}

impl Drop for SharedSendPermit {
    fn drop(&mut self) {
        if let Some(core) = &self.core {
            for claim in self.claims.drain(..) {
                core.give_back(claim);
            }
        }
    }
}

impl fmt::Debug for SharedSendPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedSendPermit")
            .field(&self.claims.len())
            .finish()
    }
}
