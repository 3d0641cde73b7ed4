//! The process that a thread was started in.
//!
//! A fork's child gets a copy of the memory, and of the threads only the one that forked. So
//! whoever has a thread of its own asks before it waits for it, takes a lock that it may have left
//! taken, or touches its handle.
//!
//! What asks is on the way of every record of a log, so it costs a load: a page that the kernel wipes
//! in a fork's child holds the process's number. Where the kernel does not, it is asked for the number.

#![allow(unsafe_code)]

use crate::sync::unmodelled::{AtomicU64, OnceLock, Ordering};

/// A page of zeros that is not inherited: a whole one, of whatever size the kernel has them.
#[repr(C, align(65536))]
struct Page {
    process: AtomicU64,
    rest: [u8; (64 << 10) - size_of::<AtomicU64>()],
}

static HERE: Page = Page {
    process: AtomicU64::new(0),
    rest: [0; _],
};

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
        IS_WIPED.get_or_init(|| {
            let page = std::ptr::from_ref(&HERE).cast_mut().cast();
            // SAFETY: a whole page of this program's own memory, which is private and anonymous; the
            // advice changes nothing in this process.
            unsafe { libc::madvise(page, size_of::<Page>(), libc::MADV_WIPEONFORK) == 0 }
        });
        let process = u64::from(std::process::id());
        // Nothing is read through these: a fork's child sees what its parent stored, or zero.
        HERE.process.store(process, Ordering::Relaxed);
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
        Some(true) => HERE.process.load(Ordering::Relaxed),
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
