//! A claim on an anchored core, as the guards of components own it.
//!
//! The pointer that a claim carries is uncounted: what makes it good to use is that a handle is
//! counted beside it, for the lifetime of a [`Bound`], in a field of an [`OwnedBound`]; or, when
//! the guard was leaked and both are gone, that the claim itself keeps the core ([`anchor`]).

#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::panic::Location;
use std::ptr::NonNull;

use super::anchor::{self, Anchor, Borrowed, Kind};
use super::claim::{Claim, Held, Leak, Seat};
use super::{LeakReport, OnLeak};
use crate::sync::unmodelled;
use crate::waiter::{Wakes, dispatcher};

/// A core that claims are made on.
///
/// # Safety
///
/// While a claim stands of a [`Bound`], [`is_idle`](anchor::Core::is_idle) is false, until what it
/// holds has been given back.
pub(crate) unsafe trait Claimed: anchor::Core {
    /// What the component tells its waiters.
    type Told: Send + 'static;

    /// Gives back what a leaked guard held, whose claim had this [tag](Bound::tag), and counts it.
    /// `None`: it was not held any more.
    fn take_back(&self, held: Held, tag: u64) -> Option<Wakes<Self::Told>>;

    /// How much that is, for the report.
    fn amount(held: Held) -> u64;

    /// The component's name, and who is told of leaks.
    fn reports_to(&self) -> (&unmodelled::Arc<str>, Option<&OnLeak>);
}

/// How claims on a core are given back.
pub(crate) const fn kind<C: Claimed>() -> &'static Kind {
    &Kind {
        announce: anchor::announce_reclaim::<C>,
        reclaim: reclaim::<C>,
    }
}

/// A claim on a core of which a handle is borrowed for `'a`.
///
/// Dropping it does nothing: the guard around it gives back what [`release`](Self::release)
/// returns, or the thread's end does.
pub(crate) struct Bound<'a, C: Claimed> {
    claim: Claim,
    /// Here as well as on the list, so that a release need not wait to read it there. While the
    /// claim stands, it is that of the borrowed handle.
    core: NonNull<()>,
    handle: PhantomData<Borrowed<'a, C>>,
}

impl<'a, C: Claimed> Bound<'a, C> {
    /// Writes down a claim of `held` on `core`, which is about to be taken.
    #[inline(always)]
    pub(crate) fn prepare(
        core: Borrowed<'a, C>,
        held: Held,
        acquired_at: &'static Location<'static>,
        since: u64,
    ) -> Prepared<'a, C> {
        let seat = Seat::find();
        Prepared {
            seat: seat.write(core.uncounted(), held, acquired_at, since),
            core,
        }
    }

    /// [`prepare`](Self::prepare) for a claim with the same words as the last one that had its
    /// place on the list, and no time. `None`: that was on another core.
    #[inline(always)]
    pub(crate) fn prepare_again(
        core: Borrowed<'a, C>,
        acquired_at: &'static Location<'static>,
    ) -> Option<(Prepared<'a, C>, u64)> {
        let seat = Seat::find();
        let first = seat.last_on(core.uncounted())?;
        seat.write_place(acquired_at);
        Some((Prepared { seat, core }, first))
    }

    /// Puts `held`, which has been taken from `core`, on the calling thread's list.
    #[inline]
    pub(crate) fn new(
        core: Borrowed<'a, C>,
        held: Held,
        acquired_at: &'static Location<'static>,
        since: u64,
    ) -> Self {
        Self::prepare(core, held, acquired_at, since).claim()
    }

    /// A claim on nothing, as good as reclaimed.
    #[cold]
    pub(crate) fn nothing() -> Self {
        Self {
            claim: Seat::nothing(),
            core: NonNull::dangling(),
            handle: PhantomData,
        }
    }

    /// The core, for a claim that stands, or stood until just now.
    #[inline(always)]
    fn core_of_standing(&self) -> Borrowed<'a, C> {
        // SAFETY: the claim was made by `Prepared::claim`, where a handle was borrowed for `'a`.
        unsafe { Borrowed::from_uncounted(self.core) }
    }

    /// The core, unless the claim has been reclaimed.
    #[inline]
    pub(crate) fn core(&self) -> Option<Borrowed<'a, C>> {
        self.claim.stands().then(|| self.core_of_standing())
    }

    /// Takes the claim off the list: what it held is now the caller's to give back to the core.
    /// `None`: it has been reclaimed.
    #[inline]
    pub(crate) fn release(&self) -> Option<(Borrowed<'a, C>, Held)> {
        let held = self.claim.release()?;
        Some((self.core_of_standing(), held))
    }

    /// [`release`](Self::release) for who knows what it held.
    #[inline]
    pub(crate) fn withdraw(&self) -> Option<Borrowed<'a, C>> {
        self.claim.withdraw().then(|| self.core_of_standing())
    }

    /// What a claim held that has been withdrawn just now.
    #[inline]
    pub(crate) fn withdrawn(&self) -> Held {
        self.claim.withdrawn()
    }

    /// See [`Claim::tag`].
    #[inline(always)]
    pub(crate) fn tag(&self) -> u64 {
        self.claim.tag()
    }

    /// Counts the claims that its place on the list has had.
    #[inline]
    pub(crate) fn turn(&self) -> u64 {
        self.claim.turn()
    }

    /// The core and what the claim holds, unless it has been reclaimed.
    #[inline]
    pub(crate) fn standing(&self) -> Option<(Borrowed<'a, C>, Held)> {
        let held = self.claim.held()?;
        Some((self.core_of_standing(), held))
    }

    /// What the claim holds, unless it has been reclaimed.
    #[inline]
    pub(crate) fn held(&self) -> Option<Held> {
        self.claim.held()
    }

    /// Changes how much the claim holds, unless it has been reclaimed.
    pub(crate) fn set_first(&self, first: u64) {
        self.claim.set_first(first);
    }

    /// Since when the claim stands, in coarse nanoseconds; 0 where that is not tracked.
    pub(crate) fn since(&self) -> u64 {
        self.claim.since()
    }

    /// Where the guard was acquired, unless the claim has been reclaimed.
    pub(crate) fn acquired_at(&self) -> Option<&'static Location<'static>> {
        self.claim.acquired_at()
    }

    /// Takes the claim off the list, with a handle of its own.
    pub(crate) fn detach(&self) -> Option<(Anchor<C>, Held)> {
        let anchor = self.core()?.to_anchor();
        let (_, held) = self.release()?;
        Some((anchor, held))
    }
}

