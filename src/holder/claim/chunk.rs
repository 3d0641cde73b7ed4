//! Sixty-four places for claims, as one block.

use std::cell::Cell;
use std::panic::Location;
use std::ptr::{self, NonNull};

use crate::sync::unmodelled::{AtomicPtr, AtomicU64, Ordering};

use super::{Held, LIVE, NOWHERE, SLOTS};

#[repr(align(64))]
pub(super) struct Slot {
    pub(super) serial: AtomicU64,
    pub(super) core: AtomicPtr<()>,
    pub(super) first: AtomicU64,
    pub(super) second: AtomicU64,
    pub(super) acquired_at: AtomicPtr<Location<'static>>,
    /// Coarse nanoseconds since boot; 0 where nobody asked for it.
    pub(super) since: AtomicU64,
    /// While it is listed. The owner's, as the one below.
    pub(super) next_free: Cell<&'static Self>,
    /// Whether it is on its thread's list of free slots: if it is live, as the first, or since it
    /// was that.
    pub(super) is_listed: Cell<bool>,
    /// How many slots of its table are in front of it.
    order: u32,
}

// SAFETY: the `Cell`s are touched by the thread that has the slot's table only, and those of
// `NOWHERE` by nobody; the rest is atomic, or never changed.
unsafe impl Sync for Slot {}

impl Slot {
    const fn new(order: usize, serial: u64) -> Self {
        Self {
            serial: AtomicU64::new(serial),
            core: AtomicPtr::new(ptr::null_mut()),
            first: AtomicU64::new(0),
            second: AtomicU64::new(0),
            acquired_at: AtomicPtr::new(ptr::null_mut()),
            since: AtomicU64::new(0),
            next_free: Cell::new(&NOWHERE),
            is_listed: Cell::new(false),
            order: order as u32,
        }
    }

    /// A slot that is never free, and has no claim.
    pub(super) const fn nowhere() -> Self {
        Self::new(0, LIVE)
    }

    #[inline]
    pub(super) fn is_live(&self) -> bool {
        self.serial.load(Ordering::Relaxed) & LIVE != 0
    }

    #[inline]
    pub(super) fn order(&self) -> usize {
        self.order as usize
    }

    #[inline]
    pub(super) fn core(&self) -> Option<NonNull<()>> {
        NonNull::new(self.core.load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn held(&self) -> Held {
        Held {
            first: self.first.load(Ordering::Relaxed),
            second: self.second.load(Ordering::Relaxed),
        }
    }

    /// Ends the claim of this serial.
    #[inline]
    pub(super) fn move_on(&self, serial: u64) {
        // Adding the bit to itself clears it and counts the claim.
        self.serial
            .store(serial.wrapping_add(LIVE), Ordering::Relaxed);
    }
}

pub(super) struct Chunk {
    pub(super) slots: [Slot; SLOTS],
    pub(super) next: AtomicPtr<Self>,
}

impl Chunk {
    /// The slots from `order` on.
    pub(super) fn new(order: usize) -> Self {
        Self {
            slots: std::array::from_fn(|index| Slot::new(order + index, index as u64)),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// How many slots there are up to this chunk's end.
    pub(super) fn end(&self) -> usize {
        self.slots[SLOTS - 1].order() + 1
    }
}
