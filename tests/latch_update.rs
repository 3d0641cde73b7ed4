//! Operations under a key's latch that others may run, as their users see them.
#![cfg(not(latchwork_loom))]

#[path = "support/watched.rs"]
mod watched;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use latchwork::LatchTable;
use latchwork::latch::{LatchError, LatchTimeoutError};
use latchwork::worker::TicketError;
use watched::Watched;

const A_WHILE: Duration = Duration::from_millis(20);

fn until_waiting(table: &LatchTable<str>, n: usize) {
    while table.waiters() < n {
        thread::yield_now();
    }
}

/// Waits until `n` requests are counted, and the thread of the last of them sleeps: it is counted
/// just before its operation can be found.
fn until_handed_over(table: &LatchTable<str>, n: usize, thread: &Watched) {
    until_waiting(table, n);
    thread.await_sleep();
}

/// An increment that loses others unless it is alone.
fn increment(number: &AtomicU64) {
    number.store(number.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

#[test]
fn fifty_threads_increments_are_all_there() {
    let table = LatchTable::<str>::new();
    let number = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    table.update("n", || increment(&number)).unwrap();
                }
            });
        }
    });
    assert_eq!(number.into_inner(), 50_000);
    assert_eq!((table.held(), table.waiters()), (0, 0));
}

#[test]
fn an_operation_in_line_is_run_by_the_thread_that_holds_the_latch() {
    let table = LatchTable::<str>::new();
    let begun = Barrier::new(2);
    let asking = Watched::current();
    thread::scope(|scope| {
        let holder = scope.spawn(|| {
            let operation = || {
                begun.wait();
                until_handed_over(&table, 1, &asking);
            };
            table.update("a", operation).unwrap();
            thread::current().id()
        });
        begun.wait();
        let ran_on = table.update("a", || thread::current().id()).unwrap();
        assert_eq!(ran_on, holder.join().unwrap());
    });
    let stats = table.stats();
    assert_eq!((stats.combined, stats.waits.count()), (1, 1));
    assert_eq!(stats.services.count(), 1);
}

#[test]
fn operations_in_line_are_run_oldest_first() {
    let table = LatchTable::<str>::new();
    let order = std::sync::Mutex::new(Vec::new());
    let held = table.latch("a").unwrap();
    thread::scope(|scope| {
        for i in 0..5 {
            let (table, order) = (&table, &order);
            let (tell, told) = mpsc::channel();
            scope.spawn(move || {
                tell.send(Watched::current()).unwrap();
                table.update("a", || order.lock().unwrap().push(i))
            });
            until_handed_over(table, i + 1, &told.recv().unwrap());
        }
        drop(held);
    });
    assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_panic_reaches_the_thread_that_asked_and_nobody_else() {
    let table = LatchTable::<str>::new();
    let held = table.latch("a").unwrap();
    thread::scope(|scope| {
        let unlucky = scope.spawn(|| {
            let update = || table.update("a", || panic!("mine"));
            let panic: Result<Result<(), _>, _> = catch_unwind(AssertUnwindSafe(update));
            *panic.unwrap_err().downcast::<&str>().unwrap()
        });
        until_waiting(&table, 1);
        let other = scope.spawn(|| table.update("a", || 7));
        until_waiting(&table, 2);
        drop(held);
        assert_eq!(unlucky.join().unwrap(), "mine");
        assert_eq!(other.join().unwrap(), Ok(7));
    });
    assert_eq!(table.held(), 0);
}

#[test]
fn inside_an_update_waiting_calls_are_refused_and_tries_allowed() {
    let table = LatchTable::<str>::new();
    let inside = || {
        assert_eq!(table.update("a", || ()), Err(LatchError::Reentrant));
        assert_eq!(table.update("b", || ()), Err(LatchError::Reentrant));
        assert_eq!(table.latch("b").unwrap_err(), LatchError::Reentrant);
        assert!(table.try_latch("a").is_err());
        assert!(table.try_latch("b").is_ok());
    };
    table.update("a", inside).unwrap();
    // The same where another thread runs it.
    let held = table.latch("a").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| table.update("a", || ()).unwrap());
        until_waiting(&table, 1);
        scope.spawn(|| table.update("a", inside).unwrap());
        until_waiting(&table, 2);
        drop(held);
    });
}

