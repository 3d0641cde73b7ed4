//! Models of updates that whoever holds the latch runs for others.
#![cfg(latchwork_loom)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use latchwork::LatchTable;
use latchwork::latch::{LatchError, LatchTimeoutError};
use latchwork::model::{Clock, loom, model, thread};
use latchwork_loom_tests::Section;

/// Longer than one thread goes on with the operations of others.
const PAST_BUDGET: Duration = Duration::from_micros(200);
/// Shorter than that.
const MOMENT: Duration = Duration::from_micros(50);
/// Longer than any model.
const AGES: Duration = Duration::from_secs(1);

fn table() -> LatchTable<str> {
    LatchTable::builder().shards(1).build().unwrap()
}

/// A thread that goes through the section once, as an update.
fn updater(table: &LatchTable<str>, section: &Section) -> thread::JoinHandle<()> {
    let (table, section) = (table.clone(), section.clone());
    thread::spawn(move || table.update("a", || section.enter()).unwrap())
}

#[track_caller]
fn assert_no_residue(table: &LatchTable<str>) {
    assert_eq!((table.held(), table.waiters()), (0, 0), "something is left");
    drop(table.try_latch("a").expect("the latch was lost"));
}

/// Catches an update that is told that it is done before it is, one that is done and not told, and
/// a latch that goes from hand to hand without the ordering of a release.
#[test]
fn two_updates_of_a_key_are_both_done_one_after_the_other() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let other = updater(&table, &section);
        let seen = table.update("a", || {
            section.enter();
            section.entered()
        });
        assert!(matches!(seen, Ok(1 | 2)));
        other.join().unwrap();
        assert_eq!(section.entered(), 2);
        assert_no_residue(&table);
    });
}

/// Catches an update in line that the end of another one's work leaves there.
#[test]
fn a_line_of_updates_is_done_to_its_end() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let others = [updater(&table, &section), updater(&table, &section)];
        table.update("a", || section.enter()).unwrap();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(section.entered(), 3);
        assert_no_residue(&table);
    });
}

/// Catches a thread that was told to try for the latch, finds its operation taken to be run, and
/// goes to sleep over the news that it is done.
#[test]
fn an_update_that_was_called_and_came_too_late_hears_that_it_is_done() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let held = table.latch("a").unwrap();
        let other = thread::spawn({
            let (table, section) = (table.clone(), section.clone());
            // With a deadline it stands in line from the start.
            move || table.update_timeout("a", AGES, || section.enter()).unwrap()
        });
        section.enter();
        // Calls the other one.
        drop(held);
        // May do its work before it comes.
        table.update("a", || section.enter()).unwrap();
        other.join().unwrap();
        assert_eq!(section.entered(), 3);
        assert_no_residue(&table);
    });
}

/// Catches an operation that was handed over to a holder and is lost when another thread comes to
/// wait for the latch itself.
#[test]
fn what_was_handed_over_is_done_beside_one_who_wants_the_latch() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let other = updater(&table, &section);
        let holder = thread::spawn({
            let (table, section) = (table.clone(), section.clone());
            move || {
                let _held = table.latch("a").unwrap();
                section.enter();
            }
        });
        table.update("a", || section.enter()).unwrap();
        other.join().unwrap();
        holder.join().unwrap();
        assert_eq!(section.entered(), 3);
        assert_no_residue(&table);
    });
}

/// Catches an operation that was handed over to who releases without looking, and waits for ever.
#[test]
fn a_latch_that_is_dropped_leaves_no_operation_behind() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let held = table.latch("a").unwrap();
        let others = [updater(&table, &section), updater(&table, &section)];
        section.enter();
        drop(held);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(section.entered(), 3);
        assert_no_residue(&table);
    });
}

/// Catches a time-out that reports an operation as not done which somebody is doing.
#[test]
fn a_timed_out_update_has_not_been_done_and_will_not_be() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let hasty = thread::spawn({
            let (table, section) = (table.clone(), section.clone());
            move || table.update_timeout("a", MOMENT, || section.enter())
        });
        let clock = thread::spawn(|| Clock::advance(MOMENT));
        table.update("a", || section.enter()).unwrap();
        clock.join().unwrap();
        let done = match hasty.join().unwrap() {
            Ok(()) => 2,
            Err(error) => {
                assert_eq!(error, LatchTimeoutError::TimedOut);
                1
            }
        };
        assert_eq!(section.entered(), done);
        assert_no_residue(&table);
    });
}

/// Catches an operation that is begun although its deadline has passed.
#[test]
fn an_update_is_not_begun_after_its_deadline() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let hasty = thread::spawn({
            let (table, section) = (table.clone(), section.clone());
            move || {
                let begun = || {
                    section.enter();
                    Clock::now()
                };
                table.update_timeout("a", MOMENT, begun)
            }
        });
        let before = table.update("a", || {
            section.enter();
            thread::yield_now();
            let before = table.waiters();
            Clock::advance(MOMENT);
            before
        });
        // Who stood in line before the clock moved was late after that.
        if before == Ok(1) {
            assert!(hasty.join().unwrap().is_err(), "a late operation was begun");
        } else {
            let _ = hasty.join().unwrap();
        }
        assert_no_residue(&table);
    });
}

