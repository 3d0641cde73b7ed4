//! Processes that end without giving back what they hold.

use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc;
use std::thread;

use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::TryAcquireError;

use crate::support::{HOUR, Peer, Place, until, until_waiting};

#[test]
fn a_killed_process_s_permits_come_back() {
    let place = Place::new();
    let (one, other) = (place.open(4), place.open(4));
    let mut child = place.child();
    child.ask("take 2");
    child.ask("leak");
    child.ask("lease 3600000");
    assert_eq!(one.available(), 0);
    assert!(one.try_acquire().is_err());
    child.kill();
    assert_eq!((one.current(), one.holders().len()), (0, 0));
    assert_eq!(one.try_acquire_many(4).unwrap().count(), 4);
    assert_eq!((one.stats().reaped, other.stats().reaped), (4, 0));
    assert_eq!(other.available(), 4);
}

#[test]
fn a_killed_process_s_permits_come_to_those_who_wait() {
    let place = Place::new();
    let (one, other) = (place.open(2), place.open(2));
    for _ in 0..5 {
        let mut child = place.child();
        child.ask("take 2");
        let (send, told) = mpsc::channel();
        let pending = other.acquire_with(move |permit| send.send(permit.map(drop)).unwrap());
        thread::scope(|scope| {
            let waiters = [&one, &other].map(|semaphore| {
                [
                    scope.spawn(|| semaphore.acquire().map(drop).unwrap()),
                    scope.spawn(|| semaphore.acquire_many(2).map(drop).unwrap()),
                    scope.spawn(|| semaphore.acquire_timeout(HOUR).map(drop).unwrap()),
                    scope.spawn(|| semaphore.acquire_leased(HOUR).map(drop).unwrap()),
                ]
            });
            until_waiting(&one, 9);
            child.kill();
            for waiter in waiters.into_iter().flatten() {
                waiter.join().unwrap();
            }
        });
        told.recv().unwrap().unwrap();
        drop(pending);
        assert_eq!((one.current(), one.waiters()), (0, 0));
    }
    assert_eq!(one.stats().reaped + other.stats().reaped, 10);
}

#[test]
fn two_killed_processes_serve_who_wants_the_permits_of_both() {
    let place = Place::new();
    let semaphore = place.open(4);
    let mut children = [place.child(), place.child()];
    for child in &mut children {
        child.ask("take 2");
    }
    thread::scope(|scope| {
        let waiter = scope.spawn(|| semaphore.acquire_many(4).map(|permits| permits.count()));
        until_waiting(&semaphore, 1);
        for child in &mut children {
            child.kill();
        }
        assert_eq!(waiter.join().unwrap(), Ok(4));
    });
}

#[test]
fn a_process_killed_while_it_collects_leaves_what_it_had() {
    let place = Place::new();
    let semaphore = place.open(4);
    let held = semaphore.acquire().unwrap();
    let mut child = place.child();
    child.tell("wait 4");
    // It has three, and holds them while it waits for the fourth.
    until(|| semaphore.available() == 0);
    child.kill();
    assert_eq!(semaphore.waiters(), 0);
    // Also the right to collect is free again.
    assert_eq!(semaphore.try_acquire_many(3).unwrap().count(), 3);
    drop(held);
    assert_eq!(semaphore.acquire_many(4).unwrap().count(), 4);
}

#[test]
fn who_waits_to_collect_goes_on_when_the_collector_is_killed() {
    let place = Place::new();
    let semaphore = place.open(4);
    let _held = semaphore.acquire().unwrap();
    let mut child = place.child();
    child.tell("wait 4");
    until(|| semaphore.available() == 0);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| semaphore.acquire_many(3).map(|permits| permits.count()));
        until_waiting(&semaphore, 2);
        child.kill();
        assert_eq!(waiter.join().unwrap(), Ok(3));
    });
}

#[test]
fn a_killed_waiter_takes_no_permit_with_it() {
    let place = Place::new();
    let semaphore = place.open(1);
    for _ in 0..10 {
        let held = semaphore.acquire().unwrap();
        let mut child = place.child();
        child.tell("wait 1");
        until_waiting(&semaphore, 1);
        // It is called, and killed wherever it is then.
        drop(held);
        child.kill();
        assert_eq!((semaphore.waiters(), semaphore.waiting().len()), (0, 0));
        drop(semaphore.acquire().unwrap());
    }
}

