//! Every way to ask for permits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::{AcquireError, AcquireTimeoutError, TryAcquireError};

use crate::support::{HOUR, Place, until_waiting};

#[test]
fn a_permit_is_taken_and_given_back_for_all_to_see() {
    let place = Place::new();
    let (one, other) = (place.open(2), place.open(2));
    let permit = one.acquire().unwrap();
    assert_eq!(permit.count(), 1);
    assert_eq!((other.current(), other.available(), other.max()), (1, 1, 2));
    drop(permit);
    assert_eq!((other.current(), other.available()), (0, 2));
}

#[test]
fn a_release_calls_who_waits_in_another_attachment() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    let held = one.acquire().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| other.acquire().map(|permit| permit.count()));
        until_waiting(&one, 1);
        drop(held);
        assert_eq!(waiter.join().unwrap(), Ok(1));
    });
    assert_eq!((one.current(), one.waiters()), (0, 0));
}

#[test]
fn try_acquire_waits_for_nothing() {
    let place = Place::new();
    let (one, other) = (place.open(3), place.open(3));
    let held = one.try_acquire_many(2).unwrap();
    assert_eq!(held.count(), 2);
    let last = other.try_acquire().unwrap();
    for semaphore in [&one, &other] {
        let refused = semaphore.try_acquire().unwrap_err();
        assert_eq!(refused, TryAcquireError::WouldBlock);
        assert_eq!(refused.to_string(), "no permit is free");
        let refused = semaphore.try_acquire_many(2).unwrap_err();
        assert_eq!(refused, TryAcquireError::WouldBlock);
    }
    drop(last);
    // One is free, and stays so.
    assert!(one.try_acquire_many(2).is_err());
    assert_eq!(one.available(), 1);
}

#[test]
fn a_zero_timeout_tries_once() {
    let place = Place::new();
    let (one, other) = (place.open(2), place.open(2));
    drop(one.acquire_timeout(Duration::ZERO).unwrap());
    drop(one.acquire_many_timeout(2, Duration::ZERO).unwrap());
    drop(one.acquire_leased_timeout(HOUR, Duration::ZERO).unwrap());
    let _held = other.acquire_many(2).unwrap();
    let timed_out = AcquireTimeoutError::TimedOut;
    let refused = one.acquire_timeout(Duration::ZERO).unwrap_err();
    assert_eq!(refused, timed_out);
    assert_eq!(refused.to_string(), "no permit came free in time");
    let refused = one.acquire_many_timeout(2, Duration::ZERO).unwrap_err();
    assert_eq!(refused, timed_out);
    let refused = one.acquire_leased_timeout(HOUR, Duration::ZERO);
    assert_eq!(refused.unwrap_err(), timed_out);
    assert_eq!(one.stats().timeouts, 3);
    assert_eq!((one.current(), one.waiters()), (2, 0));
}

#[test]
fn a_deadline_that_has_passed_tries_once() {
    let place = Place::new();
    let (one, other) = (place.open(2), place.open(2));
    let passed = Instant::now();
    drop(one.acquire_deadline(passed).unwrap());
    drop(one.acquire_many_deadline(2, passed).unwrap());
    let _held = other.acquire().unwrap();
    let timed_out = AcquireTimeoutError::TimedOut;
    let refused = one.acquire_many_deadline(2, passed).unwrap_err();
    assert_eq!(refused, timed_out);
    drop(one.acquire_deadline(passed).unwrap());
}

#[test]
fn a_timed_out_request_leaves_what_it_had_collected() {
    let place = Place::new();
    let (one, other) = (place.open(3), place.open(3));
    let _held = other.acquire().unwrap();
    let soon = Duration::from_millis(5);
    let refused = one.acquire_many_timeout(3, soon).unwrap_err();
    assert_eq!(refused, AcquireTimeoutError::TimedOut);
    assert_eq!((one.current(), one.waiters()), (1, 0));
    // Nor does it stand before others any more.
    assert_eq!(one.try_acquire_many(2).unwrap().count(), 2);
    drop(other.try_acquire().unwrap());
}

