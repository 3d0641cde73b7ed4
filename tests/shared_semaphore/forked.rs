//! A fork's child, in the moment before it becomes another program.

use latchwork::semaphore::shared::{AcquireError, TryAcquireError};

use crate::in_child::in_child;
use crate::support::{HOUR, Place};

#[test]
fn a_fork_s_child_has_no_place_and_frees_nothing() {
    let place = Place::new();
    let semaphore = place.open(2);
    let permit = semaphore.acquire().unwrap();
    let inherited = semaphore.clone();
    let lease = semaphore.acquire_leased(HOUR).unwrap();
    let mut sent = Some(lease);
    assert!(in_child(move || {
        let refused = inherited.try_acquire().unwrap_err() == TryAcquireError::Detached;
        let waits = inherited.acquire().unwrap_err() == AcquireError::Detached;
        // The lease is the parent's.
        let is_dead = sent.take().is_some_and(|lease| {
            !lease.is_live() && lease.renew(HOUR).is_err() && lease.release().is_err()
        });
        refused && waits && is_dead
    }));
    // The parent's copy of the closure, and its lease, are gone now; its permit is not.
    assert_eq!((semaphore.current(), permit.count()), (1, 1));
    assert_eq!(semaphore.stats().lost, 0);
    drop(permit);
    assert_eq!(semaphore.try_acquire_many(2).unwrap().count(), 2);
}
