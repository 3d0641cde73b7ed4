//! What a latch table promises, on real threads.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use latchwork::holder;
use latchwork::latch::{Latch, LatchError, LatchTable, LatchTimeoutError, TryLatchError};

#[path = "support/seed.rs"]
mod seed;

/// Waits until `n` requests stand in line: the only way to see from outside that a thread waits.
fn until_waiting(table: &LatchTable<str>, n: usize) {
    while table.waiters() < n {
        thread::yield_now();
    }
}

#[test]
fn one_holder_at_a_time_for_each_key() {
    let table = LatchTable::<str>::new();
    let a = table.latch("a").unwrap();
    assert_eq!(table.try_latch("a").unwrap_err(), TryLatchError::WouldBlock);
    let b = table.try_latch("b").unwrap();
    assert_eq!(table.held(), 2);
    drop(a);
    drop(table.try_latch("a").unwrap());
    drop(b);
}

#[test]
fn nothing_is_left_of_a_key_that_nobody_wants() {
    let table = LatchTable::<str>::new();
    let held = table.latch("a").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            table
                .latch_timeout("a", Duration::from_millis(1))
                .map(drop)
                .unwrap_err()
        });
    });
    assert_eq!((table.held(), table.waiters()), (1, 0));
    drop(held);
    assert_eq!((table.held(), table.waiters()), (0, 0));
}

