//! The guards.

use std::fmt;
use std::panic::Location;

use crate::holder::anchor::{Anchor, Borrowed};
use crate::holder::bound::{Bound, OwnedBound};
use crate::os::shared::word::Value;

use super::control::Cell;
use super::core::{Claim, Core};

fn give_back(bound: &Bound<'_, Core>) {
    if let Some((core, held)) = bound.release() {
        core.give_back(core.claim_of(held, bound.tag()));
    }
}

/// Takes a claim off its list.
fn detach(bound: &Bound<'_, Core>) -> Option<(Anchor<Core>, Claim)> {
    let tag = bound.tag();
    let (core, held) = bound.detach()?;
    let claim = core.claim_of(held, tag);
    Some((core, claim))
}

/// A permit of a [`SharedSemaphore`](super::SharedSemaphore), given back when dropped.
///
/// Bound to the thread that acquired it: if the guard is leaked, the permit comes back when that
/// thread ends (see [`holder`](crate::holder)); and when the process ends, however it does. To move
/// it to another thread, [`detach`](Self::detach) it.
///
/// In the child of a fork the guard does nothing: the permit is the parent's.
///
/// ```
/// # let path = std::env::temp_dir().join(format!("latchwork-permit-{}", std::process::id()));
/// use latchwork::SharedSemaphore;
///
/// let slots = SharedSemaphore::open(&path, 4)?;
/// let permit = slots.acquire()?;
/// assert_eq!(slots.available(), 3);
/// drop(permit);
/// assert_eq!(slots.available(), 4);
/// # SharedSemaphore::remove(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a permit is given back when it is dropped"]
pub struct SharedPermit<'a> {
    bound: Bound<'a, Core>,
    /// Where it stands: with the claim's tag, all that giving it back takes, unless the claim has a
    /// value of its own.
    cell: &'a Cell,
}

impl<'a> SharedPermit<'a> {
    /// Takes a permit that is free for everybody to see. `None`: look closer.
    #[inline(always)]
    pub(super) fn take_now(
        core: &'a Anchor<Core>,
        acquired_at: &'static Location<'static>,
    ) -> Option<Self> {
        // Written down before it is taken: what comes after that step waits for it.
        if let Some((prepared, first)) = Bound::prepare_again(core.borrow(), acquired_at)
            && let Some(cell) = core.cell_again(first)
            && cell.word.change(Value::FREE, core.tagged(prepared.tag()))
        {
            let this = Self {
                bound: prepared.claim(),
                cell,
            };
            return this.kept(core);
        }
        Self::take_another(core, acquired_at)
    }

    #[cold]
    #[inline(never)]
    fn take_another(
        core: &'a Anchor<Core>,
        acquired_at: &'static Location<'static>,
    ) -> Option<Self> {
        loop {
            let (index, cell) = core.find()?;
            let held = core.held_at(index);
            let prepared = Bound::prepare(core.borrow(), held, acquired_at, 0);
            if core.take(cell, core.tagged(prepared.tag())) {
                let this = Self {
                    bound: prepared.claim(),
                    cell,
                };
                return this.kept(core);
            }
        }
    }

    /// As [`Core::keep`].
    #[inline(always)]
    fn kept(self, core: &Core) -> Option<Self> {
        match core.is_gated() {
            true => self.refused(),
            false => Some(self),
        }
    }

    /// Gives the permit back. Out of line, so that the guard stays in registers everywhere else.
    #[cold]
    #[inline(never)]
    fn refused(self) -> Option<Self> {
        None
    }

    pub(super) fn taken(
        core: &'a Anchor<Core>,
        claim: Claim,
        acquired_at: &'static Location<'static>,
    ) -> Self {
        Self {
            bound: Bound::new(core.borrow(), claim.into(), acquired_at, 0),
            cell: core.cell(claim),
        }
    }

    /// How many permits this holds: 1, or 0 if [`holder::scope`](crate::holder::scope) has
    /// reclaimed it.
    pub fn count(&self) -> u32 {
        u32::from(self.bound.held().is_some())
    }

