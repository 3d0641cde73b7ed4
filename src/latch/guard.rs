//! The guards: what holds latches, and releases them.

use std::fmt;
use std::panic::Location;

use crate::holder::anchor::{Anchor, Borrowed};
use crate::holder::bound::{Bound, OwnedBound};
use crate::sync::mutant;
use crate::waiter::Wakes;

use super::core::{Core, Outcome};
use super::hold::Hold;

fn release(bound: &Bound<'_, Core>) {
    if let Some((core, held)) = bound.release() {
        core.release(held.into());
    }
}

fn detach(bound: &Bound<'_, Core>) -> SendLatch {
    SendLatch {
        held: bound.detach().map(|(core, held)| (core, held.into())),
    }
}

/// The latch of one key, released when dropped.
///
/// Bound to the thread that took it: if the guard is leaked, the latch comes back when that thread
/// ends (see [`holder`](crate::holder)). To move it to another thread, [`detach`](Self::detach) it.
///
/// ```
/// use latchwork::LatchTable;
///
/// let table = LatchTable::<str>::new();
/// let held = table.latch("a")?;
/// assert!(table.try_latch("a").is_err());
/// assert!(table.try_latch("b").is_ok());
/// drop(held);
/// assert!(table.try_latch("a").is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a latch is released when it is dropped"]
pub struct Latch<'a> {
    bound: Bound<'a, Core>,
}

impl<'a> Latch<'a> {
    #[inline]
    pub(super) fn new(
        core: Borrowed<'a, Core>,
        hold: Hold,
        acquired_at: &'static Location<'static>,
    ) -> Self {
        Self {
            bound: Bound::new(core, hold.into(), acquired_at, 0),
        }
    }

    /// Releases the latch after an operation under it, and does what others wait to do first. Whom
    /// to wake, if anybody, is left to the caller: callbacks are called when this thread holds the
    /// latch no more.
    #[inline(always)]
    #[must_use]
    pub(super) fn finish(&self) -> Option<Wakes<Outcome>> {
        match self.finish_by_word() {
            true => None,
            false => self.combine(),
        }
    }

    /// The same, for who neither stands in line nor holds another latch.
    ///
    /// By reference: to move the guard is to wait for the stores that made it, and its drop finds
    /// in one look that the latch is released.
    #[inline(always)]
    pub(crate) fn finish_and_wake(&self) {
        if !self.finish_by_word() {
            self.combine_and_wake();
        }
    }

    /// Releases the latch if nobody else wants it.
    #[inline(always)]
    fn finish_by_word(&self) -> bool {
        let standing = self.bound.standing();
        let is_released = standing.is_some_and(|(core, held)| core.release_by_word(held.into()));
        // What it held has been given back.
        is_released && self.bound.withdraw().is_some()
    }

    #[cold]
    #[inline(never)]
    fn combine(&self) -> Option<Wakes<Outcome>> {
        if mutant::enabled("combine-without-claim") {
            let (core, held) = self.bound.release()?;
            return Some(core.combine(held.into()));
        }
        // The claim stands while the operations of others run: they may not wait for this table.
        let (core, held) = self.bound.standing()?;
        let wakes = core.combine(held.into());
        // What it held has been given back.
        let _ = self.bound.withdraw();
        Some(wakes)
    }

    #[cold]
    #[inline(never)]
    fn combine_and_wake(&self) {
        if let Some(wakes) = self.combine() {
            wakes.deliver();
        }
    }

    /// Unbinds the latch from this thread: the result can be sent to another, and is owned by none.
    ///
    /// A latch that is leaked while detached stays held.
    pub fn detach(self) -> SendLatch {
        detach(&self.bound)
    }

    /// Gives the guard a handle of its own, so that it need not borrow the table. It stays bound to
    /// this thread.
    ///
    /// ```
    /// use latchwork::{LatchTable, latch::OwnedLatch};
    ///
    /// struct Session {
    ///     user: OwnedLatch,
    /// }
    ///
    /// let session = Session {
    ///     user: LatchTable::<str>::new().latch("ada")?.into_owned(),
    /// };
    /// drop(session.user);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn into_owned(self) -> OwnedLatch {
        let acquired_at = self.bound.acquired_at();
        let acquired_at = acquired_at.unwrap_or(Location::caller());
        self.detach().bind(acquired_at)
    }
}

impl Drop for Latch<'_> {
    #[inline]
    fn drop(&mut self) {
        release(&self.bound);
    }
}

impl fmt::Debug for Latch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latch").finish_non_exhaustive()
    }
}

/// A latch that is bound to its thread and carries its own handle on the table.
///
/// What [`SendLatch::attach`] makes.
#[must_use = "a latch is released when it is dropped"]
pub struct OwnedLatch {
    /// `None`: it was reclaimed before it was detached.
    bound: Option<OwnedBound<Core>>,
}

impl OwnedLatch {
    /// As [`Latch::finish`].
    #[must_use]
    pub(super) fn finish(self) -> Option<Wakes<Outcome>> {
        let bound = self.bound.as_ref()?.bound();
        let (core, held) = bound.standing()?;
        let wakes = core.finish(held.into());
        // What it held has been given back; dropping it finds nothing.
        let _ = bound.release();
        wakes
    }

    /// Unbinds the latch from this thread, as [`Latch::detach`].
    pub fn detach(self) -> SendLatch {
        match &self.bound {
            Some(bound) => detach(bound.bound()),
            None => SendLatch { held: None },
        }
    }
}

impl Drop for OwnedLatch {
    fn drop(&mut self) {
        if let Some(bound) = &self.bound {
            release(bound.bound());
        }
    }
}

impl fmt::Debug for OwnedLatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedLatch").finish_non_exhaustive()
    }
}

/// A latch that is bound to no thread: `Send`, and not reclaimed when a thread ends.
///
/// What [`latch_with`](super::LatchTable::latch_with) delivers. [`attach`](Self::attach) binds it
/// to the thread that received it.
///
/// ```
/// use latchwork::LatchTable;
///
/// let table = LatchTable::<str>::new();
/// let latch = table.latch("a")?.detach();
/// std::thread::spawn(move || std::mem::forget(latch.attach()))
///     .join()
///     .unwrap();
/// assert_eq!(table.held(), 0); // came back with its thread's end
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a latch is released when it is dropped"]
pub struct SendLatch {
    /// `None`: it was reclaimed before it was detached, or has been handed on.
    held: Option<(Anchor<Core>, Hold)>,
}

impl SendLatch {
    pub(super) fn new(core: Anchor<Core>, hold: Hold) -> Self {
        Self {
            held: Some((core, hold)),
        }
    }

    /// Binds the latch to the calling thread.
    #[track_caller]
    pub fn attach(self) -> OwnedLatch {
        self.bind(Location::caller())
    }

    fn bind(mut self, acquired_at: &'static Location<'static>) -> OwnedLatch {
        let held = self.held.take();
        OwnedLatch {
            bound: held.map(|(core, hold)| OwnedBound::new(core, hold.into(), acquired_at, 0)),
        }
    }
}

impl Drop for SendLatch {
    fn drop(&mut self) {
        if let Some((core, hold)) = &self.held {
            core.release(*hold);
        }
    }
}

impl fmt::Debug for SendLatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendLatch").finish_non_exhaustive()
    }
}