#[test]
fn a_timeout_beyond_the_end_of_time_is_none() {
    let place = Place::new();
    let semaphore = place.open(1);
    let held = semaphore.acquire_timeout(Duration::MAX).unwrap();
    thread::scope(|scope| {
        let one = scope.spawn(|| semaphore.acquire_timeout(Duration::MAX).map(drop));
        let many = scope.spawn(|| semaphore.acquire_many_timeout(1, Duration::MAX).map(drop));
        let leased = scope.spawn(|| {
            let lease = semaphore.acquire_leased_timeout(HOUR, Duration::MAX);
            lease.map(drop)
        });
        until_waiting(&semaphore, 3);
        drop(held);
        for waiter in [one, many, leased] {
            waiter.join().unwrap().unwrap();
        }
    });
}

#[test]
fn several_permits_come_as_one_guard() {
    let place = Place::new();
    let (one, other) = (place.open(4), place.open(4));
    let held = other.acquire_many(2).unwrap();
    let also = other.acquire().unwrap();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let permits = one.acquire_many(3).unwrap();
            (permits.count(), one.current())
        });
        until_waiting(&other, 1);
        drop(held);
        assert_eq!(waiter.join().unwrap(), (3, 4));
    });
    drop(also);
    assert_eq!(other.available(), 4);
}

#[test]
fn two_who_collect_do_not_hold_each_other_up() {
    let place = Place::new();
    let (one, other) = (place.open(4), place.open(4));
    let all = one.acquire_many(4).unwrap();
    thread::scope(|scope| {
        let waiters = [&one, &other, &one, &other]
            .map(|semaphore| scope.spawn(|| semaphore.acquire_many(3).map(drop)));
        until_waiting(&one, 4);
        drop(all);
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    });
    assert_eq!(one.available(), 4);
}

#[test]
fn no_permits_at_all_are_always_there() {
    let place = Place::new();
    let semaphore = place.open(1);
    let _held = semaphore.acquire().unwrap();
    assert_eq!(semaphore.acquire_many(0).unwrap().count(), 0);
    let none = semaphore.try_acquire_many(0).unwrap().into_owned();
    assert_eq!(none.detach().attach().count(), 0);
    assert_eq!(semaphore.current(), 1);
}

#[test]
fn more_than_the_ceiling_is_too_many() {
    let place = Place::new();
    let semaphore = place.open(2);
    let refused = semaphore.acquire_many(3).unwrap_err();
    assert_eq!(refused, AcquireError::TooMany);
    let said = refused.to_string();
    assert_eq!(said, "there can never be that many permits");
    let refused = semaphore.try_acquire_many(u32::MAX).unwrap_err();
    assert_eq!(refused, TryAcquireError::TooMany);
    assert_eq!(refused.to_string(), said);
    let refused = semaphore.acquire_many_timeout(3, HOUR).unwrap_err();
    assert_eq!(refused, AcquireTimeoutError::TooMany);
    assert_eq!(refused.to_string(), said);
    let refused = semaphore.acquire_many_deadline(3, Instant::now());
    assert_eq!(refused.unwrap_err(), AcquireTimeoutError::TooMany);
    let (send, told) = mpsc::channel();
    let pending = semaphore.acquire_many_with(3, move |outcome| send.send(outcome).unwrap());
    let refused = told.recv().unwrap().unwrap_err();
    assert_eq!(refused, AcquireError::TooMany);
    assert!(!pending.cancel());
    assert_eq!(semaphore.available(), 2);
}

#[test]
fn a_callback_gets_a_permit_that_is_free_and_one_that_comes() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    for waits in [false, true] {
        let held = waits.then(|| other.acquire().unwrap());
        let (send, told) = mpsc::channel();
        let pending = one.acquire_with(move |permit| send.send(permit).unwrap());
        assert_eq!(one.waiters(), u32::from(waits));
        assert_eq!(other.waiters(), u32::from(waits));
        drop(held);
        let permit = told.recv().unwrap().unwrap();
        assert_eq!((permit.count(), other.current()), (1, 1));
        assert_eq!(other.waiters(), 0);
        assert!(!pending.cancel());
        drop(permit);
        assert_eq!(other.current(), 0);
    }
}

