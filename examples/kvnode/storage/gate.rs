//! A gate that many pass at once and that one can close: a reader-writer lock in stripes.
//!
//! Every change of a key passes it, so passing costs one uncontended step on a cache line of the
//! thread's own. Who closes it locks all stripes, in order: then nobody is inside.
//!
//! Each stripe holds the same value, which only who has closed the gate replaces.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

const STRIPES: usize = 16;

pub(super) struct Gate<T> {
    stripes: Box<[Stripe<T>]>,
}

// Two lines, because the hardware fetches lines in pairs.
#[repr(align(128))]
struct Stripe<T>(RwLock<T>);

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES);
}

impl<T: Clone> Gate<T> {
    pub(super) fn new(value: T) -> Self {
        let stripes = (0..STRIPES).map(|_| Stripe(RwLock::new(value.clone())));
        Self {
            stripes: stripes.collect(),
        }
    }

    /// Goes in; the guard's drop goes out. Not to be nested.
    #[inline]
    pub(super) fn enter(&self) -> RwLockReadGuard<'_, T> {
        self.stripes[STRIPE.get()].0.read()
    }

    /// Waits until nobody is inside, and keeps it so.
    pub(super) fn close(&self) -> Closed<'_, T> {
        Closed(self.stripes.iter().map(|stripe| stripe.0.write()).collect())
    }
}

/// A gate that is closed, until this is dropped.
pub(super) struct Closed<'a, T>(Vec<RwLockWriteGuard<'a, T>>);

impl<T: Clone> Closed<'_, T> {
    pub(super) fn get(&self) -> &T {
        &self.0[0]
    }

    /// Replaces the value; the old one is to be dropped once the gate is open again.
    pub(super) fn replace(&mut self, new: &T) -> Vec<T> {
        let stripes = self.0.iter_mut();
        stripes
            .map(|stripe| std::mem::replace(&mut **stripe, new.clone()))
            .collect()
    }
}