#[test]
fn increments_under_a_latch_lose_no_update() {
    const THREADS: u64 = 50;
    const ROUNDS: u64 = 1_000;
    let table = LatchTable::<str>::new();
    let counts = Mutex::new(HashMap::from([("a", 0_u64), ("b", 0)]));
    thread::scope(|scope| {
        for i in 0..THREADS {
            let (table, counts) = (&table, &counts);
            scope.spawn(move || {
                let key = if i % 2 == 0 { "a" } else { "b" };
                for _ in 0..ROUNDS {
                    let _held = table.latch(key).unwrap();
                    let before = counts.lock().unwrap()[key];
                    counts.lock().unwrap().insert(key, before + 1);
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    assert_eq!(
        (counts["a"], counts["b"]),
        (THREADS / 2 * ROUNDS, THREADS / 2 * ROUNDS)
    );
    assert_eq!((table.held(), table.waiters()), (0, 0));
}

#[test]
fn a_slow_key_does_not_delay_another_of_its_shard() {
    let table = LatchTable::<str>::builder().shards(1).build().unwrap();
    let slow = table.latch("slow").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| table.latch("slow").map(drop).unwrap());
        until_waiting(&table, 1);
        thread::scope(|scope| {
            scope.spawn(|| table.latch("fast").map(drop).unwrap());
        });
        drop(slow);
    });
}

#[test]
fn a_timed_out_caller_never_gets_the_latch() {
    let table = LatchTable::<str>::new();
    let held = table.latch("a").unwrap();
    thread::scope(|scope| {
        let late = scope.spawn(|| {
            table
                .latch_timeout("a", Duration::from_millis(1))
                .map(drop)
                .unwrap_err()
        });
        assert_eq!(late.join().unwrap(), LatchTimeoutError::TimedOut);
    });
    drop(held);
    assert_eq!(table.held(), 0);
    assert_eq!(table.stats().timeouts, 1);
}

#[test]
fn a_thread_that_holds_a_latch_gets_an_error_instead_of_a_deadlock() {
    let table = LatchTable::<str>::new();
    let held = table.latch("a").unwrap();
    assert_eq!(table.latch("a").unwrap_err(), LatchError::Reentrant);
    // Contended or not: the order of two keys is not for chance to decide.
    assert_eq!(table.latch("b").unwrap_err(), LatchError::Reentrant);
    assert_eq!(
        table.latch_many(["b", "c"]).unwrap_err(),
        LatchError::Reentrant
    );
    assert_eq!(
        table.latch_timeout("b", Duration::ZERO).unwrap_err(),
        LatchTimeoutError::Reentrant
    );
    assert!(table.try_latch("b").is_ok());
    let other = LatchTable::<str>::new();
    assert!(other.latch("a").is_ok());
    drop(held);
    assert!(table.latch("b").is_ok());
}

#[test]
fn keys_taken_together_count_once_each_and_go_together() {
    let table = LatchTable::<str>::new();
    let latches = table.latch_many(["b", "a", "b"]).unwrap();
    assert_eq!((latches.len(), table.held()), (2, 2));
    assert!(table.try_latch("a").is_err());
    drop(latches);
    assert_eq!(table.held(), 0);
    assert!(
        table
            .latch_many(std::iter::empty::<&str>())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn keys_that_are_not_all_free_are_not_taken_at_all() {
    let table = LatchTable::<str>::new();
    let held = table.latch("b").unwrap().detach();
    assert!(table.try_latch_many(["a", "b", "c"]).is_err());
    assert_eq!(
        table
            .latch_many_timeout(["a", "b", "c"], Duration::from_millis(1))
            .unwrap_err(),
        LatchTimeoutError::TimedOut
    );
    assert_eq!(table.held(), 1);
    drop(held);
}

#[test]
fn rings_of_overlapping_keys_do_not_deadlock() {
    let table = LatchTable::<u64>::new();
    let sums = Mutex::new([100_i64; 5]);
    thread::scope(|scope| {
        for i in 0..5_u64 {
            let (table, sums) = (&table, &sums);
            scope.spawn(move || {
                for round in 0..500 {
                    let (from, to) = (i, (i + 1 + round % 4) % 5);
                    let _both = table.latch_many([&from, &to]).unwrap();
                    let before = *sums.lock().unwrap();
                    let mut after = before;
                    after[from as usize] -= 1;
                    after[to as usize] += 1;
                    let mut sums = sums.lock().unwrap();
                    sums[from as usize] = after[from as usize];
                    sums[to as usize] = after[to as usize];
                }
            });
        }
    });
    assert_eq!(sums.into_inner().unwrap().iter().sum::<i64>(), 500);
}

#[test]
fn a_full_line_refuses_and_applies_nothing() {
    let table = LatchTable::<str>::builder().max_waiters(1).build().unwrap();
    let held = table.latch("a").unwrap().detach();
    thread::scope(|scope| {
        scope.spawn(|| table.latch("a").map(drop).unwrap());
        until_waiting(&table, 1);
        assert_eq!(table.latch("a").unwrap_err(), LatchError::Busy);
        let (send, refused) = mpsc::channel();
        let pending = table.latch_with("a", move |latch| send.send(latch.unwrap_err()).unwrap());
        assert_eq!(refused.recv().unwrap(), LatchError::Busy);
        drop(pending);
        drop(held);
    });
    assert_eq!(table.stats().busy, 2);
    assert_eq!(table.held(), 0);
}

#[test]
fn a_panicking_holder_releases_its_latch() {
    let table = LatchTable::<str>::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _held = table.latch("a").unwrap();
        panic!("the holder fails");
    }));
    assert!(panicked.is_err());
    assert_eq!(table.held(), 0);
}

#[test]
fn a_registered_waiter_is_called_outside_all_locks() {
    let table = LatchTable::<str>::builder().shards(1).build().unwrap();
    let held = table.latch("a").unwrap();
    let inside = table.clone();
    let (send, receive) = mpsc::channel();
    let pending = table.latch_with("a", move |latch| {
        drop(inside.try_latch("b").unwrap());
        drop(latch.unwrap());
        send.send(()).unwrap();
    });
    drop(held);
    receive.recv().unwrap();
    assert!(pending.is_delivered());
    assert_eq!(table.held(), 0);
}

#[test]
fn a_callback_gets_the_latches_of_all_keys_when_the_last_is_there() {
    let table = LatchTable::<str>::new();
    let (a, c) = (
        table.latch("a").unwrap().detach(),
        table.latch("c").unwrap(),
    );
    let (send, receive) = mpsc::channel();
    let pending = table.latch_many_with(["c", "a", "b", "a"], move |latches| {
        send.send(latches.unwrap()).unwrap();
    });
    drop(a);
    assert!(!pending.is_delivered());
    drop(c);
    assert!(pending.is_delivered());
    let latches = receive.recv().unwrap();
    assert_eq!((latches.len(), table.held()), (3, 3));
    assert!(table.try_latch_many(["x", "b"]).is_err());
    drop(latches);
    assert_eq!((table.held(), table.waiters()), (0, 0));
}

#[test]
fn a_callback_gets_latches_that_are_free_at_once() {
    let table = LatchTable::<u32>::new();
    let keys: Vec<u32> = (0..10_000).collect();
    for keys in [&keys[..], &[]] {
        let (send, receive) = mpsc::channel();
        let pending = table.latch_many_with(keys, move |latches| {
            send.send(latches.unwrap()).unwrap();
        });
        assert!(pending.is_delivered());
        let latches = receive.recv().unwrap();
        assert_eq!(
            (latches.len(), latches.is_empty()),
            (keys.len(), keys.is_empty())
        );
        drop(latches.attach());
        assert_eq!(table.held(), 0);
    }
}

#[test]
fn a_request_for_many_latches_that_is_dropped_holds_none_and_waits_for_none() {
    let table = LatchTable::<str>::new();
    let held = table.latch_many(["a", "b", "c"]).unwrap().into_owned();
    let witness = Arc::new(());
    let pending = table.latch_many_with(["d", "a", "b"], {
        let witness = Arc::clone(&witness);
        move |_| {
            let _witness = witness;
            unreachable!("it is cancelled");
        }
    });
    assert_eq!(table.waiters(), 1);
    assert!(pending.cancel());
    assert_eq!((table.held(), table.waiters()), (3, 0));
    assert_eq!(Arc::strong_count(&witness), 1);
    let held = held.detach().attach();
    assert_eq!((held.len(), held.is_empty()), (3, false));
    drop(held);
    assert_eq!(table.held(), 0);
}

#[test]
fn a_request_for_many_latches_that_is_refused_holds_none() {
    let table = LatchTable::<str>::builder().max_waiters(0).build().unwrap();
    let held = table.latch("b").unwrap();
    let (send, receive) = mpsc::channel();
    let pending = table.latch_many_with(["a", "b", "c"], move |latches| {
        send.send(latches.map(drop)).unwrap();
    });
    assert!(pending.is_delivered());
    assert_eq!(receive.recv().unwrap(), Err(LatchError::Busy));
    assert_eq!(table.held(), 1);
    drop(held);
}

#[test]
fn a_request_is_counted_once_wherever_it_waits() {
    let table = LatchTable::<str>::new();
    let held = table.latch("a").unwrap().detach();
    thread::scope(|scope| {
        scope.spawn(|| table.update("a", || ()).unwrap());
        until_waiting(&table, 1);
        // Puts the update, which was handed over to the holder, in line before it.
        let pending = table.latch_with("a", drop);
        assert_eq!(table.waiters(), 2);
        drop(pending);
        assert_eq!(table.waiters(), 1);
        drop(held);
    });
    assert_eq!((table.held(), table.waiters()), (0, 0));
}

#[test]
fn a_callback_that_a_finished_update_calls_finds_no_latch_held_by_its_thread() {
    let table = LatchTable::<str>::new();
    let (send, receive) = mpsc::channel();
    let inner = table.clone();
    let mut pending = None;
    table
        .update("a", || {
            pending = Some(table.latch_with("a", move |latch| {
                drop(latch);
                send.send(inner.update("b", || 7)).unwrap();
            }));
        })
        .unwrap();
    assert_eq!(receive.recv().unwrap(), Ok(7));
    assert!(pending.is_some_and(|pending| pending.is_delivered()));
}

#[test]
fn a_cancelled_registration_is_never_called() {
    let table = LatchTable::<str>::new();
    let held = table.latch("a").unwrap();
    let (send, receive) = mpsc::channel::<()>();
    drop(table.latch_with("a", move |_latch| drop(send)));
    assert_eq!(receive.recv(), Err(mpsc::RecvError));
    drop(held);
    assert_eq!((table.held(), table.waiters()), (0, 0));
}

#[test]
fn a_forgotten_latch_comes_back_when_its_thread_ends_and_goes_to_who_waits() {
    let (send, reports) = mpsc::channel();
    let table = LatchTable::<str>::builder()
        .name("keys")
        .on_leak(move |report| send.send(report).unwrap())
        .build()
        .unwrap();
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            std::mem::forget(table.latch("a").unwrap());
            ready.wait();
            until_waiting(&table, 1);
        });
        ready.wait();
        drop(table.latch("a").unwrap());
    });
    assert_eq!((table.held(), table.stats().leaked), (0, 1));
    let report = reports.recv().unwrap();
    assert_eq!((&*report.component, report.amount), ("keys", 1));
    assert!(report.acquired_at.file().ends_with("latch.rs"));
}

