//! A reference-counted core that outlives its handles while leaked claims stand on it.
//!
//! Handles count; claims do not: a claim's guard borrows or carries a handle, so the count never
//! has to move on the way in and out. Only a guard that was leaked can find itself without a
//! handle, and it is returned by its thread's end, through [`reclaim`].
//!
//! | event | under `LIFETIME`'s lock | frees the core |
//! |---|---|---|
//! | a handle but the last is dropped | no: one CAS | no |
//! | the last handle is dropped | yes | if no claim stands |
//! | a leaked claim is reclaimed | yes | if no handle and no other claim is left |
//!
//! One lock for the process orders the two events that can free: the step that makes "no handle, no
//! claim" true is then the one that sees it, and nobody touches the core after it. Both are rare. A
//! released claim whose guard was not leaked has a handle beside it until the release is over, and
//! never frees.

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Deref;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr::NonNull;

use super::claim::Leak;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::lock::Mutex;
use crate::sync::track::Track;
use crate::sync::{mutant, unmodelled};

crate::sync::global! {
    static LIFETIME: Mutex<()> = Mutex::new(())
}

/// How a kind of claim is given back when its guard was leaked.
pub(crate) struct Kind {
    /// Called before that, while the claim still stands on its list.
    ///
    /// # Safety
    ///
    /// As `reclaim`, which follows.
    pub(crate) announce: unsafe fn(core: NonNull<()>),
    /// Called on the thread that leaked, once, with the pointer and the words of the claim.
    ///
    /// # Safety
    ///
    /// `core` is the pointer that the claim was made with, and the claim has not been released.
    pub(crate) reclaim: unsafe fn(core: NonNull<()>, leak: Leak),
}

/// What an [`Anchor`] holds.
pub(crate) trait Core: Send + Sync + 'static {
    /// How claims on it are given back.
    const KIND: &'static Kind;

    /// Whether no claim stands on the core, which claims know as `at`. Asked only when no handle is
    /// left, under `LIFETIME`.
    fn is_idle(&self, at: NonNull<()>) -> bool;
}

#[repr(C)]
struct Inner<C> {
    /// First, where [`kind`] finds it.
    kind: &'static Kind,
    handles: AtomicUsize,
    /// Leaked claims that are off their list, and not given back yet.
    returning: unmodelled::AtomicU64,
    core: C,
    _leak_check: Track<()>,
}

impl<C: Core> Inner<C> {
    /// Whether no claim stands on the core. Lists first: a claim that was seen to be off its list
    /// has been counted before.
    fn is_idle(&self) -> bool {
        let is_idle = self.core.is_idle(NonNull::from(self).cast());
        // Acquire, pairs with the fence in `announce_reclaim`.
        unmodelled::fence(Ordering::Acquire);
        is_idle && self.returning.load(Ordering::Relaxed) == 0
    }
}

/// A handle on a shared core.
pub(crate) struct Anchor<C: Core>(NonNull<Inner<C>>);

// SAFETY: the core is `Send + Sync`, and the rest of `Inner` is atomic.
unsafe impl<C: Core> Send for Anchor<C> {}
// SAFETY: as above.
unsafe impl<C: Core> Sync for Anchor<C> {}

impl<C: Core> Anchor<C> {
    pub(crate) fn new(core: C) -> Self {
        let inner = Box::new(Inner {
            kind: C::KIND,
            handles: AtomicUsize::new(1),
            returning: unmodelled::AtomicU64::new(0),
            core,
            _leak_check: Track::new(()),
        });
        Self(NonNull::from(Box::leak(inner)))
    }

    /// A borrowed handle.
    #[inline]
    pub(crate) fn borrow(&self) -> Borrowed<'_, C> {
        Borrowed(self.0, PhantomData)
    }
}

/// A handle that borrows another's count: one pointer, straight to the core.
pub(crate) struct Borrowed<'a, C: Core>(NonNull<Inner<C>>, PhantomData<&'a Anchor<C>>);

impl<C: Core> Clone for Borrowed<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: Core> Copy for Borrowed<'_, C> {}

impl<C: Core> Borrowed<'_, C> {
    /// The pointer for a claim: it stays valid while the claim stands, without counting.
    #[inline]
    pub(crate) fn uncounted(self) -> NonNull<()> {
        self.0.cast()
    }

    /// What [`uncounted`](Self::uncounted) was called on.
    ///
    /// # Safety
    ///
    /// `core` is the uncounted pointer of an `Anchor<C>`, of which a handle is counted for `'a`, or
    /// on which a claim stands for as long.
    #[inline]
    pub(crate) unsafe fn from_uncounted(core: NonNull<()>) -> Self {
        Self(core.cast(), PhantomData)
    }

    /// A handle of its own.
    pub(crate) fn to_anchor(self) -> Anchor<C> {
        // SAFETY: the borrowed handle is counted, so the core has not been freed.
        let inner = unsafe { self.0.as_ref() };
        // Relaxed: the count is reached through a handle that is counted already.
        inner.handles.fetch_add(1, Ordering::Relaxed);
        Anchor(self.0)
    }
}