/// Catches a panic that ends in the thread which happened to run the operation, or that keeps the
/// latch.
#[test]
fn a_panic_reaches_the_thread_that_asked_and_the_line_goes_on() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let unlucky = thread::spawn({
            let table = table.clone();
            move || {
                let me = loom::thread::current().id();
                // Only where somebody else runs it: no thread of a model may take a step while
                // another one unwinds.
                let operation = || {
                    if loom::thread::current().id() != me {
                        resume_unwind(Box::new("mine"));
                    }
                };
                let panic = catch_unwind(AssertUnwindSafe(|| table.update("a", operation)));
                match panic {
                    Ok(done) => assert_eq!(done, Ok(())),
                    Err(panic) => assert_eq!(panic.downcast_ref(), Some(&"mine")),
                }
            }
        });
        let other = updater(&table, &section);
        table.update("a", || section.enter()).unwrap();
        unlucky.join().unwrap();
        other.join().unwrap();
        assert_eq!(section.entered(), 2);
        assert_no_residue(&table);
    });
}

/// Catches a thread that stops working for others and keeps the latch, or forgets the line.
#[test]
fn the_rest_of_the_line_goes_with_the_latch_when_the_time_is_up() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let other = updater(&table, &section);
        // The time runs from the first operation of others on: the second one uses it up.
        let tickets = [Duration::ZERO, PAST_BUDGET].map(|takes| {
            let section = section.clone();
            let slow = move || {
                section.enter();
                Clock::advance(takes);
            };
            table.submit("a", slow).unwrap()
        });
        table.update("a", || section.enter()).unwrap();
        for ticket in tickets {
            ticket.wait().expect("it was done");
        }
        other.join().unwrap();
        assert_eq!(section.entered(), 4);
        assert_no_residue(&table);
    });
}

/// Catches an operation run for another thread that waits for the table under the latch, for ever.
#[test]
fn inside_an_update_waiting_for_the_table_is_refused_whoever_runs_it() {
    model(|| {
        let table = table();
        let nested =
            |table: &LatchTable<str>| table.update("a", || table.latch("b").map(drop)).unwrap();
        let other = thread::spawn({
            let table = table.clone();
            move || nested(&table)
        });
        assert_eq!(nested(&table), Err(LatchError::Reentrant));
        assert_eq!(other.join().unwrap(), Err(LatchError::Reentrant));
        assert_no_residue(&table);
    });
}

/// Catches a submitted operation that whoever does the line's work drops, or runs twice.
#[test]
fn a_submitted_operation_is_done_once_by_whoever_holds_the_latch() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let other = updater(&table, &section);
        let inside = section.clone();
        let ticket = table.submit("a", move || inside.enter()).unwrap();
        ticket.wait().expect("it was done");
        other.join().unwrap();
        assert_eq!(section.entered(), 2);
        assert_no_residue(&table);
    });
}

/// Catches a submitted operation that is forgotten when its turn comes from a guard.
#[test]
fn a_submitted_operation_is_done_when_a_guard_is_dropped() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let holder = thread::spawn({
            let (table, section) = (table.clone(), section.clone());
            move || {
                let _held = table.latch("a").unwrap();
                section.enter();
            }
        });
        let inside = section.clone();
        let ticket = table.submit("a", move || inside.enter()).unwrap();
        ticket.wait().expect("it was done");
        holder.join().unwrap();
        assert_eq!(section.entered(), 2);
        assert_no_residue(&table);
    });
}

/// Catches a submitted operation that is done although it was cancelled.
#[test]
fn a_cancelled_operation_is_not_done() {
    model(|| {
        let (table, section) = (table(), Section::new());
        let held = table.latch("a").unwrap();
        let inside = section.clone();
        let ticket = table.submit("a", move || inside.enter()).unwrap();
        let other = thread::spawn(move || ticket.cancel());
        section.enter();
        drop(held);
        let done = if other.join().unwrap() { 1 } else { 2 };
        assert_eq!(section.entered(), done);
        assert_no_residue(&table);
    });
}

/// Catches an operation that is handed over to who holds another key of the same word, and waits
/// for it.
#[test]
fn who_holds_another_key_of_the_word_is_not_waited_for() {
    model(|| {
        let (table, section) = (table(), Section::new());
        // With one shard, these bits choose the word.
        let word = |key: &str| (table.hash_of(key) >> 24) % 8;
        let keys = [
            "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o",
        ];
        let neighbour = keys.into_iter().find(|key| word(key) == word("a"));
        let neighbour = neighbour.expect("a key of the same word");
        let held = table.latch("a").unwrap();
        let other = updater(&table, &section);
        drop(held);
        let _held = table.latch(neighbour).unwrap();
        other.join().unwrap();
        assert_eq!(section.entered(), 1);
    });
}

/// Catches an update that was handed over and takes the latch from an owner whose thread lives. The
/// clock moves once: so its thread looks for a dead owner at the first period's end.
#[test]
fn an_update_that_was_handed_over_spares_a_living_owner() {
    model(|| {
        let table = LatchTable::builder().shards(1).sweep_every(AGES);
        let (table, section) = (table.build().unwrap(), Section::new());
        let held = table.latch("a").unwrap();
        let other = updater(&table, &section);
        Clock::advance(AGES);
        section.enter();
        drop(held);
        other.join().unwrap();
        assert_eq!(section.entered(), 2);
        assert_no_residue(&table);
    });
}
