//! Models of the latch table.
#![cfg(latchwork_loom)]

use std::time::Duration;

use latchwork::LatchTable;
use latchwork::latch::{LatchTimeoutError, TryLatchError};
use latchwork::model::{Clock, chaos, model, thread};
use latchwork_loom_tests::Section;

/// Longer than newcomers may pass the oldest waiter.
const PAST_PATIENCE: Duration = Duration::from_millis(1);
/// Shorter than that.
const MOMENT: Duration = Duration::from_micros(100);

fn table() -> LatchTable<str> {
    LatchTable::builder().shards(1).build().unwrap()
}

/// Starts a thread of the model with a handle of its own.
fn spawn<T: 'static>(
    table: &LatchTable<str>,
    body: impl FnOnce(&LatchTable<str>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let table = table.clone();
    thread::spawn(move || body(&table))
}

/// Takes the latch of `key`, goes through the section, and releases it.
fn pass(table: &LatchTable<str>, key: &str, section: &Section) {
    let held = table.latch(key).unwrap();
    section.enter();
    drop(held);
}

/// Nothing is held, nobody waits, and every key that was used can be had.
#[track_caller]
fn assert_no_residue(table: &LatchTable<str>) {
    assert_eq!((table.held(), table.waiters()), (0, 0), "something is left");
    for key in ["a", "b"] {
        drop(table.try_latch(key).expect("a latch was lost"));
    }
}

/// Catches a latch that two threads hold, one whose release wakes nobody, and one that leaves an
/// entry behind.
#[test]
fn one_thread_at_a_time_holds_the_latch_of_a_key() {
    model(|| {
        let table = table();
        let section = Section::new();
        let other = spawn(&table, {
            let section = section.clone();
            move |table| pass(table, "a", &section)
        });
        pass(&table, "a", &section);
        other.join().unwrap();
        assert_eq!(section.entered(), 2);
        assert_no_residue(&table);
    });
}

/// Catches a hand-over that stops at the first in line.
#[test]
fn a_line_of_two_is_served_to_its_end() {
    model(|| {
        let table = table();
        let section = Section::new();
        let held = table.latch("a").unwrap();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let section = section.clone();
                spawn(&table, move |table| pass(table, "a", &section))
            })
            .collect();
        Clock::advance(PAST_PATIENCE);
        section.enter();
        drop(held);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(section.entered(), 3);
        assert_no_residue(&table);
    });
}

/// Catches a time-out that takes the latch which was handed over on its way, and says that it did
/// not.
#[test]
fn a_timed_out_latch_is_not_taken() {
    model(|| {
        let table = table();
        let section = Section::new();
        let held = table.latch("a").unwrap();
        let other = spawn(&table, {
            let section = section.clone();
            move |table| match table.latch_timeout("a", PAST_PATIENCE) {
                Ok(held) => {
                    section.enter();
                    drop(held);
                }
                Err(error) => assert_eq!(error, LatchTimeoutError::TimedOut),
            }
        });
        Clock::advance(PAST_PATIENCE);
        section.enter();
        drop(held);
        other.join().unwrap();
        assert_no_residue(&table);
    });
}

/// Catches a waiter who gives up just as the latch was offered to it, and takes the offer along.
#[test]
fn a_waiter_that_gives_up_passes_its_turn_on() {
    model(|| {
        let table = table();
        let held = table.latch("a").unwrap();
        let hasty = spawn(&table, |table| drop(table.latch_timeout("a", MOMENT)));
        let patient = spawn(&table, |table| drop(table.latch("a").unwrap()));
        Clock::advance(MOMENT);
        drop(held);
        hasty.join().unwrap();
        patient.join().unwrap();
        assert_no_residue(&table);
    });
}

/// Catches two threads that wait for each other because each takes the keys in its own order.
#[test]
fn several_keys_are_taken_in_one_order_by_everybody() {
    model(|| {
        let table = table();
        let section = Section::new();
        let other = spawn(&table, {
            let section = section.clone();
            move |table| {
                let both = table.latch_many(["b", "a"]).unwrap();
                section.enter();
                drop(both);
            }
        });
        let both = table.latch_many(["a", "b"]).unwrap();
        section.enter();
        drop(both);
        other.join().unwrap();
        assert_eq!(section.entered(), 2);
        assert_no_residue(&table);
    });
}

