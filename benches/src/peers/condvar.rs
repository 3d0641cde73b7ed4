//! The textbook counting semaphore: a count under a mutex, and a condition variable.
//!
//! It notifies after the mutex is released, so that the woken thread does not run straight
//! into it: the better of the two textbook variants.

use parking_lot::{Condvar, Mutex};

use crate::crowd::Exclusive;

#[derive(Debug)]
pub(crate) struct Semaphore {
    free: Mutex<u64>,
    freed: Condvar,
}

impl Semaphore {
    pub(crate) fn new(permits: u64) -> Semaphore {
        Semaphore {
            free: Mutex::new(permits),
            freed: Condvar::new(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Permit<'a>(&'a Semaphore);

impl Exclusive for Semaphore {
    type Guard<'a> = Permit<'a>;

    fn acquire(&self) -> Permit<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.freed.wait(&mut free);
        }
        *free -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}