#[test]
fn a_call_that_went_to_a_stopped_process_is_not_lost() {
    let place = Place::new();
    let semaphore = place.open(1);
    let held = semaphore.acquire().unwrap();
    let mut child = place.child();
    child.tell("wait 1");
    until_waiting(&semaphore, 1);
    child.stop();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| semaphore.acquire().map(drop));
        until_waiting(&semaphore, 2);
        drop(held);
        waiter.join().unwrap().unwrap();
    });
    child.signal(rustix::process::Signal::CONT);
    assert_eq!(child.answer(), "taken");
    assert_eq!(semaphore.current(), 1);
}

#[test]
fn a_stopped_process_keeps_its_permit() {
    let place = Place::new();
    let semaphore = place.open(1);
    let mut child = place.child();
    child.ask("take 1");
    child.stop();
    let refused = semaphore.try_acquire().unwrap_err();
    assert_eq!(refused, TryAcquireError::WouldBlock);
    // Stopped, it can be killed.
    child.kill();
    drop(semaphore.try_acquire().unwrap());
}

#[test]
fn an_abort_and_an_exit_give_the_permits_back() {
    let place = Place::new();
    let semaphore = place.open(2);
    for (order, signal) in [("abort", Some(6)), ("exit", None)] {
        let mut child = place.child();
        child.ask("take 1");
        child.ask("leak");
        assert_eq!(semaphore.available(), 0);
        child.tell(order);
        assert_eq!(child.wait().signal(), signal);
        assert_eq!(semaphore.try_acquire_many(2).unwrap().count(), 2);
    }
}

#[test]
fn a_process_that_executes_another_program_gives_its_permits_back() {
    let place = Place::new();
    for strict in [false, true] {
        let builder = SharedSemaphore::builder(place.path()).permits(2);
        let semaphore = builder.strict(strict).open().unwrap();
        let mut child = place.child();
        child.ask("take 1");
        child.ask("leak");
        // The answer is the other program's.
        assert_eq!(child.ask("exec"), child.pid().to_string());
        assert_eq!(semaphore.try_acquire_many(2).unwrap().count(), 2);
        assert!(SharedSemaphore::remove(place.path()).unwrap());
    }
}

#[test]
fn a_process_that_ends_well_is_not_reaped() {
    let place = Place::new();
    let semaphore = place.open(1);
    let mut child = place.child();
    child.ask("take 1");
    child.ask("release");
    child.ask("drop");
    child.end_input();
    assert!(child.wait().success());
    drop(semaphore.try_acquire().unwrap());
    assert_eq!(semaphore.stats().reaped, 0);
}

fn strict(place: &Place, is_strict: bool) -> (SharedSemaphore, Peer) {
    let builder = SharedSemaphore::builder(place.path()).strict(is_strict);
    let semaphore = builder.open().unwrap();
    assert_eq!(semaphore.is_strict(), is_strict);
    let mut child = place.child();
    child.ask("take 1");
    (semaphore, child)
}

#[test]
fn a_strict_semaphore_s_permits_come_back_when_the_process_has_gone() {
    let place = Place::new();
    let (semaphore, mut child) = strict(&place, true);
    assert!(semaphore.try_acquire().is_err());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| semaphore.acquire().map(drop));
        until_waiting(&semaphore, 1);
        child.kill();
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(semaphore.stats().reaped, 1);
    let tool = SharedSemaphore::builder(place.path()).existing_only(true);
    assert!(tool.open().unwrap().is_strict());
}

#[test]
fn a_strict_semaphore_waits_for_who_was_handed_the_descriptor() {
    for is_strict in [true, false] {
        let place = Place::new();
        let (semaphore, mut child) = strict(&place, is_strict);
        child.ask("hand input");
        child.kill();
        if is_strict {
            let refused = semaphore.try_acquire().unwrap_err();
            assert_eq!(refused, TryAcquireError::WouldBlock);
            assert_eq!((semaphore.current(), semaphore.holders().len()), (1, 1));
            // The command reads the same input.
            thread::scope(|scope| {
                let waiter = scope.spawn(|| semaphore.acquire().map(drop));
                until_waiting(&semaphore, 1);
                child.end_input();
                waiter.join().unwrap().unwrap();
            });
        } else {
            drop(semaphore.try_acquire().unwrap());
        }
    }
}

#[test]
fn dropping_gives_back_what_the_descriptor_was_handed_on_for() {
    let place = Place::new();
    let (semaphore, mut child) = strict(&place, true);
    child.ask("hand");
    child.ask("release");
    assert_eq!(semaphore.try_acquire().unwrap().count(), 1);
}