/// Catches a circle of threads each of which holds what the next one waits for.
#[test]
fn overlapping_sets_of_keys_make_no_circle() {
    model(|| {
        let table = table();
        let others: Vec<_> = [["b", "c"], ["c", "a"]]
            .into_iter()
            .map(|keys| spawn(&table, move |table| drop(table.latch_many(keys).unwrap())))
            .collect();
        drop(table.latch_many(["a", "b"]).unwrap());
        for other in others {
            other.join().unwrap();
        }
        assert_no_residue(&table);
    });
}

/// Catches a time-out at the second key that keeps the first.
#[test]
fn a_timed_out_latch_many_holds_none() {
    model(|| {
        let table = table();
        let held = table.latch("a").unwrap();
        let other = spawn(&table, |table| {
            match table.latch_many_timeout(["a", "b"], PAST_PATIENCE) {
                Ok(both) => assert_eq!(both.len(), 2),
                Err(error) => assert_eq!(error, LatchTimeoutError::TimedOut),
            }
        });
        Clock::advance(PAST_PATIENCE);
        drop(held);
        other.join().unwrap();
        assert_no_residue(&table);
    });
}

/// Catches a leaked latch that nobody in line is told of, or that is taken over without the
/// ordering of a release.
#[test]
fn a_leaked_latch_goes_to_the_next_in_line() {
    model(|| {
        let table = table();
        let section = Section::new();
        let leaker = spawn(&table, {
            let section = section.clone();
            move |table| {
                let held = table.latch("a").unwrap();
                section.enter();
                std::mem::forget(held);
            }
        });
        pass(&table, "a", &section);
        leaker.join().unwrap();
        assert_eq!((section.entered(), table.stats().leaked), (2, 1));
        assert_no_residue(&table);
    });
}

/// Catches a sweep that takes a latch from an owner whose thread lives.
#[test]
fn a_sweep_spares_the_living() {
    model(|| {
        let table = table();
        let section = Section::new();
        let held = table.latch("a").unwrap();
        let waiter = spawn(&table, {
            let section = section.clone();
            move |table| pass(table, "a", &section)
        });
        let sweeper = spawn(&table, LatchTable::sweep);
        thread::yield_now();
        section.enter();
        drop(held);
        waiter.join().unwrap();
        assert_eq!(sweeper.join().unwrap(), 0);
        assert_no_residue(&table);
    });
}

/// Catches a sweep that takes a latch which its thread has detached, before it ended, for somebody
/// else.
#[test]
fn a_sweep_spares_a_latch_that_outlives_its_thread() {
    model(|| {
        let table = table();
        let giver = spawn(&table, |table| table.latch("a").unwrap().detach());
        let pending = table.latch_with("a", drop);
        table.sweep();
        let given = giver.join().unwrap();
        // Before, or after.
        let before = pending.is_delivered();
        table.sweep();
        assert_eq!((pending.is_delivered(), table.stats().leaked), (before, 0));
        drop(given);
        assert!(pending.is_delivered());
        assert_no_residue(&table);
    });
}

/// Catches a callback whose latch is taken and which is then not called, and one that is called
/// after it was cancelled.
#[test]
fn a_callback_is_delivered_or_cancelled() {
    model(|| {
        let table = table();
        let section = Section::new();
        let held = table.latch("a").unwrap();
        let pending = table.latch_with("a", {
            let section = section.clone();
            move |latch| {
                section.enter();
                drop(latch.unwrap());
            }
        });
        let other = thread::spawn(move || {
            let delivered = pending.is_delivered();
            drop(pending);
            delivered
        });
        section.enter();
        drop(held);
        let delivered = other.join().unwrap();
        assert!(!delivered || section.entered() == 2);
        assert_no_residue(&table);
    });
}

/// Catches two requests each of which holds what the other waits for.
#[test]
fn requests_for_the_same_keys_make_no_circle() {
    model(|| {
        let table = table();
        let other = spawn(&table, |table| table.latch_many_with(["b", "a"], drop));
        let pending = table.latch_many_with(["a", "b"], drop);
        let others = other.join().unwrap();
        assert!(pending.is_delivered() && others.is_delivered());
        assert_no_residue(&table);
    });
}