impl<C: Core> Deref for Borrowed<'_, C> {
    type Target = C;

    #[inline]
    fn deref(&self) -> &C {
        // SAFETY: the borrowed handle is counted, so the core has not been freed.
        unsafe { &self.0.as_ref().core }
    }
}

// A core is as whole after a panic as after a release: its steps are atomic, or under a lock that
// no code of the user's runs in.
impl<C: Core> UnwindSafe for Anchor<C> {}
impl<C: Core> RefUnwindSafe for Anchor<C> {}
impl<C: Core> UnwindSafe for Borrowed<'_, C> {}
impl<C: Core> RefUnwindSafe for Borrowed<'_, C> {}

impl<C: Core> std::fmt::Debug for Anchor<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Anchor").field(&self.0).finish()
    }
}

impl<C: Core> Deref for Anchor<C> {
    type Target = C;

    #[inline]
    fn deref(&self) -> &C {
        // SAFETY: this handle is counted, so the core has not been freed.
        unsafe { &self.0.as_ref().core }
    }
}

impl<C: Core> Clone for Anchor<C> {
    fn clone(&self) -> Self {
        self.borrow().to_anchor()
    }
}

impl<C: Core> Drop for Anchor<C> {
    fn drop(&mut self) {
        // SAFETY: this handle is counted until the decrement below.
        let inner = unsafe { self.0.as_ref() };
        let mut handles = inner.handles.load(Ordering::Relaxed);
        while handles > 1 {
            // Release: the last one out, which acquires, sees what this one did.
            match inner.handles.compare_exchange_weak(
                handles,
                handles - 1,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => handles = seen,
            }
        }
        let lifetime = LIFETIME.lock();
        if mutant::enabled("anchor-free-despite-claims") {
            inner.handles.fetch_sub(1, Ordering::Release);
            drop(lifetime);
            free(self.0);
            return;
        }
        let order = if mutant::enabled("anchor-drop-without-acquire") {
            Ordering::Release
        } else {
            Ordering::AcqRel
        };
        let was_last = inner.handles.fetch_sub(1, order) == 1;
        let is_free = was_last && inner.is_idle();
        drop(lifetime);
        if is_free {
            free(self.0);
        }
    }
}

/// How claims on a core are given back.
///
/// # Safety
///
/// `core` is the [`Borrowed::uncounted`] pointer of an anchor, and a claim stands on it.
pub(crate) unsafe fn kind(core: NonNull<()>) -> &'static Kind {
    // SAFETY: the claim keeps the core, and whichever `Inner` it is begins with its kind.
    unsafe { core.cast::<&Kind>().as_ref() }
}

/// Before a leaked claim is taken off its list: until [`reclaim`] it keeps the core without it.
///
/// # Safety
///
/// As [`reclaim`], which follows.
pub(crate) unsafe fn announce_reclaim<C: Core>(core: NonNull<()>) {
    // SAFETY: the claim keeps the core.
    let inner = unsafe { core.cast::<Inner<C>>().as_ref() };
    inner.returning.fetch_add(1, Ordering::Relaxed);
    // Release: who sees the claim off its list sees it counted.
    unmodelled::fence(Ordering::Release);
}

/// Lets `give_back` return a leaked claim, and frees the core if it was the last thing that kept
/// it.
///
/// # Safety
///
/// `core` is the [`Borrowed::uncounted`] pointer of an `Anchor<C>`, and a claim stands on it that
/// `give_back` returns.
pub(crate) unsafe fn reclaim<C: Core, R>(
    core: NonNull<()>,
    give_back: impl FnOnce(&Anchor<C>) -> R,
) -> R {
    // Not a handle: it is forgotten below, uncounted as it came.
    let anchor = std::mem::ManuallyDrop::new(Anchor::<C>(core.cast()));
    let lifetime = LIFETIME.lock();
    let result = give_back(&anchor);
    // SAFETY: the claim kept the core until `give_back`; from there to the end of the lock nobody
    // else can free it.
    let inner = unsafe { anchor.0.as_ref() };
    inner.returning.fetch_sub(1, Ordering::Relaxed);
    // Acquire, as in `drop`: who frees sees what every handle did.
    let is_free = inner.handles.load(Ordering::Acquire) == 0
        && inner.is_idle()
        && !mutant::enabled("anchor-reclaim-frees-nothing");
    drop(lifetime);
    if is_free {
        free(anchor.0);
    }
    result
}

/// Frees a core that neither a handle nor a claim keeps.
fn free<C: Core>(inner: NonNull<Inner<C>>) {
    // SAFETY: made by `Anchor::new` from a box; the caller saw, under `LIFETIME`, that no handle
    // and no claim was left, so nobody else has the pointer.
    drop(unsafe { Box::from_raw(inner.as_ptr()) });
}