#[test]
fn a_late_guard_does_not_release_a_fresh_owners_latch() {
    thread_local! {
        static KEPT: std::cell::RefCell<Option<latchwork::latch::OwnedLatch>> =
            const { std::cell::RefCell::new(None) };
    }
    // The original removed a "dead" latch without comparing the owner.
    let table = LatchTable::<str>::new();
    holder::scope(|| KEPT.set(Some(table.latch("a").unwrap().detach().attach())));
    let fresh = table.latch("a").unwrap();
    drop(KEPT.take());
    assert!(table.try_latch("a").is_err());
    assert_eq!(table.sweep(), 0);
    drop(fresh);
    assert_eq!(table.held(), 0);
}

#[test]
fn a_leaked_latch_outlives_its_table() {
    thread::spawn(|| {
        let table = LatchTable::<str>::new();
        std::mem::forget(table.latch("a").unwrap());
        drop(table);
    })
    .join()
    .unwrap();
}

#[test]
fn a_detached_latch_moves_to_another_thread() {
    let table = LatchTable::<str>::new();
    let latch = table.latch("a").unwrap().detach();
    assert_eq!(table.held(), 1);
    thread::spawn(move || drop(latch.attach().detach()))
        .join()
        .unwrap();
    assert_eq!(table.held(), 0);
}