#[test]
fn a_callback_gets_several_permits() {
    let place = Place::new();
    let (one, other) = (place.open(3), place.open(3));
    let held = other.acquire().unwrap();
    let (send, told) = mpsc::channel();
    let _pending = one.acquire_many_with(3, move |permits| send.send(permits).unwrap());
    drop(held);
    let permits = told.recv().unwrap().unwrap();
    assert_eq!((permits.count(), other.available()), (3, 0));
}

#[test]
fn a_cancelled_callback_is_not_called_and_takes_nothing() {
    let place = Place::new();
    let (one, other) = (place.open(2), place.open(2));
    let held = other.acquire().unwrap();
    let (send, told) = mpsc::channel::<()>();
    let dropped = send.clone();
    let pending = one.acquire_many_with(2, move |_| send.send(()).unwrap());
    assert!(pending.cancel());
    let pending = one.acquire_many_with(2, move |_| dropped.send(()).unwrap());
    drop(pending);
    drop(held);
    // Both closures are gone.
    assert!(told.recv().is_err());
    assert_eq!((one.available(), one.waiters()), (2, 0));
}

#[test]
fn a_panic_in_a_callback_gives_the_permit_back() {
    let place = Place::new();
    let semaphore = place.open(1);
    let _pending = semaphore.acquire_with(|permit| {
        let _permit = permit.unwrap();
        panic!("on purpose");
    });
    assert_eq!(semaphore.acquire().unwrap().count(), 1);
}

#[test]
fn with_permit_holds_one_meanwhile() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    let seen = one.with_permit(|permit| (permit.count(), other.current()));
    assert_eq!(seen, Ok((1, 1)));
    assert_eq!(other.current(), 0);
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _ = one.with_permit(|_| panic!("on purpose"));
    }));
    assert!(panic.is_err());
    assert_eq!(other.current(), 0);
}

#[test]
fn all_forms_of_leased_permits_are_given_back() {
    let place = Place::new();
    let (one, other) = (place.open(5), place.open(5));
    let (send, lease) = mpsc::channel();
    let pending = one.acquire_leased_with(HOUR, move |lease| send.send(lease).unwrap());
    assert!(pending.is_delivered());
    let leases = [
        one.acquire_leased(HOUR).unwrap(),
        one.try_acquire_leased(HOUR).unwrap(),
        one.acquire_leased_timeout(HOUR, HOUR).unwrap(),
        one.acquire_leased_deadline(HOUR, Instant::now() + HOUR)
            .unwrap(),
        lease.recv().unwrap().unwrap(),
    ];
    assert_eq!(other.available(), 0);
    let refused = other.try_acquire_leased(HOUR).unwrap_err();
    assert_eq!(refused, TryAcquireError::WouldBlock);
    let late = other.acquire_leased_deadline(HOUR, Instant::now());
    assert_eq!(late.unwrap_err(), AcquireTimeoutError::TimedOut);
    drop(leases);
    assert_eq!(other.available(), 5);
}

#[test]
fn never_more_permits_run_than_there_are() {
    const PERMITS: u32 = 3;
    let place = Place::new();
    let semaphores: [SharedSemaphore; 3] = std::array::from_fn(|_| place.open(PERMITS));
    let running = AtomicU32::new(0);
    let run = |count: u32| {
        let now = running.fetch_add(count, Ordering::SeqCst) + count;
        assert!(now <= PERMITS, "{now}");
        thread::yield_now();
        running.fetch_sub(count, Ordering::SeqCst);
    };
    thread::scope(|scope| {
        for i in 0..6 {
            let (semaphore, run) = (&semaphores[i % 3], &run);
            scope.spawn(move || {
                for round in 0..200 {
                    match (i + round) % 4 {
                        0 => {
                            let permits = semaphore.acquire_many(2).unwrap();
                            run(permits.count());
                        }
                        1 => {
                            if let Ok(permit) = semaphore.try_acquire() {
                                run(permit.count());
                            }
                        }
                        2 => {
                            let lease = semaphore.acquire_leased(HOUR).unwrap();
                            run(1);
                            drop(lease);
                        }
                        _ => {
                            let permit = semaphore.acquire().unwrap();
                            run(permit.count());
                        }
                    }
                }
            });
        }
    });
    assert_eq!((semaphores[0].current(), semaphores[0].waiters()), (0, 0));
}
