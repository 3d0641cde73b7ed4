//! Kills that nobody can handle: of `slots`, of its command, of both.

use std::os::unix::process::ExitStatusExt;

use latchwork::SharedSemaphore;

use crate::support::{Place, texts};

/// Waits for a permit, which is to come, and gives it back.
fn pass(semaphore: &SharedSemaphore) {
    drop(semaphore.acquire().expect("it is not closed"));
}

#[test]
fn a_killed_slots_keeps_its_slot_while_its_command_lives() {
    let place = Place::new();
    let mut slots = place.start("--permits 1");
    let _command = slots.command();
    slots.slots.kill();
    assert_eq!(place.run("--timeout 0 -- true").status.code(), Some(75));
    // Long enough for the second evidence to be looked at.
    assert_eq!(place.run("--timeout 0.2 -- true").status.code(), Some(75));
    let list = place.run_well("--list");
    assert!(list.contains("1 of 1 taken"), "{list}");
    assert!(list.contains("\ngone "), "{list}");
    assert!(
        list.contains(&format!("fuser {}", place.name().display())),
        "{list}"
    );
    slots.output.end_input();
    pass(&place.open());
    place.run_well("--timeout 0 -- true");
}

#[test]
fn the_slot_is_back_when_both_have_been_killed() {
    let place = Place::new();
    for slots_first in [true, false] {
        let mut slots = place.start("--permits 1");
        let command = slots.command();
        if slots_first {
            slots.slots.kill();
            command.kill();
        } else {
            command.kill();
            slots.slots.kill();
        }
        pass(&place.open());
        place.run_well("--timeout 0 -- true");
    }
}

#[test]
fn a_killed_command_gives_the_slot_back() {
    let place = Place::new();
    let mut slots = place.start("--permits 1");
    slots.command().kill();
    assert_eq!(slots.slots.wait().signal(), Some(9));
    place.run_well("--timeout 0 -- true");
}

#[test]
fn a_slots_that_is_killed_while_it_waits_leaves_nothing() {
    let place = Place::new();
    let mut first = place.start("--permits 1");
    first.command();
    let semaphore = place.open();
    let mut waits: Vec<_> = (0..3).map(|_| place.start("")).collect();
    while semaphore.waiters() < 3 {
        std::thread::yield_now();
    }
    waits[0].slots.kill();
    waits[1].slots.kill();
    assert!(first.end().success());
    waits[2].command();
    assert_eq!((semaphore.current(), semaphore.waiters()), (1, 0));
    let list = texts(&place.run("--list")).0;
    assert_eq!(list.matches("holds").count(), 1, "{list}");
}