#[test]
fn an_owned_latch_needs_no_handle_and_comes_back_when_it_is_leaked() {
    let table = LatchTable::<str>::new();
    let lent = table.clone();
    thread::spawn(move || {
        let latch = lent.latch("a").unwrap().into_owned();
        assert_eq!(lent.latch("b").unwrap_err(), LatchError::Reentrant);
        assert_eq!(lent.held(), 1);
        drop(lent);
        std::mem::forget(latch);
    })
    .join()
    .unwrap();
    assert_eq!((table.held(), table.stats().leaked), (0, 1));
}

#[test]
fn newcomers_do_not_pass_a_waiter_for_ever() {
    // The original let newcomers barge past the queue for as long as they came.
    let table = LatchTable::<str>::new();
    let (stop, stopped) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn({
            let table = &table;
            move || {
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    drop(table.latch("a").unwrap());
                }
            }
        });
        for _ in 0..20 {
            drop(table.latch("a").unwrap());
        }
        drop(stop);
    });
}

#[test]
fn errors_say_what_to_do_next() {
    let table = LatchTable::<str>::new();
    let _held = table.latch("a").unwrap();
    let error = table.latch("b").unwrap_err().to_string();
    assert!(error.contains("latch_many"), "{error}");
}

#[test]
fn thousands_of_latches_of_one_thread_come_and_go_in_any_order_and_come_back() {
    let table = LatchTable::<u64>::new();
    let leaky = table.clone();
    thread::spawn(move || {
        for round in 0..3 {
            let mut held: Vec<_> = (0..2000).map(|i| leaky.try_latch(&i).unwrap()).collect();
            // Every third goes, from the middle outwards; others take the places.
            let mut kept = Vec::new();
            for (i, latch) in held.drain(..).enumerate() {
                if i % 3 != round {
                    kept.push(latch);
                }
            }
            let more: Vec<_> = (0..2000).filter_map(|i| leaky.try_latch(&i).ok()).collect();
            assert_eq!(kept.len() + more.len(), 2000);
            assert_eq!(leaky.held(), 2000);
            assert_eq!(leaky.latch(&9999).unwrap_err(), LatchError::Reentrant);
            drop(kept);
            drop(more);
            assert_eq!(leaky.held(), 0);
            drop(leaky.latch(&9999).unwrap());
        }
        std::mem::forget((0..2000).map(|i| leaky.try_latch(&i)).collect::<Vec<_>>());
    })
    .join()
    .unwrap();
    assert_eq!((table.held(), table.stats().leaked), (0, 2000));
}

