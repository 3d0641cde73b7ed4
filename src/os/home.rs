//! The process that a thread was started in.
//!
//! A fork's child gets a copy of the memory, and of the threads only the one that forked. So
//! whoever has a thread of its own asks before it waits for it, takes a lock that it may have left
//! taken, or touches its handle.
//!
//! What asks is on the way of every record of a log, so it costs a load: a page that the kernel
//! wipes in a fork's child holds the process's number. Where the kernel does not, it is asked for
//! the number.

#![allow(unsafe_code)]

use super::wiped::Wiped;
use crate::sync::unmodelled::{AtomicU64, OnceLock, Ordering};

/// The process's number, or zero.
// SAFETY: zero is a number.
static HERE: Wiped<AtomicU64> = unsafe { Wiped::new(AtomicU64::new(0)) };

/// Whether the kernel wipes the page, once that was asked for.
static IS_WIPED: OnceLock<bool> = OnceLock::new();

/// Where the thread is; nowhere at first.
#[derive(Debug)]
pub(crate) struct Home(AtomicU64);

impl Home {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// It is in this process.
    pub(crate) fn settle(&self) {
        IS_WIPED.get_or_init(|| HERE.wipe_on_fork().is_ok());
        let process = u64::from(std::process::id());
        // Nothing is read through these: a fork's child sees what its parent stored, or zero.
        HERE.store(process, Ordering::Relaxed);
        self.0.store(process, Ordering::Relaxed);
    }

    /// Whether this process is a fork of the one that the thread is in, and so has no such thread.
    #[inline]
    pub(crate) fn is_elsewhere(&self) -> bool {
        let process = self.0.load(Ordering::Relaxed);
        process != 0 && process != this_process()
    }
}

#[inline]
fn this_process() -> u64 {
    match IS_WIPED.get() {
        // Zero in a child in which no thread has settled.
        Some(true) => HERE.load(Ordering::Relaxed),
        _ => u64::from(std::process::id()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_elsewhere_if_it_was_started_in_another_process() {
        let home = Home::new();
        assert!(!home.is_elsewhere(), "there is no thread");
        home.settle();
        assert!(!home.is_elsewhere());
        // As in a fork's child, which has the number of its parent here.
        home.0.fetch_add(1, Ordering::Relaxed);
        assert!(home.is_elsewhere());
    }
}
