//! Closing.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use latchwork::semaphore::shared::{AcquireError, AcquireTimeoutError, TryAcquireError};

use crate::support::{HOUR, Place, until_waiting};

#[test]
fn closing_refuses_who_waits_in_another_attachment() {
    let place = Place::new();
    let (one, other) = (place.open(2), place.open(2));
    let held = one.acquire_many(2).unwrap();
    let (send, told) = mpsc::channel();
    let _pending = other.acquire_with(move |permit| send.send(permit).unwrap());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| other.acquire().map(drop));
        let timed = scope.spawn(|| other.acquire_timeout(HOUR).map(drop));
        let several = scope.spawn(|| other.acquire_many(2).map(drop));
        let leased = scope.spawn(|| other.acquire_leased(HOUR).map(drop));
        until_waiting(&one, 5);
        one.close();
        assert_eq!(waiter.join().unwrap(), Err(AcquireError::Closed));
        assert_eq!(timed.join().unwrap(), Err(AcquireTimeoutError::Closed));
        assert_eq!(several.join().unwrap(), Err(AcquireError::Closed));
        assert_eq!(leased.join().unwrap(), Err(AcquireError::Closed));
    });
    let refused = told.recv().unwrap().unwrap_err();
    assert_eq!(refused, AcquireError::Closed);
    assert_eq!(refused.to_string(), "the semaphore has been closed");
    // What runs finishes.
    assert_eq!((held.count(), other.current(), other.waiters()), (2, 2, 0));
    drop(held);
    assert_eq!(other.current(), 0);
}

#[test]
fn closed_is_for_all_and_for_good() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    assert!(!other.is_closed());
    one.close();
    one.close();
    drop(one);
    let third = place.open(1);
    for semaphore in [&other, &third] {
        assert!(semaphore.is_closed());
        assert_eq!(semaphore.acquire().unwrap_err(), AcquireError::Closed);
        let refused = semaphore.try_acquire().unwrap_err();
        assert_eq!(refused, TryAcquireError::Closed);
        let refused = semaphore.try_acquire_many(1).unwrap_err();
        assert_eq!(refused, TryAcquireError::Closed);
        let refused = semaphore.acquire_deadline(Instant::now()).unwrap_err();
        assert_eq!(refused, AcquireTimeoutError::Closed);
        let refused = semaphore.try_acquire_leased(HOUR).unwrap_err();
        assert_eq!(refused, TryAcquireError::Closed);
        let refused = semaphore.with_permit(|_| panic!("it is not run"));
        assert_eq!(refused, Err::<(), _>(AcquireError::Closed));
        let (send, told) = mpsc::channel();
        let _pending = semaphore.acquire_with(move |permit| send.send(permit).unwrap());
        assert_eq!(told.recv().unwrap().unwrap_err(), AcquireError::Closed);
        semaphore.set_max(1).unwrap();
        assert!(semaphore.is_closed());
    }
    // Too many is told before.
    assert_eq!(other.acquire_many(2).unwrap_err(), AcquireError::TooMany);
}
