//! What a semaphore promises, on real threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use latchwork::holder;
use latchwork::semaphore::{
    AcquireError, AcquireTimeoutError, BuildError, Fairness, Semaphore, TryAcquireError,
};

const MOST: u64 = (1 << 48) - 1;

/// Waits until `n` requests stand in line: the only way to see from outside that a thread waits.
fn until_waiting(semaphore: &Semaphore, n: usize) {
    while semaphore.waiters() < n {
        thread::yield_now();
    }
}

#[test]
fn a_permit_comes_back_when_its_guard_is_dropped() {
    let semaphore = Semaphore::new(2).unwrap();
    let permit = semaphore.acquire().unwrap();
    assert_eq!((semaphore.current(), semaphore.available()), (1, 1));
    drop(permit);
    assert_eq!((semaphore.current(), semaphore.available()), (0, 2));
}

#[test]
fn a_permit_comes_back_when_its_holder_panics() {
    let semaphore = Semaphore::new(1).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _permit = semaphore.acquire().unwrap();
        panic!("the holder fails");
    }));
    assert!(panicked.is_err());
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn no_permits_and_too_many_are_errors() {
    assert!(matches!(Semaphore::new(0), Err(BuildError::Permits(_))));
    assert!(Semaphore::new(MOST + 1).is_err());
    let semaphore = Semaphore::builder("s")
        .permits(4)
        .max_permits(8)
        .build()
        .unwrap();
    assert!(semaphore.set_max(0).is_err());
    assert!(semaphore.set_max(9).is_err());
    assert!(semaphore.set_max(8).is_ok());
    assert_eq!(
        semaphore.acquire_many(9).unwrap_err(),
        AcquireError::TooMany
    );
    assert_eq!(
        semaphore.try_acquire_many(9).unwrap_err(),
        TryAcquireError::TooMany
    );
    assert!(
        Semaphore::builder("s")
            .permits(9)
            .max_permits(8)
            .build()
            .is_err()
    );
}

#[test]
fn byte_budgets_up_to_2_to_the_48_work() {
    let semaphore = Semaphore::new(MOST).unwrap();
    let all = semaphore.acquire_many(MOST).unwrap();
    assert_eq!(semaphore.available(), 0);
    assert_eq!(
        semaphore.try_acquire().unwrap_err(),
        TryAcquireError::WouldBlock
    );
    drop(all);
    assert_eq!(semaphore.available(), MOST);
}

#[test]
fn a_zero_timeout_tries_once() {
    let semaphore = Semaphore::new(1).unwrap();
    let held = semaphore.acquire_timeout(Duration::ZERO).unwrap();
    assert_eq!(
        semaphore.acquire_timeout(Duration::ZERO).unwrap_err(),
        AcquireTimeoutError::TimedOut
    );
    assert_eq!(semaphore.stats().timeouts, 1);
    drop(held);
}

#[test]
fn a_timeout_beyond_the_end_of_time_is_none() {
    let semaphore = Semaphore::new(1).unwrap();
    let held = semaphore.acquire().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| semaphore.acquire_timeout(Duration::MAX).map(drop).unwrap());
        until_waiting(&semaphore, 1);
        drop(held);
    });
}