/// Catches a request for several keys that is cancelled while it gets one of them, and waits for
/// the next all the same.
#[test]
fn a_cancelled_request_for_several_keys_leaves_every_line() {
    // Which of the two it asks for first is not told.
    for (released, kept) in [("a", "b"), ("b", "a")] {
        model(move || {
            let table = table();
            let first = table.latch(released).unwrap().detach();
            let second = table.latch(kept).unwrap();
            let pending = table.latch_many_with(["a", "b"], |_| unreachable!("one is held"));
            let other = thread::spawn(move || drop(first));
            drop(pending);
            other.join().unwrap();
            assert_eq!((table.held(), table.waiters()), (1, 0));
            drop(second);
            assert_no_residue(&table);
        });
    }
}

/// Catches a callback that stands behind somebody who gave up, and is forgotten there.
#[test]
fn a_callback_gets_the_turn_of_a_waiter_that_gave_up() {
    model(|| {
        let table = table();
        let section = Section::new();
        let held = table.latch("a").unwrap();
        let hasty = spawn(&table, |table| drop(table.latch_timeout("a", MOMENT)));
        let pending = table.latch_with("a", {
            let section = section.clone();
            move |latch| {
                section.enter();
                drop(latch.unwrap());
            }
        });
        Clock::advance(MOMENT);
        section.enter();
        drop(held);
        hasty.join().unwrap();
        assert!(pending.is_delivered());
        assert_eq!(section.entered(), 2);
        assert_no_residue(&table);
    });
}

/// Catches a sleeper that takes a wake-up without a reason for its latch.
#[test]
fn a_wake_up_without_a_reason_grants_nothing() {
    model(|| {
        let table = table();
        let section = Section::new();
        let held = table.latch("a").unwrap();
        let other = spawn(&table, {
            let section = section.clone();
            move |table| pass(table, "a", &section)
        });
        chaos();
        section.enter();
        drop(held);
        other.join().unwrap();
        assert_no_residue(&table);
    });
}

/// Catches a release that does not hand over to a waiter who has waited for long.
#[test]
fn nobody_passes_a_waiter_whose_patience_is_over() {
    model(|| {
        let table = table();
        let section = Section::new();
        let held = table.latch("a").unwrap();
        let other = spawn(&table, {
            let section = section.clone();
            move |table| pass(table, "a", &section)
        });
        thread::yield_now();
        let waits = table.waiters() == 1;
        Clock::advance(PAST_PATIENCE);
        drop(held);
        match table.try_latch("a") {
            // Comes after the waiter, and so sees what that did.
            Ok(_held) if waits => assert_eq!(section.entered(), 1, "a newcomer passed"),
            Ok(_held) => {}
            Err(error) => assert_eq!(error, TryLatchError::WouldBlock),
        }
        other.join().unwrap();
        assert_no_residue(&table);
    });
}

/// Catches newcomers that take a latch on offer for as long as they like.
#[test]
fn an_offer_is_closed_to_newcomers_when_patience_is_over() {
    model(|| {
        let table = table();
        let section = Section::new();
        let held = table.latch("a").unwrap();
        let other = spawn(&table, {
            let section = section.clone();
            move |table| pass(table, "a", &section)
        });
        thread::yield_now();
        drop(held);
        let waits = table.waiters() == 1;
        Clock::advance(PAST_PATIENCE);
        match table.try_latch("a") {
            // Comes after the waiter, and so sees what that did.
            Ok(_held) if waits => assert_eq!(section.entered(), 1, "a newcomer passed"),
            Ok(_held) => {}
            Err(error) => assert_eq!(error, TryLatchError::WouldBlock),
        }
        other.join().unwrap();
        assert_no_residue(&table);
    });
}

/// Catches a table that is freed with its last handle while a leaked latch still stands on it, and
/// one that is not freed at all.
#[test]
fn a_leaked_latch_keeps_the_table_that_it_returns_to() {
    model(|| {
        let table = table();
        let leaker = thread::spawn({
            let table = table.clone();
            move || {
                std::mem::forget(table.latch("a").unwrap());
                drop(table);
            }
        });
        drop(table);
        leaker.join().unwrap();
    });
}
