//! The number of permits, changed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;

use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::TryAcquireError;

use crate::support::{Place, until_waiting};

fn roomy(place: &Place, permits: u32) -> SharedSemaphore {
    let builder = SharedSemaphore::builder(place.path()).permits(permits);
    builder.max_permits(8).open().unwrap()
}

#[test]
fn a_raise_serves_who_waits_in_another_attachment() {
    let place = Place::new();
    let (one, other) = (roomy(&place, 1), roomy(&place, 1));
    let held = one.acquire().unwrap();
    thread::scope(|scope| {
        let single = scope.spawn(|| other.acquire().map(|permit| permit.detach()));
        let several = scope.spawn(|| other.acquire_many(2).map(|permits| permits.detach()));
        until_waiting(&one, 2);
        one.set_max(4).unwrap();
        let permits = [single.join().unwrap(), several.join().unwrap()];
        assert_eq!((other.max(), other.current()), (4, 4));
        drop(permits);
    });
    drop(held);
    assert_eq!((one.available(), one.ceiling()), (4, 8));
}

#[test]
fn more_than_there_are_waits_until_they_are_raised() {
    let place = Place::new();
    let (one, other) = (roomy(&place, 2), roomy(&place, 2));
    let refused = one.try_acquire_many(5).unwrap_err();
    assert_eq!(refused, TryAcquireError::WouldBlock);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| one.acquire_many(5).map(|permits| permits.count()));
        until_waiting(&other, 1);
        // It blocks nobody meanwhile.
        drop(other.acquire_many(2).unwrap());
        other.set_max(5).unwrap();
        assert_eq!(waiter.join().unwrap(), Ok(5));
    });
    assert_eq!(one.available(), 5);
}

#[test]
fn no_permits_and_more_than_there_is_room_for_are_refused() {
    let place = Place::new();
    let semaphore = roomy(&place, 2);
    for permits in [0, 9, u32::MAX] {
        let refused = semaphore.set_max(permits).unwrap_err();
        assert_eq!(refused.requested, u64::from(permits));
        assert_eq!(refused.ceiling, 8);
    }
    assert_eq!(semaphore.max(), 2);
    for permits in [1, 8] {
        semaphore.set_max(permits).unwrap();
        assert_eq!(semaphore.available(), permits);
        assert_eq!(semaphore.acquire_many(permits).unwrap().count(), permits);
        assert!(semaphore.try_acquire_many(permits + 1).is_err());
    }
}

/// All orders of `n` things.
fn orders(n: usize) -> Vec<Vec<usize>> {
    let Some(last) = n.checked_sub(1) else {
        return vec![Vec::new()];
    };
    let shorter = orders(last).into_iter();
    let longer = shorter.flat_map(|order| {
        (0..n).map(move |place| {
            let mut order = order.clone();
            order.insert(place, last);
            order
        })
    });
    longer.collect()
}

#[test]
fn after_a_cut_nobody_starts_until_enough_have_ended() {
    let place = Place::new();
    let (one, other) = (roomy(&place, 4), roomy(&place, 4));
    for left in 1..4 {
        for order in orders(4) {
            one.set_max(4).unwrap();
            let mut held: Vec<_> = (0..4).map(|_| Some(one.acquire().unwrap())).collect();
            other.set_max(left).unwrap();
            assert_eq!((one.max(), one.current(), one.available()), (left, 4, 0));
            for (ended, index) in order.iter().enumerate() {
                let running = 4 - ended as u32;
                assert_eq!(one.current(), running, "{left} {order:?}");
                for semaphore in [&one, &other] {
                    let tried = semaphore.try_acquire();
                    assert_eq!(tried.is_ok(), running < left, "{running} {left} {order:?}");
                }
                held[*index] = None;
            }
            assert_eq!(one.try_acquire_many(left).unwrap().count(), left);
        }
    }
}

#[test]
fn who_waits_across_a_cut_starts_when_enough_have_ended() {
    let place = Place::new();
    let (one, other) = (roomy(&place, 4), roomy(&place, 4));
    for _ in 0..20 {
        one.set_max(4).unwrap();
        let held: Vec<_> = (0..4).map(|_| one.acquire().unwrap()).collect();
        let running = AtomicU32::new(4);
        thread::scope(|scope| {
            for semaphore in [&one, &other, &one, &other] {
                let running = &running;
                scope.spawn(move || {
                    let permit = semaphore.acquire().unwrap();
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(now <= 2, "{now} run");
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                });
            }
            until_waiting(&one, 4);
            other.set_max(2).unwrap();
            for permit in held {
                running.fetch_sub(1, Ordering::SeqCst);
                drop(permit);
            }
        });
        assert_eq!((one.current(), one.available()), (0, 2));
    }
}

#[test]
fn a_cut_and_a_raise_leave_running_permits_alone() {
    let place = Place::new();
    let (one, other) = (roomy(&place, 4), roomy(&place, 4));
    let held = one.acquire_many(4).unwrap();
    other.set_max(1).unwrap();
    other.set_max(6).unwrap();
    assert_eq!((held.count(), one.current(), one.available()), (4, 4, 2));
    let (send, told) = mpsc::channel();
    let _pending = other.acquire_many_with(2, move |permits| send.send(permits).unwrap());
    assert_eq!(told.recv().unwrap().unwrap().count(), 2);
    drop(held);
    assert_eq!(one.acquire_many(6).unwrap().count(), 6);
    assert_eq!(one.stats().lost, 0);
}