#[test]
fn a_timed_out_wait_leaves_nothing_in_line() {
    let semaphore = Semaphore::new(1).unwrap();
    let held = semaphore.acquire().unwrap();
    let late = Instant::now() + Duration::from_millis(1);
    assert_eq!(
        semaphore.acquire_deadline(late).unwrap_err(),
        AcquireTimeoutError::TimedOut
    );
    assert!(Instant::now() >= late);
    assert_eq!(semaphore.waiters(), 0);
    drop(held);
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn fifo_serves_waiters_in_the_order_they_came() {
    let semaphore = Semaphore::builder("fifo")
        .fairness(Fairness::Fifo)
        .build()
        .unwrap();
    let (send, order) = mpsc::channel();
    let held = semaphore.acquire().unwrap();
    thread::scope(|scope| {
        for i in 0..5 {
            let (semaphore, send) = (&semaphore, send.clone());
            scope.spawn(move || {
                let _permit = semaphore.acquire().unwrap();
                send.send(i).unwrap();
            });
            until_waiting(semaphore, i + 1);
        }
        drop(held);
    });
    drop(send);
    assert_eq!(order.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn try_acquire_does_not_pass_a_fifo_line() {
    let semaphore = Semaphore::builder("fifo")
        .permits(2)
        .fairness(Fairness::Fifo)
        .build()
        .unwrap();
    let one = semaphore.acquire().unwrap();
    thread::scope(|scope| {
        let both = scope.spawn(|| semaphore.acquire_many(2).map(drop).unwrap());
        until_waiting(&semaphore, 1);
        assert_eq!(
            semaphore.try_acquire().unwrap_err(),
            TryAcquireError::WouldBlock
        );
        drop(one);
        both.join().unwrap();
    });
}

#[test]
fn a_request_above_max_waits_aside_and_blocks_nobody() {
    let semaphore = Semaphore::builder("s")
        .permits(2)
        .fairness(Fairness::Fifo)
        .build()
        .unwrap();
    thread::scope(|scope| {
        let three = scope.spawn(|| semaphore.acquire_many(3).map(drop).unwrap());
        until_waiting(&semaphore, 1);
        drop(semaphore.acquire_many(2).unwrap());
        drop(semaphore.try_acquire().unwrap());
        semaphore.set_max(3).unwrap();
        three.join().unwrap();
    });
    assert_eq!(semaphore.available(), 3);
}

#[test]
fn a_parked_request_keeps_its_age() {
    let semaphore = Semaphore::builder("s")
        .permits(3)
        .fairness(Fairness::Fifo)
        .build()
        .unwrap();
    let (send, order) = mpsc::channel();
    let held = semaphore.acquire_many(3).unwrap();
    thread::scope(|scope| {
        for (i, wanted) in [3, 1].into_iter().enumerate() {
            let (semaphore, send) = (&semaphore, send.clone());
            scope.spawn(move || {
                let permit = semaphore.acquire_many(wanted).unwrap();
                send.send(permit.count()).unwrap();
            });
            until_waiting(semaphore, i + 1);
        }
        semaphore.set_max(2).unwrap(); // parks the older request
        semaphore.set_max(3).unwrap(); // and back, in front of the younger
        drop(held);
    });
    drop(send);
    assert_eq!(order.iter().collect::<Vec<_>>(), [3, 1]);
}

#[test]
fn a_cut_leaves_running_permits_and_holds_back_new_ones() {
    let semaphore = Semaphore::new(4).unwrap();
    let mut four = semaphore.acquire_many(4).unwrap();
    semaphore.set_max(2).unwrap();
    assert_eq!((semaphore.current(), semaphore.available()), (4, 0));
    drop(four.split(2));
    assert_eq!((semaphore.current(), semaphore.available()), (2, 0));
    assert!(semaphore.try_acquire().is_err());
    drop(four);
    assert_eq!((semaphore.current(), semaphore.available()), (0, 2));
}

#[test]
fn a_waiter_that_gives_up_feeds_those_behind_it() {
    let semaphore = Semaphore::builder("s")
        .permits(3)
        .fairness(Fairness::Fifo)
        .build()
        .unwrap();
    let held = semaphore.acquire().unwrap();
    let (send, _receive) = mpsc::channel();
    let three = semaphore.acquire_many_with(3, move |permit| send.send(permit).unwrap());
    thread::scope(|scope| {
        // Two permits are free, but go to the head of the line.
        let behind: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| semaphore.acquire().map(drop).unwrap()))
            .collect();
        until_waiting(&semaphore, 3);
        drop(three);
        for thread in behind {
            thread.join().unwrap();
        }
    });
    drop(held);
    assert_eq!(semaphore.available(), 3);
}

#[test]
fn closing_refuses_every_waiter_and_lets_running_permits_finish() {
    let semaphore = Semaphore::new(2).unwrap();
    let held = semaphore.acquire_many(2).unwrap();
    let (send, refused) = mpsc::channel();
    let pending = semaphore.acquire_with(move |permit| send.send(permit.unwrap_err()).unwrap());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| semaphore.acquire().map(drop).unwrap_err());
        let parked = scope.spawn(|| semaphore.acquire_many(5).map(drop).unwrap_err());
        until_waiting(&semaphore, 3);
        semaphore.close();
        assert_eq!(waiting.join().unwrap(), AcquireError::Closed);
        assert_eq!(parked.join().unwrap(), AcquireError::Closed);
    });
    assert_eq!(refused.recv().unwrap(), AcquireError::Closed);
    assert!(pending.is_delivered());
    assert_eq!(semaphore.acquire().unwrap_err(), AcquireError::Closed);
    assert_eq!(
        semaphore.try_acquire().unwrap_err(),
        TryAcquireError::Closed
    );
    drop(held);
    assert_eq!(semaphore.available(), 2);
}

