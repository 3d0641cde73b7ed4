//! The process that a thread was started in.
//!
//! A fork's child gets a copy of the memory, and of the threads only the one that forked. So
//! whoever has a thread of its own asks before it waits for it, takes a lock that it may have left
//! taken, or touches its handle.

use crate::sync::unmodelled::{AtomicU64, Ordering};

/// Where the thread is; nowhere at first.
#[derive(Debug)]
pub(crate) struct Home(AtomicU64);

impl Home {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// It is in this process.
    pub(crate) fn settle(&self) {
        // Nothing is read through it: a fork's child sees what its parent stored.
        self.0.store(this_process(), Ordering::Relaxed);
    }

    /// Whether this process is a fork of the one that the thread is in, and so has no such thread.
    pub(crate) fn is_elsewhere(&self) -> bool {
        let process = self.0.load(Ordering::Relaxed);
        process != 0 && process != this_process()
    }
}

fn this_process() -> u64 {
    u64::from(std::process::id())
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
