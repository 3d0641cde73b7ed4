//! The claims on a core as other threads see them.

#![allow(unsafe_code)]

use std::panic::Location;
use std::ptr::NonNull;

use super::{Held, LIVE, Thread, registry};
use crate::sync::unmodelled::{Ordering, fence};

/// A claim as another thread sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) thread: Option<String>,
    pub(crate) held: Held,
    pub(crate) acquired_at: &'static Location<'static>,
    /// In coarse nanoseconds.
    pub(crate) since: u64,
}

/// Whose list the claim of `held` on `core` stands on. `None`: nobody's.
pub(crate) fn owner(core: NonNull<()>, held: Held) -> Option<Thread> {
    let registry = registry().lock();
    registry.all.iter().find_map(|&table| {
        let owner = Thread {
            table,
            id: table.thread_id.load(Ordering::Acquire),
        };
        let mut slots = table.chunks().flat_map(|chunk| &chunk.slots);
        let is_there = slots.any(|slot| {
            // As in `holders`.
            let serial = slot.serial.load(Ordering::Acquire);
            let is_it = serial & LIVE != 0 && slot.core() == Some(core) && slot.held() == held;
            fence(Ordering::Acquire);
            is_it && slot.serial.load(Ordering::Relaxed) == serial
        });
        is_there.then_some(owner)
    })
}

/// The claims on `core`, on whichever thread's list they stand.
pub(crate) fn holders(core: NonNull<()>) -> Vec<Seen> {
    let registry = registry().lock();
    let mut seen = Vec::new();
    for table in &registry.all {
        for slot in table.chunks().flat_map(|chunk| &chunk.slots) {
            // Pairs with the release store of the serial in `Seat::claim`.
            let serial = slot.serial.load(Ordering::Acquire);
            if serial & LIVE == 0 || slot.core() != Some(core) {
                continue;
            }
            let held = slot.held();
            let acquired_at = slot.acquired_at.load(Ordering::Relaxed);
            let since = slot.since.load(Ordering::Relaxed);
            // Pairs with the fence in `Seat::write`: the same serial after the reads means that
            // they all belong to it.
            fence(Ordering::Acquire);
            if slot.serial.load(Ordering::Relaxed) == serial {
                seen.push(Seen {
                    thread: table.thread_name.lock().clone(),
                    held,
                    // SAFETY: a live slot has a location stored from a `&'static Location`.
                    acquired_at: unsafe { &*acquired_at },
                    since,
                });
            }
        }
    }
    seen
}