#[test]
fn two_permits_of_one_thread_are_two_permits() {
    // The seed kept one slot a process: the second acquire overwrote the first's.
    let semaphore = Semaphore::new(2).unwrap();
    let (one, two) = (semaphore.acquire().unwrap(), semaphore.acquire().unwrap());
    drop(one);
    assert_eq!(semaphore.current(), 1);
    drop(two);
    assert_eq!(semaphore.current(), 0);
}

#[test]
fn a_thread_can_hold_more_permits_than_a_block_of_its_claim_list() {
    let semaphore = Semaphore::new(1000).unwrap();
    let permits: Vec<_> = (0..1000).map(|_| semaphore.acquire().unwrap()).collect();
    assert_eq!(semaphore.available(), 0);
    for (i, permit) in permits.into_iter().enumerate() {
        drop(permit);
        assert_eq!(semaphore.available(), i as u64 + 1);
    }
}

#[test]
fn current_never_exceeds_max_for_an_instant() {
    // The seed counted up first and took the refused try back after.
    let semaphore = Semaphore::new(1).unwrap();
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    drop(semaphore.try_acquire());
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        while done.load(Ordering::Relaxed) < 2 {
            assert!(semaphore.current() <= 1);
        }
    });
}

#[test]
fn current_and_max_are_read_as_of_one_moment() {
    let semaphore = Semaphore::new(8).unwrap();
    let _held = semaphore.acquire_many(3).unwrap();
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..20_000 {
                semaphore.set_max(4 + i % 5).unwrap();
            }
            done.store(1, Ordering::Relaxed);
        });
        while done.load(Ordering::Relaxed) == 0 {
            assert_eq!(semaphore.current(), 3);
        }
    });
}

