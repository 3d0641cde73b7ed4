//! A fork's child, in the moment before it becomes another program.

use std::cell::Cell;

use latchwork::semaphore::shared::{AcquireError, SharedPermit, SharedPermits, TryAcquireError};

use crate::in_child::in_child;
use crate::support::{HOUR, Place};

thread_local! {
    /// What may not be sent into a child's closure is where its thread finds it.
    static GUARDS: Cell<Option<(SharedPermit<'static>, SharedPermits<'static>)>> =
        const { Cell::new(None) };
}

#[test]
fn a_fork_s_child_has_no_place_and_frees_nothing() {
    let place = Place::new();
    let semaphore: &'static _ = Box::leak(Box::new(place.open(4)));
    let permit = semaphore.acquire().unwrap();
    let inherited = semaphore.clone();
    let lease = semaphore.acquire_leased(HOUR).unwrap();
    let mut sent = Some(lease);
    let one = semaphore.acquire().unwrap();
    let several = semaphore.acquire_many(1).unwrap();
    GUARDS.set(Some((one, several)));
    assert!(in_child(move || {
        drop(GUARDS.take());
        let frees_nothing = inherited.current() == 4;
        let refused = inherited.try_acquire().unwrap_err() == TryAcquireError::Detached;
        let waits = inherited.acquire().unwrap_err() == AcquireError::Detached;
        // The lease is the parent's.
        let is_dead = sent.take().is_some_and(|lease| {
            !lease.is_live() && lease.renew(HOUR).is_err() && lease.release().is_err()
        });
        frees_nothing && refused && waits && is_dead
    }));
    // The parent's copy of the closure, and its lease, are gone now; its permits are not.
    assert_eq!((semaphore.current(), permit.count()), (3, 1));
    drop(GUARDS.take());
    assert_eq!(semaphore.current(), 1);
    assert_eq!(semaphore.stats().lost, 0);
    drop(permit);
    assert_eq!(semaphore.try_acquire_many(4).unwrap().count(), 4);
}