/// What a random thread does: it takes latches of two tables, gives them back in any order or leaks
/// them, some inside a scope, and always knows whether a wait on either table would be for itself.
fn take_and_release(tables: &[LatchTable<u64>; 2], rng: &mut fastrand::Rng) -> u64 {
    fn check(tables: &[LatchTable<u64>; 2], held: &[Vec<Latch<'_>>; 2], leaked: [u64; 2]) {
        for ((table, held), leaked) in tables.iter().zip(held).zip(leaked) {
            let waits = table.latch(&u64::MAX).map(drop);
            let expected = match held.len() as u64 + leaked {
                0 => Ok(()),
                _ => Err(LatchError::Reentrant),
            };
            assert_eq!(waits, expected);
        }
    }

    let mut held: [Vec<Latch<'_>>; 2] = [Vec::new(), Vec::new()];
    let (mut leaked, mut reclaimed, mut key) = ([0; 2], 0, 0);
    // Few at once, mostly; sometimes more than two blocks of the claim list have.
    let most = if rng.u8(..4) == 0 { 150 } else { 4 };
    for _ in 0..1_000 {
        let which = rng.usize(..2);
        match rng.u8(..16) {
            0..7 if held[which].len() < most => {
                key += 1;
                held[which].push(tables[which].try_latch(&key).unwrap());
            }
            7..14 if !held[which].is_empty() => {
                let at = rng.usize(..held[which].len());
                drop(held[which].swap_remove(at));
            }
            14 if rng.u8(..8) == 0 => {
                key += 1;
                std::mem::forget(tables[which].try_latch(&key).unwrap());
                leaked[which] += 1;
            }
            15 if rng.u8(..4) == 0 => {
                let count = rng.u64(..80);
                let keys = key + 1..=key + count;
                key += count;
                reclaimed += count;
                let table = tables[which].clone();
                holder::scope(move || {
                    let held: Vec<_> = keys.map(|key| table.try_latch(&key).unwrap()).collect();
                    std::mem::forget(held);
                });
            }
            _ => {}
        }
        check(tables, &held, leaked);
    }
    reclaimed + leaked[0] + leaked[1]
}

#[test]
fn a_thread_knows_what_it_holds_whatever_it_took_and_released_before() {
    let mut rng = fastrand::Rng::with_seed(seed::announced());
    for _ in 0..20 {
        let tables = [LatchTable::new(), LatchTable::new()];
        // One thread after the other: each gets the claim list of the one before.
        let mut rng = rng.fork();
        let lent = tables.clone();
        let leaked = thread::spawn(move || take_and_release(&lent, &mut rng)).join();
        let counted: u64 = tables.iter().map(|table| table.stats().leaked).sum();
        assert_eq!(counted, leaked.unwrap());
        assert_eq!((tables[0].held(), tables[1].held()), (0, 0));
    }
}