#[test]
fn never_more_permits_run_than_there_are() {
    const THREADS: usize = 8;
    for fairness in [Fairness::Eventual, Fairness::Fifo] {
        let semaphore = Semaphore::builder("s")
            .permits(3)
            .fairness(fairness)
            .build()
            .unwrap();
        let running = AtomicU64::new(0);
        thread::scope(|scope| {
            for i in 0..THREADS as u64 {
                let (semaphore, running) = (&semaphore, &running);
                scope.spawn(move || {
                    let n = 1 + i % 3;
                    for _ in 0..2_000 {
                        let _permit = semaphore.acquire_many(n).unwrap();
                        let now = running.fetch_add(n, Ordering::Relaxed) + n;
                        assert!(now <= 3, "{now} permits run");
                        running.fetch_sub(n, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!((semaphore.available(), semaphore.waiters()), (3, 0));
    }
}

#[test]
fn splitting_and_merging_conserve_permits() {
    let semaphore = Semaphore::new(10).unwrap();
    let mut permit = semaphore.acquire_many(7).unwrap();
    let part = permit.split(3).unwrap();
    assert_eq!((permit.count(), part.count()), (4, 3));
    assert!(permit.split(5).is_none());
    permit.merge(part);
    assert_eq!((permit.count(), semaphore.available()), (7, 3));
    let nothing = permit.split(0).unwrap();
    assert_eq!(nothing.count(), 0);
    let all = permit.split(7).unwrap();
    assert_eq!((permit.count(), all.count()), (0, 7));
    permit.merge(all);
    assert_eq!(permit.count(), 7);
    drop(permit);
    assert_eq!(semaphore.available(), 10);
}

#[test]
fn no_permits_at_all_are_always_there_and_outlive_everything() {
    // An empty message under a byte budget. Leaked, it must not keep or touch the semaphore.
    let semaphore = Semaphore::new(1).unwrap();
    let held = semaphore.acquire().unwrap();
    thread::spawn(|| {
        let other = Semaphore::new(1).unwrap();
        std::mem::forget(other.acquire_many(0).unwrap());
        let mut one = other.acquire().unwrap();
        drop(one.split(1));
        std::mem::forget(one);
    })
    .join()
    .unwrap();
    let nothing = semaphore.acquire_many(0).unwrap();
    assert_eq!((nothing.count(), semaphore.current()), (0, 1));
    drop(nothing.detach().attach());
    drop(held);
    let all = semaphore.acquire().unwrap();
    semaphore.set_max(2).unwrap();
    let more = semaphore.acquire().unwrap();
    semaphore.set_max(1).unwrap(); // one permit is owed
    drop(semaphore.try_acquire_many(0).unwrap());
    drop(semaphore.acquire_many(0).unwrap());
    drop((all, more));
}

#[test]
#[should_panic(expected = "permits of two semaphores cannot be merged")]
fn permits_of_two_semaphores_do_not_merge() {
    let (a, b) = (Semaphore::new(1).unwrap(), Semaphore::new(1).unwrap());
    let (mut one, other) = (a.acquire().unwrap(), b.acquire().unwrap());
    one.merge(other);
}

#[test]
fn forgotten_permits_lower_the_capacity() {
    let semaphore = Semaphore::new(8).unwrap();
    semaphore.acquire_many(3).unwrap().forget();
    assert_eq!(
        (semaphore.max(), semaphore.current(), semaphore.available()),
        (5, 0, 5)
    );
}

#[test]
fn forgotten_permits_pay_what_a_cut_is_owed_first() {
    let semaphore = Semaphore::new(8).unwrap();
    let mut eight = semaphore.acquire_many(8).unwrap();
    semaphore.set_max(1).unwrap();
    eight.split(7).unwrap().forget();
    assert_eq!((semaphore.max(), semaphore.current()), (1, 1));
    eight.forget();
    assert_eq!((semaphore.max(), semaphore.current()), (0, 0));
    semaphore.set_max(2).unwrap();
    assert_eq!(semaphore.available(), 2);
}

#[test]
fn a_detached_permit_moves_to_another_thread() {
    let semaphore = Semaphore::new(1).unwrap();
    let permit = semaphore.acquire().unwrap().detach();
    thread::spawn(move || drop(permit)).join().unwrap();
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn an_owned_permit_outlives_every_handle() {
    let semaphore = Semaphore::new(1).unwrap();
    let permit = semaphore.acquire().unwrap().into_owned();
    drop(semaphore);
    assert_eq!(permit.count(), 1);
}

#[test]
fn a_registered_waiter_is_called_outside_all_locks() {
    let semaphore = Semaphore::new(1).unwrap();
    let held = semaphore.acquire().unwrap();
    let (send, receive) = mpsc::channel();
    let inside = semaphore.clone();
    let pending = semaphore.acquire_with(move |permit| {
        // Every one of these would deadlock under the queue's lock.
        drop(permit.unwrap());
        drop(inside.try_acquire().unwrap());
        inside.set_max(2).unwrap();
        send.send(()).unwrap();
    });
    drop(held);
    receive.recv().unwrap();
    assert!(pending.is_delivered());
    assert_eq!(semaphore.available(), 2);
}

#[test]
fn a_panic_in_a_callback_stays_in_it() {
    let semaphore = Semaphore::new(1).unwrap();
    let held = semaphore.acquire().unwrap();
    let pending = semaphore.acquire_with(|_permit| panic!("a callback fails"));
    drop(held);
    assert!(pending.is_delivered());
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn a_cancelled_registration_is_never_called_and_takes_nothing() {
    let semaphore = Semaphore::new(1).unwrap();
    let held = semaphore.acquire().unwrap();
    let (send, receive) = mpsc::channel::<()>();
    let pending = semaphore.acquire_with(move |_permit| drop(send));
    drop(pending);
    assert_eq!(semaphore.waiters(), 0);
    assert_eq!(receive.recv(), Err(mpsc::RecvError)); // the closure is gone, uncalled
    drop(held);
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn dropping_a_delivered_registration_changes_nothing() {
    let semaphore = Semaphore::new(1).unwrap();
    let (send, receive) = mpsc::channel();
    let pending = semaphore.acquire_with(move |permit| send.send(permit.unwrap()).unwrap());
    let permit = receive.recv().unwrap();
    drop(pending);
    assert_eq!(semaphore.available(), 0);
    drop(permit);
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn a_forgotten_permit_comes_back_when_its_thread_ends() {
    let semaphore = Semaphore::new(2).unwrap();
    let leaky = semaphore.clone();
    thread::spawn(move || std::mem::forget(leaky.acquire_many(2).unwrap()))
        .join()
        .unwrap();
    assert_eq!(semaphore.available(), 2);
    assert_eq!(semaphore.stats().leaked, 2);
}

#[test]
fn a_leaked_permit_wakes_a_blocked_thread_and_a_callback() {
    let semaphore = Semaphore::new(2).unwrap();
    let (send, receive) = mpsc::channel();
    let ready = Arc::new(Barrier::new(2));
    let (leaky, held) = (semaphore.clone(), ready.clone());
    let thread = thread::spawn(move || {
        std::mem::forget(leaky.acquire_many(2).unwrap());
        held.wait();
        until_waiting(&leaky, 2);
    });
    ready.wait();
    let pending = semaphore.acquire_with(move |permit| send.send(permit.unwrap()).unwrap());
    let mine = semaphore.acquire().unwrap();
    let theirs = receive.recv().unwrap();
    thread.join().unwrap();
    drop((mine, theirs, pending));
    assert_eq!(semaphore.available(), 2);
}

#[test]
fn a_guard_in_a_thread_local_is_dropped_and_not_reclaimed() {
    thread_local! {
        static KEPT: std::cell::RefCell<Option<latchwork::semaphore::OwnedPermit>> =
            const { std::cell::RefCell::new(None) };
    }
    let semaphore = Semaphore::new(1).unwrap();
    let inside = semaphore.clone();
    thread::spawn(move || {
        KEPT.set(Some(inside.acquire().unwrap().into_owned()));
    })
    .join()
    .unwrap();
    assert_eq!(semaphore.available(), 1);
    assert_eq!(semaphore.stats().leaked, 0);
}

#[test]
fn a_leaked_permit_outlives_its_semaphore() {
    thread::spawn(|| {
        let semaphore = Semaphore::new(1).unwrap();
        std::mem::forget(semaphore.acquire().unwrap());
        drop(semaphore);
    })
    .join()
    .unwrap();
}

#[test]
fn a_scope_reclaims_what_its_job_leaked_and_spares_what_was_there() {
    let semaphore = Semaphore::new(3).unwrap();
    let outside = semaphore.acquire().unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        holder::scope(|| {
            std::mem::forget(semaphore.acquire().unwrap());
            panic!("the job fails");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(semaphore.available(), 2);
    assert_eq!(outside.count(), 1);
}

#[test]
fn a_leak_comes_back_from_a_place_that_was_used_before() {
    // The list's account of its live slots shrank below a slot that was given out next.
    let semaphore = Semaphore::new(8).unwrap();
    let leaky = semaphore.clone();
    thread::spawn(move || {
        for _ in 0..5 {
            std::mem::forget(leaky.acquire().unwrap());
        }
        drop(leaky.acquire().unwrap());
        holder::scope(|| ());
        std::mem::forget(leaky.acquire().unwrap());
    })
    .join()
    .unwrap();
    assert_eq!(semaphore.available(), 8);
}

#[test]
fn a_guard_dropped_after_its_scope_was_reclaimed_changes_nothing() {
    thread_local! {
        static KEPT: std::cell::RefCell<Option<latchwork::semaphore::OwnedPermit>> =
            const { std::cell::RefCell::new(None) };
    }
    let semaphore = Semaphore::new(1).unwrap();
    holder::scope(|| KEPT.set(Some(semaphore.acquire().unwrap().into_owned())));
    assert_eq!(semaphore.available(), 1);
    let taken = semaphore.acquire().unwrap();
    let late = KEPT.take().unwrap();
    assert_eq!(late.count(), 0);
    drop(late);
    assert_eq!(semaphore.available(), 0);
    drop(taken);
}

#[test]
fn holders_say_who_where_and_how_many() {
    let semaphore = Semaphore::builder("s")
        .permits(5)
        .track_holders(true)
        .build()
        .unwrap();
    let mine = semaphore.acquire_many(2).unwrap();
    let line = line!() - 1;
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        thread::Builder::new()
            .name("other".into())
            .spawn_scoped(scope, || {
                let _permit = semaphore.acquire().unwrap();
                ready.wait();
                ready.wait();
            })
            .unwrap();
        ready.wait();
        let mut holders = semaphore.holders();
        holders.sort_by_key(|holder| holder.permits);
        assert_eq!(holders.len(), 2);
        assert_eq!(holders[0].thread.as_deref(), Some("other"));
        assert_eq!(holders[1].permits, 2);
        assert_eq!(holders[1].acquired_at.line(), line);
        ready.wait();
    });
    drop(mine);
    assert!(semaphore.holders().is_empty());
}

#[test]
fn errors_say_what_to_do_next() {
    let semaphore = Semaphore::builder("s").max_permits(2).build().unwrap();
    let error = semaphore.acquire_many(3).unwrap_err().to_string();
    assert!(error.contains("raise `max_permits`"), "{error}");
    let error = semaphore.set_max(0).unwrap_err().to_string();
    assert!(error.contains("at least 1"), "{error}");
}

#[test]
fn a_request_beyond_all_numbers_is_too_many_and_takes_nothing() {
    // Past 2^63 it compared as negative, was granted nothing, and its claim kept no core.
    let semaphore = Semaphore::new(2).unwrap();
    for n in [1 << 48, 1 << 60, 1 << 63, u64::MAX] {
        assert_eq!(
            semaphore.try_acquire_many(n).unwrap_err(),
            TryAcquireError::TooMany
        );
        assert_eq!(
            semaphore.acquire_many(n).unwrap_err(),
            AcquireError::TooMany
        );
    }
    assert_eq!((semaphore.current(), semaphore.available()), (0, 2));
}

#[test]
fn an_older_request_that_comes_back_and_a_half_served_one_do_not_starve_each_other() {
    let semaphore = Semaphore::builder("s")
        .permits(4)
        .fairness(Fairness::Fifo)
        .build()
        .unwrap();
    let held = semaphore.acquire().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| semaphore.acquire_many(10).map(drop).unwrap()); // parked
        until_waiting(&semaphore, 1);
        scope.spawn(|| semaphore.acquire_many(4).map(drop).unwrap()); // is handed 3
        until_waiting(&semaphore, 2);
        semaphore.set_max(10).unwrap(); // the older one is in front again
        drop(held);
    });
    assert_eq!((semaphore.available(), semaphore.waiters()), (10, 0));
}

#[test]
fn a_granted_thread_is_woken_before_any_callback_runs() {
    let semaphore = Semaphore::builder("s")
        .permits(2)
        .fairness(Fairness::Fifo)
        .build()
        .unwrap();
    let held = semaphore.acquire_many(2).unwrap();
    let (send, from_thread) = mpsc::channel();
    // Would wait for ever if the thread behind it slept on until it was over.
    let pending = semaphore.acquire_with(move |_permit| from_thread.recv().unwrap());
    thread::scope(|scope| {
        scope.spawn(|| {
            let _permit = semaphore.acquire().unwrap();
            send.send(()).unwrap();
        });
        until_waiting(&semaphore, 2);
        drop(held);
    });
    assert!(pending.is_delivered());
}

#[test]
fn a_callback_that_was_granted_and_not_begun_can_still_be_cancelled() {
    let semaphore = Semaphore::new(1).unwrap();
    let held = semaphore.acquire().unwrap();
    let (send, receive) = mpsc::channel::<()>();
    let second = Arc::new(std::sync::Mutex::new(None));
    let cancels = second.clone();
    let first = semaphore.acquire_with(move |permit| {
        drop(permit); // grants the second, which has to wait for this one's end
        drop(cancels.lock().unwrap().take());
    });
    let pending = semaphore.acquire_with(move |_permit| drop(send));
    *second.lock().unwrap() = Some(pending);
    drop(held);
    assert!(first.is_delivered());
    assert_eq!(receive.recv(), Err(mpsc::RecvError)); // the closure is gone, uncalled
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn a_panic_whose_payload_panics_harms_nobody_else() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the payload fails, too");
        }
    }
    let (send, reports) = mpsc::channel();
    let semaphore = Semaphore::builder("s")
        .on_leak(move |_report| {
            send.send(()).unwrap();
            std::panic::panic_any(Bomb);
        })
        .build()
        .unwrap();
    for _ in 0..2 {
        let leaky = semaphore.clone();
        thread::spawn(move || std::mem::forget(leaky.acquire().unwrap()))
            .join()
            .unwrap();
        reports.recv().unwrap(); // by the same thread, which lives
    }
    let held = semaphore.acquire().unwrap();
    let failing = semaphore.acquire_with(|_permit| std::panic::panic_any(Bomb));
    let (send, receive) = mpsc::channel();
    let next = semaphore.acquire_with(move |permit| send.send(permit.is_ok()).unwrap());
    drop(held);
    assert_eq!(receive.recv(), Ok(true));
    assert!(failing.is_delivered() && next.is_delivered());
}

#[test]
fn a_closed_semaphore_is_not_a_timeout() {
    let semaphore = Semaphore::new(1).unwrap();
    semaphore.close();
    assert_eq!(
        semaphore.acquire_timeout(Duration::ZERO).unwrap_err(),
        AcquireTimeoutError::Closed
    );
    assert_eq!(semaphore.stats().timeouts, 0);
}

#[test]
fn what_is_split_off_or_owned_has_been_held_since_it_was_acquired() {
    let semaphore = Semaphore::builder("s")
        .permits(2)
        .track_holders(true)
        .build()
        .unwrap();
    let mut permit = semaphore.acquire_many(2).unwrap();
    let held_for = |semaphore: &Semaphore| semaphore.holders()[0].held_for;
    while held_for(&semaphore).is_zero() {
        thread::yield_now();
    }
    let part = permit.split(1).unwrap();
    let owned = permit.into_owned();
    let holders = semaphore.holders();
    assert_eq!(holders.len(), 2);
    assert!(holders.iter().all(|holder| !holder.held_for.is_zero()));
    drop((part, owned));
}

#[test]
fn a_semaphore_and_its_guards_cross_catch_unwind() {
    let semaphore = Semaphore::new(1).unwrap();
    let permit = catch_unwind(|| semaphore.acquire().unwrap()).unwrap();
    assert!(catch_unwind(move || drop(permit)).is_ok());
    fn sync<T: Send + Sync + std::panic::UnwindSafe>() {}
    sync::<latchwork::Pending>();
    sync::<Semaphore>();
    sync::<latchwork::semaphore::SendPermit>();
    sync::<latchwork::LatchTable<str>>();
}
