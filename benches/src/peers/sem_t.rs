//! glibc's process-shared `sem_t`.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;

/// An initialised `sem_t` at a fixed address.
pub(crate) struct SemT(Box<UnsafeCell<libc::sem_t>>);

impl SemT {
    /// A process-shared semaphore with `permits` permits.
    ///
    /// # Errors
    ///
    /// What `sem_init` reports: more permits than an `int` holds.
    pub(crate) fn new(permits: u32) -> io::Result<SemT> {
        // SAFETY: `sem_t` is a C union of a character array and an integer, for which zeroes
        // are a valid value; `sem_init` gives it its meaning before anything else reads it.
        let zeroed = unsafe { MaybeUninit::<libc::sem_t>::zeroed().assume_init() };
        let semaphore = SemT(Box::new(UnsafeCell::new(zeroed)));
        // SAFETY: the pointer is to a live `sem_t` that is not in use yet, and the box keeps
        // its address until `sem_destroy`.
        let done = unsafe { libc::sem_init(semaphore.0.get(), 1, permits) };
        if done == 0 {
            Ok(semaphore)
        } else {
            Err(io::Error::last_os_error())
        }
    }

    #[inline]
    pub(crate) fn wait(&self) {
        // SAFETY: the semaphore was initialised by `new` and lives as long as `self`.
        while unsafe { libc::sem_wait(self.0.get()) } != 0 {
            // Interrupted by a signal handler: the only error that `sem_wait` has here.
        }
    }

    #[inline]
    pub(crate) fn post(&self) {
        // SAFETY: the semaphore was initialised by `new` and lives as long as `self`.
        let done = unsafe { libc::sem_post(self.0.get()) };
        debug_assert_eq!(done, 0, "more posts than an int holds");
    }
}

impl Drop for SemT {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no thread is waiting, and nobody uses the semaphore afterwards.
        unsafe { libc::sem_destroy(self.0.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_take_what_posts_give() {
        let semaphore = SemT::new(1).unwrap();
        for _ in 0..3 {
            semaphore.wait();
            semaphore.post();
        }
        assert!(SemT::new(u32::MAX).is_err());
    }
}