    /// Unbinds the permit from this thread: it is the process's, and the result can be sent to
    /// another thread.
    ///
    /// A permit that is leaked while detached comes back when the process ends.
    pub fn detach(self) -> SharedSendPermit {
        SharedSendPermit::of(detach(&self.bound))
    }

    /// Gives the guard a handle of its own, so that it need not borrow the semaphore. It stays
    /// bound to this thread.
    #[track_caller]
    pub fn into_owned(self) -> SharedOwnedPermit {
        let acquired_at = self.bound.acquired_at();
        self.detach()
            .bind(acquired_at.unwrap_or(Location::caller()))
    }
}

impl Drop for SharedPermit<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(core) = self.bound.withdraw() {
            let (cell, tag) = (self.cell, self.bound.tag());
            core.give_back_tagged(cell, tag, || self.bound.withdrawn());
        }
    }
}

impl fmt::Debug for SharedPermit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedPermit").field(&self.count()).finish()
    }
}

/// Several permits of a [`SharedSemaphore`](super::SharedSemaphore), given back together: as
/// [`SharedPermit`].
///
/// ```
/// # let path = std::env::temp_dir().join(format!("latchwork-permits-{}", std::process::id()));
/// use latchwork::SharedSemaphore;
///
/// let slots = SharedSemaphore::open(&path, 4)?;
/// let three = slots.acquire_many(3)?;
/// assert_eq!((three.count(), slots.available()), (3, 1));
/// # SharedSemaphore::remove(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "permits are given back when they are dropped"]
pub struct SharedPermits<'a> {
    bounds: Vec<Bound<'a, Core>>,
}

impl<'a> SharedPermits<'a> {
    pub(super) fn taken(
        core: Borrowed<'a, Core>,
        claims: Vec<Claim>,
        acquired_at: &'static Location<'static>,
    ) -> Self {
        let bind = |claim: Claim| Bound::new(core, claim.into(), acquired_at, 0);
        Self {
            bounds: claims.into_iter().map(bind).collect(),
        }
    }

    /// How many permits this holds; fewer than were acquired if
    /// [`holder::scope`](crate::holder::scope) has reclaimed them.
    pub fn count(&self) -> u32 {
        let held = |bound: &&Bound<'_, Core>| bound.held().is_some();
        self.bounds.iter().filter(held).count() as u32
    }

    /// As [`SharedPermit::detach`].
    pub fn detach(self) -> SharedSendPermit {
        SharedSendPermit::of(self.bounds.iter().filter_map(detach))
    }

    /// As [`SharedPermit::into_owned`].
    #[track_caller]
    pub fn into_owned(self) -> SharedOwnedPermit {
        let acquired_at = self.bounds.iter().find_map(Bound::acquired_at);
        self.detach()
            .bind(acquired_at.unwrap_or(Location::caller()))
    }
}

impl Drop for SharedPermits<'_> {
    fn drop(&mut self) {
        for bound in &self.bounds {
            give_back(bound);
        }
    }
}

impl fmt::Debug for SharedPermits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SharedPermits").field(&self.count()).finish()
    }
}

/// A [`SharedPermit`], or several, with a handle of its own on the semaphore; bound to its thread
/// all the same.
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
        let bounds = self.bounds.iter().map(OwnedBound::bound);
        SharedSendPermit::of(bounds.filter_map(detach))
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

    fn of(detached: impl IntoIterator<Item = (Anchor<Core>, Claim)>) -> Self {
        let (mut core, mut claims) = (None, Vec::new());
        for (anchor, claim) in detached {
            core = Some(anchor);
            claims.push(claim);
        }
        Self { core, claims }
    }

    /// How many permits this holds.
    pub fn count(&self) -> u32 {
        self.claims.len() as u32
    }

    /// The claims, which are now the caller's to give back.
    pub(super) fn take_out(mut self) -> Vec<Claim> {
        std::mem::take(&mut self.claims)
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
