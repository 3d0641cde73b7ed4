//! Sixty-four places for claims, as one block.

use std::cell::Cell;
use std::panic::Location;
use std::ptr::{self, NonNull};

use crate::sync::unmodelled::{AtomicPtr, AtomicU64, Ordering};

use super::{FEW, Held, Kind, LIVE, SLOTS, Table};

#[repr(align(64))]
pub(super) struct Slot {
    pub(super) serial: AtomicU64,
    pub(super) core: AtomicPtr<()>,
    pub(super) first: AtomicU64,
    pub(super) second: AtomicU64,
    pub(super) acquired_at: AtomicPtr<Location<'static>>,
    /// Coarse nanoseconds since boot; 0 where nobody asked for it.
    pub(super) since: AtomicU64,
    pub(super) kind: Cell<Option<&'static Kind>>,
}

impl Slot {
    pub(super) const fn new(index: usize) -> Self {
        Self {
            serial: AtomicU64::new(index as u64),
            core: AtomicPtr::new(ptr::null_mut()),
            first: AtomicU64::new(0),
            second: AtomicU64::new(0),
            acquired_at: AtomicPtr::new(ptr::null_mut()),
            since: AtomicU64::new(0),
            kind: Cell::new(None),
        }
    }

    #[inline]
    pub(super) fn is_live(&self) -> bool {
        self.serial.load(Ordering::Relaxed) & LIVE != 0
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
}

/// In this order: `low` must not lie a page behind the first slot, where the processor takes a load
/// of one for a load of what was just stored to the other.
#[repr(C)]
pub(super) struct Chunk {
    /// Every slot below is live; all of them where it is `SLOTS`, and then freeing one puts the chunk
    /// on its table's list of roomy ones. The owner's.
    pub(super) low: Cell<usize>,
    /// No slot from here on is live; above `low`, and at least `FEW`. The owner's.
    pub(super) high: Cell<usize>,
    pub(super) next: AtomicPtr<Chunk>,
    /// Whether it is on the table's list of roomy chunks, and the next one there. The owner's.
    pub(super) is_listed: Cell<bool>,
    pub(super) next_roomy: Cell<Option<&'static Chunk>>,
    /// The table that the chunk is of, set once.
    pub(super) table: Cell<Option<&'static Table>>,
    pub(super) slots: [Slot; SLOTS],
}

impl Chunk {
    pub(super) fn new() -> Self {
        Self {
            slots: std::array::from_fn(Slot::new),
            low: Cell::new(0),
            high: Cell::new(FEW),
            next: AtomicPtr::new(ptr::null_mut()),
            is_listed: Cell::new(false),
            next_roomy: Cell::new(None),
            table: Cell::new(None),
        }
    }

    #[inline(always)]
    pub(super) fn slot_of(&self, serial: u64) -> &Slot {
        &self.slots[serial as usize % SLOTS]
    }

    /// The lowest slot that may be free, and its serial, if it is.
    #[inline(always)]
    pub(super) fn vacancy(&self) -> Option<(&Slot, u64)> {
        let slot = &self.slots[self.low.get() % SLOTS];
        let serial = slot.serial.load(Ordering::Relaxed);
        (serial & LIVE == 0).then_some((slot, serial))
    }

    /// Raises `low` to a free slot, and returns that. It is only raised here, and lowered to slots
    /// that were given out before, so this is where `high` is kept above it.
    pub(super) fn vacancy_above(&self) -> Option<(&Slot, u64)> {
        let low = self.low.get();
        let Some(free) = self.slots[low..].iter().position(|slot| !slot.is_live()) else {
            self.low.set(SLOTS);
            return None;
        };
        self.low.set(low + free);
        self.high.set(self.high.get().max(low + free + 1));
        self.vacancy()
    }

    /// Frees a live slot.
    #[inline]
    pub(super) fn vacate(&'static self, slot: &Slot, serial: u64) {
        // Adding the bit to itself clears it and counts the claim.
        slot.serial
            .store(serial.wrapping_add(LIVE), Ordering::Relaxed);
        let index = serial as usize % SLOTS;
        let low = self.low.get();
        if index < low {
            self.low.set(index);
            if low == SLOTS {
                self.has_room_again();
            }
        }
    }

    /// Puts the chunk on its table's list of roomy ones.
    #[cold]
    pub(super) fn has_room_again(&'static self) {
        if let Some(table) = self.table.get()
            && !self.is_listed.replace(true)
        {
            self.next_roomy.set(table.roomy.replace(Some(self)));
        }
    }

    /// The slots that may be live.
    #[inline]
    pub(super) fn occupied(&self) -> &[Slot] {
        let mut high = self.high.get();
        let least = FEW.max(self.low.get() + 1).min(SLOTS);
        while high > least && !self.slots[high - 1].is_live() {
            high -= 1;
            self.high.set(high);
        }
        &self.slots[..high]
    }
}
