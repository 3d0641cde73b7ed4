//! What can be asked: holders, waiters, numbers, and how things print.

use std::thread;
use std::time::{Duration, SystemTime};

use latchwork::SharedSemaphore;

use crate::support::{HOUR, Place, until_waiting};

/// How this program was called, as far as others are shown.
fn own_name() -> String {
    let program = std::env::args().next().unwrap();
    let (_, name) = program.rsplit_once('/').unwrap();
    name.chars().take(40).collect()
}

#[test]
fn holders_are_shown_to_every_process() {
    let place = Place::new();
    let (one, other) = (place.open(6), place.open(6));
    let mut child = place.child();
    child.ask("take 2");
    child.ask("lease 3600000");
    let _single = one.acquire().unwrap();
    let _several = one.acquire_many(2).unwrap();
    let holders = one.holders();
    assert_eq!(holders.len(), 2);
    let ours = holders
        .iter()
        .find(|holder| holder.is_this_process)
        .unwrap();
    let its = holders
        .iter()
        .find(|holder| !holder.is_this_process)
        .unwrap();
    assert_eq!((ours.pid, ours.permits), (std::process::id(), 3));
    assert_eq!((its.pid, its.permits), (child.pid(), 3));
    assert_eq!(ours.lease_left, None);
    let left = its.lease_left.unwrap();
    assert!(left > Duration::ZERO && left <= HOUR + Duration::from_millis(1));
    for holder in &holders {
        assert!(holder.command.starts_with(&own_name()), "{holder:?}");
        assert!(holder.command.len() <= 40);
        assert_eq!(holder.since, None);
    }
    let seen = other.holders();
    assert_eq!(seen.iter().map(|holder| holder.permits).sum::<u32>(), 6);
    assert_eq!(other.current(), 6);
    child.kill();
    assert_eq!((one.holders().len(), other.current()), (1, 3));
}

#[test]
fn holders_that_are_tracked_say_since_when() {
    let place = Place::new();
    let tracking = SharedSemaphore::builder(place.path()).permits(3);
    let one = tracking.track_holders(true).open().unwrap();
    let other = place.open(3);
    // The clock that is looked at is a coarse one, and the two clocks are read one after the other.
    let tolerance = Duration::from_secs(1);
    let before = SystemTime::now() - tolerance;
    let _permit = one.acquire().unwrap();
    let _lease = one.acquire_leased(HOUR).unwrap();
    let after = SystemTime::now() + tolerance;
    let since = other.holders()[0].since.unwrap();
    assert!(before <= since && since <= after, "{since:?}");
    // That place is not tracked.
    let _untracked = other.acquire().unwrap();
    let holders = one.holders();
    let untracked = holders.iter().find(|holder| holder.permits == 1).unwrap();
    assert_eq!(untracked.since, None);
}

#[test]
fn who_does_not_track_shows_nobody_else_s_time() {
    let place = Place::new();
    let tracking = SharedSemaphore::builder(place.path()).permits(1);
    let one = tracking.track_holders(true).open().unwrap();
    let other = place.open(1);
    drop(one.acquire().unwrap());
    let _permit = other.acquire().unwrap();
    assert_eq!(one.holders()[0].since, None);
}

#[test]
fn those_who_wait_are_shown_to_every_process() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    let held = one.acquire().unwrap();
    let mut child = place.child();
    child.tell("wait 1");
    until_waiting(&one, 1);
    let pending = [(); 2].map(|()| other.acquire_with(drop));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| other.acquire().map(drop));
        until_waiting(&one, 4);
        let waiting = one.waiting();
        assert_eq!(waiting.len(), 2, "{waiting:?}");
        for process in &waiting {
            let expected = if process.pid == child.pid() { 1 } else { 3 };
            assert_eq!(process.requests, expected);
            assert!(process.command.starts_with(&own_name()), "{process:?}");
        }
        assert_eq!(one.stats().waiters, 4);
        drop(pending);
        assert_eq!(one.waiters(), 2);
        child.kill();
        assert_eq!(one.waiters(), 1);
        drop(held);
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(one.waiters(), 0);
}

#[test]
fn the_numbers_add_up() {
    let place = Place::new();
    let (one, other) = (place.open(4), place.open(4));
    let held = one.try_acquire_many(3).unwrap();
    let stats = other.stats();
    assert_eq!((stats.max, stats.current, stats.available), (4, 3, 1));
    assert_eq!((stats.waiters, stats.timeouts, stats.leaked), (0, 0, 0));
    assert_eq!((stats.reaped, stats.expired, stats.lost), (0, 0, 0));
    assert_eq!(stats.waits.count(), 0);
    let soon = Duration::from_millis(1);
    other.acquire_many_timeout(2, soon).unwrap_err();
    let (timeouts, waits) = (other.stats().timeouts, other.stats().waits.count());
    assert_eq!((timeouts, waits), (1, 1));
    // They are each process's own.
    assert_eq!((one.stats().timeouts, one.stats().waits.count()), (0, 0));
    drop(held);
    assert_eq!(one.stats().current, 0);
}

#[test]
fn everything_prints_what_it_is() {
    let place = Place::new();
    let builder = SharedSemaphore::builder(place.path()).permits(4);
    let text = format!("{builder:?}");
    assert!(text.starts_with("Builder { name: "), "{text}");
    assert!(text.contains("permits: 4"), "{text}");
    let semaphore = builder.open().unwrap();
    let permit = semaphore.acquire().unwrap();
    assert_eq!(
        format!("{semaphore:?}"),
        format!(
            "SharedSemaphore {{ path: {:?}, max: 4, current: 1, waiters: 0, closed: false, .. }}",
            place.path()
        )
    );
    assert_eq!(semaphore.path(), place.path());
    assert_eq!(format!("{permit:?}"), "SharedPermit(1)");
    let several = semaphore.acquire_many(2).unwrap();
    assert_eq!(format!("{several:?}"), "SharedPermits(2)");
    assert_eq!(format!("{:?}", permit.into_owned()), "SharedOwnedPermit(1)");
    assert_eq!(format!("{:?}", several.detach()), "SharedSendPermit(2)");
    let lease = semaphore.acquire_leased(HOUR).unwrap();
    let text = format!("{lease:?}");
    assert_eq!(text, "SharedLease { token: 1, is_live: true, .. }");
    semaphore.close();
    assert!(format!("{semaphore:?}").contains("closed: true"));
    assert!(format!("{:?}", semaphore.holders()).starts_with("[SharedHolder { pid: "));
    assert!(format!("{:?}", semaphore.stats()).starts_with("SharedStats { max: 4"));
}
