//! The door to concurrency: threads, locks, atomics, futexes, time.
//!
//! Everything else in the library takes these from here, and so runs in two worlds without a
//! line of its own: natively, and under loom's model checker (`--cfg latchwork_loom`). Each world
//! is one module with the same surface:
//!
//! | here | natively | under the model |
//! |---|---|---|
//! | `atomic` | std | loom |
//! | `cell` | std | loom, which checks each access |
//! | `lock` | parking_lot | loom's locks, without poisoning |
//! | `futex` | atomic-wait, rustix when timed | a Condvar per word |
//! | `time` | the monotonic clock | a number that the model's `Clock` moves |
//! | `thread` | std; claims return from a pthread key | loom; claims return before `join` is notified |
//! | `track` | nothing | loom's leak check |
//! | `unmodelled` | std | std: counters and diagnostics that nothing synchronises through |

#[cfg(latchwork_loom)]
#[path = "sync/modelled.rs"]
pub(crate) mod world;
#[cfg(not(latchwork_loom))]
#[path = "sync/native.rs"]
mod world;

/// Inside that world, the checker that draws schedules instead of exploring them all.
#[cfg(latchwork_shuttle)]
#[path = "sync/shuttled.rs"]
pub mod shuttled;

pub(crate) mod mutant;

pub(crate) use world::*;

/// Alone on its cache lines, two of them, because the hardware fetches lines in pairs: for what one
/// thread writes while others write to its neighbours.
#[derive(Debug)]
#[cfg(feature = "flush")]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

#[cfg(feature = "flush")]
impl<T> std::ops::Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Atomics and locks that the model does not see.
///
/// For statistics and diagnostics: values that nothing synchronises through, and short critical
/// sections that contain no other operation of this module. Modelling them would multiply the
/// schedules and find nothing.
pub(crate) mod unmodelled {
    pub(crate) use parking_lot::Mutex;
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence,
    };
    pub(crate) use std::sync::{Arc, OnceLock};
}