#[test]
fn an_update_whose_time_is_up_has_not_run_and_will_not() {
    let table = LatchTable::<str>::new();
    let ran = AtomicBool::new(false);
    let held = table.latch("a").unwrap();
    thread::scope(|scope| {
        let late = scope
            .spawn(|| table.update_timeout("a", A_WHILE, || ran.store(true, Ordering::Relaxed)));
        assert_eq!(late.join().unwrap(), Err(LatchTimeoutError::TimedOut));
    });
    drop(held);
    assert!(!ran.into_inner());
    assert_eq!((table.waiters(), table.stats().timeouts), (0, 1));
}

#[test]
fn a_full_line_refuses_an_update_and_applies_nothing() {
    let table = LatchTable::<str>::builder().max_waiters(1).build().unwrap();
    let held = table.latch("a").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| table.update("a", || ()).unwrap());
        until_waiting(&table, 1);
        let refused = scope.spawn(|| table.update("a", || unreachable!()));
        assert_eq!(refused.join().unwrap(), Err::<(), _>(LatchError::Busy));
        drop(held);
    });
    assert_eq!(table.stats().busy, 1);
}

#[test]
fn a_result_and_what_the_closure_captured_come_back_whole() {
    let table = LatchTable::<str>::new();
    let held = table.latch("a").unwrap();
    thread::scope(|scope| {
        let big = scope.spawn(|| {
            let text = String::from("captured");
            let mut sum = [0_u64; 64];
            let (len, sum) = table
                .update("a", || {
                    sum.iter_mut().zip(0..).for_each(|(cell, i)| *cell = i);
                    (text.len(), sum)
                })
                .unwrap();
            (len, sum.iter().sum::<u64>())
        });
        until_waiting(&table, 1);
        drop(held);
        assert_eq!(big.join().unwrap(), (8, 63 * 64 / 2));
    });
}

#[test]
fn a_submitted_operation_is_run_at_once_where_the_latch_is_free() {
    let table = LatchTable::<str>::new();
    let ticket = table.submit("a", || thread::current().id()).unwrap();
    assert!(ticket.is_done());
    assert_eq!(ticket.wait().unwrap(), thread::current().id());
}

#[test]
fn a_submitted_operation_behind_a_guard_is_run_by_the_tables_thread() {
    let table = LatchTable::<str>::new();
    let held = table.latch("a").unwrap();
    let name = || thread::current().name().map(str::to_owned);
    let tickets: Vec<_> = (0..10).map(|_| table.submit("a", name).unwrap()).collect();
    assert_eq!(table.waiters(), 10);
    drop(held);
    for ticket in tickets {
        assert_eq!(ticket.wait().unwrap().as_deref(), Some("lw-latch"));
    }
    // The thread releases after the last ticket.
    drop(table.latch("a").unwrap());
    assert_eq!((table.held(), table.waiters()), (0, 0));
}

#[test]
fn a_submitted_operations_panic_comes_as_a_value() {
    let table = LatchTable::<str>::new();
    let held = table.latch("a").unwrap();
    let ticket = table.submit("a", || panic!("its own")).unwrap();
    drop(held);
    let outcome: Result<(), _> = ticket.wait();
    match outcome.unwrap_err() {
        TicketError::Panicked(panic) => assert_eq!(panic.message(), "its own"),
        other => panic!("{other:?}"),
    }
    drop(table.latch("a").unwrap());
}

#[test]
fn a_cancelled_submission_leaves_the_line_and_a_dropped_ticket_does_not() {
    let table = LatchTable::<str>::new();
    let held = table.latch("a").unwrap();
    let cancelled = table.submit("a", || unreachable!("cancelled")).unwrap();
    let (send, receive) = mpsc::channel();
    drop(table.submit("a", move || send.send(()).unwrap()).unwrap());
    assert_eq!(table.waiters(), 2);
    assert!(cancelled.cancel());
    assert_eq!(table.waiters(), 1);
    drop(held);
    receive.recv().unwrap();
}

#[test]
fn the_hottest_keys_are_those_that_were_waited_for() {
    let table = LatchTable::<str>::new();
    // Time enough to get in line: who comes there later than that has not waited.
    let timeout = Duration::from_secs(1);
    let held = table.latch_many(["hot", "warm"]).unwrap();
    thread::scope(|scope| {
        for key in ["hot", "warm", "hot", "hot"] {
            scope.spawn(|| table.latch_timeout(key, timeout).unwrap_err());
        }
    });
    drop(held);
    drop(table.latch("cold").unwrap());
    let hottest = table.hottest();
    let waits: Vec<u64> = hottest.iter().map(|key| key.waits).collect();
    assert_eq!(waits, [3, 1]);
    assert!(table.is_hash_of(hottest[0].hash, "hot"));
    assert!(!table.is_hash_of(hottest[0].hash, "warm"));
}