/// A claim that is written down and not made: nothing has been taken yet.
pub(crate) struct Prepared<'a, C: Claimed> {
    seat: Seat,
    core: Borrowed<'a, C>,
}

impl<'a, C: Claimed> Prepared<'a, C> {
    /// What [`Bound::tag`] will be.
    #[inline(always)]
    pub(crate) fn tag(&self) -> u64 {
        self.seat.tag()
    }

    /// Makes the claim: what was written down has been taken. No other claim was made on this
    /// thread meanwhile.
    #[inline(always)]
    pub(crate) fn claim(self) -> Bound<'a, C> {
        Bound {
            // SAFETY: the seat was written by `prepare`. By the contract of `Claimed` the core is
            // not idle until the claim is released and given back, so it is not freed until then.
            claim: unsafe { self.seat.claim() },
            core: self.core.uncounted(),
            handle: PhantomData,
        }
    }
}

/// A claim with a handle of its own.
pub(crate) struct OwnedBound<C: Claimed> {
    bound: Bound<'static, C>,
    _handle: Anchor<C>,
}

impl<C: Claimed> OwnedBound<C> {
    /// As [`Bound::new`].
    pub(crate) fn new(
        handle: Anchor<C>,
        held: Held,
        acquired_at: &'static Location<'static>,
        since: u64,
    ) -> Self {
        // SAFETY: the handle stays counted beside the claim, and `bound` does not leave this struct
        // but by a borrow of it.
        let core = unsafe { Borrowed::from_uncounted(handle.borrow().uncounted()) };
        Self {
            bound: Bound::new(core, held, acquired_at, since),
            _handle: handle,
        }
    }

    #[inline]
    pub(crate) fn bound(&self) -> &Bound<'_, C> {
        &self.bound
    }
}

/// Gives back what a guard leaked, on the thread that did. No code of the user's runs here.
///
/// # Safety
///
/// As [`Kind::reclaim`], for a claim made by `Bound<C>::new`.
unsafe fn reclaim<C: Claimed>(core: NonNull<()>, leak: Leak) {
    let take_back = |core: &Anchor<C>| {
        let wakes = core.take_back(leak.held, leak.tag)?;
        let (component, on_leak) = core.reports_to();
        Some((wakes, component.clone(), on_leak.cloned()))
    };
    // SAFETY: the pointer is that of an `Anchor<C>`, and the claim that is given back stands on it.
    let taken_back = unsafe { anchor::reclaim(core, take_back) };
    let Some((wakes, component, on_leak)) = taken_back else {
        return;
    };
    wakes.deliver_by_dispatcher();
    if let Some(on_leak) = on_leak {
        let report = LeakReport {
            component,
            amount: C::amount(leak.held),
            acquired_at: leak.acquired_at,
            thread: leak.thread,
        };
        dispatcher::post(move || on_leak(report));
    }
}
