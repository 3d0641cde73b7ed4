//! The claims on a core as other threads see them.

#![allow(unsafe_code)]

use std::panic::Location;
use std::ptr::NonNull;

use super::{Held, LIVE, registry};
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
