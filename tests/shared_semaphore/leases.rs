//! Permits with a deadline.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use latchwork::semaphore::LeaseLost;

use crate::support::{HOUR, Place, until, until_waiting};

const SHORT: Duration = Duration::from_millis(5);

#[test]
fn a_lease_counts_until_it_is_released() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    let lease = one.acquire_leased(HOUR).unwrap();
    assert!(lease.is_live());
    assert!(lease.remaining() <= HOUR + Duration::from_millis(1));
    assert_eq!(other.current(), 1);
    assert!(other.try_acquire().is_err());
    assert_eq!(lease.release(), Ok(()));
    assert_eq!((other.current(), one.stats().lost), (0, 0));
    drop(other.try_acquire().unwrap());
}

#[test]
fn tokens_increase_across_attachments_and_processes() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    let mut child = place.child();
    let mut last = 0;
    let mut follows = |token: u64| {
        assert!(token > last, "{token} after {last}");
        last = token;
    };
    for _ in 0..3 {
        follows(one.acquire_leased(HOUR).unwrap().token());
        follows(child.ask("lease 3600000").parse().unwrap());
        child.ask("release");
        follows(other.try_acquire_leased(HOUR).unwrap().token());
        follows(one.acquire_leased_timeout(HOUR, HOUR).unwrap().token());
    }
}

#[test]
fn a_lease_that_is_over_is_taken_by_who_waits() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    for taker in [&one, &other] {
        let stuck = one.acquire_leased(SHORT).unwrap();
        let next = taker.acquire_leased(HOUR).unwrap();
        assert!(next.token() > stuck.token());
        assert!(next.is_live() && !stuck.is_live());
        assert_eq!(stuck.remaining(), Duration::ZERO);
        assert_eq!(stuck.renew(HOUR), Err(LeaseLost));
        drop(stuck);
        assert!(next.is_live());
        assert_eq!(next.release(), Ok(()));
    }
    let (ours, theirs) = (one.stats(), other.stats());
    assert_eq!((ours.expired, ours.lost, ours.reaped), (1, 2, 0));
    assert_eq!((theirs.expired, theirs.lost), (1, 0));
}

#[test]
fn a_lease_that_is_over_serves_several_and_callbacks() {
    let place = Place::new();
    let (one, other) = (place.open(2), place.open(2));
    let stuck = one.acquire_leased(SHORT).unwrap();
    assert_eq!(other.acquire_many(2).unwrap().count(), 2);
    assert_eq!(stuck.release(), Err(LeaseLost));
    let stuck = [(); 2].map(|()| one.acquire_leased(SHORT).unwrap());
    let (send, told) = mpsc::channel();
    let _pending = other.acquire_with(move |permit| send.send(permit).unwrap());
    assert_eq!(told.recv().unwrap().unwrap().count(), 1);
    drop(stuck);
    assert_eq!(other.current(), 0);
}

#[test]
fn a_callback_s_lease_begins_when_it_is_called_and_one_that_is_cancelled_never() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    let held = one.acquire().unwrap();
    let (send, told) = mpsc::channel();
    let ask = || {
        let send = send.clone();
        other.acquire_leased_with(HOUR, move |lease| send.send(lease).unwrap())
    };
    drop(ask());
    let pending = ask();
    assert!(!pending.is_delivered());
    drop(held);
    let lease = told.recv().unwrap().unwrap();
    assert!(lease.is_live() && lease.remaining() > HOUR / 2);
    assert_eq!(one.available(), 0);
    assert_eq!(lease.release(), Ok(()));
    assert_eq!(one.available(), 1);
    assert!(told.try_recv().is_err());
}

#[test]
fn a_lease_that_nobody_wants_is_over_all_the_same() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    let lease = one.acquire_leased(SHORT).unwrap();
    until(|| !lease.is_live() && other.current() == 0);
    assert_eq!((other.available(), other.holders().len()), (1, 0));
    assert_eq!(lease.renew(HOUR), Err(LeaseLost));
    assert_eq!(lease.release(), Err(LeaseLost));
}

#[test]
fn a_renewed_lease_goes_on_under_its_token() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    let lease = one.acquire_leased(Duration::from_secs(600)).unwrap();
    let token = lease.token();
    lease.renew(HOUR).unwrap();
    assert!(lease.remaining() > Duration::from_secs(600));
    assert_eq!(lease.token(), token);
    let left = other.holders()[0].lease_left.unwrap();
    assert!(left > Duration::from_secs(600), "{left:?}");
    assert!(other.try_acquire().is_err());
    // Shortened, it ends for who waits already.
    thread::scope(|scope| {
        let waiter = scope.spawn(|| other.acquire().map(drop));
        until_waiting(&one, 1);
        lease.renew(SHORT).unwrap();
        waiter.join().unwrap().unwrap();
    });
    assert_eq!(lease.release(), Err(LeaseLost));
}

#[test]
fn a_lease_is_between_a_millisecond_and_49_days() {
    let place = Place::new();
    let semaphore = place.open(1);
    let forever = semaphore.acquire_leased(Duration::MAX).unwrap();
    let day = Duration::from_secs(24 * 3600);
    assert!(forever.remaining() > 49 * day);
    assert!(forever.remaining() < 50 * day);
    assert!(semaphore.try_acquire().is_err());
    forever.release().unwrap();
    let lease = semaphore.acquire_leased(Duration::ZERO).unwrap();
    drop(semaphore.acquire().unwrap());
    assert_eq!(lease.release(), Err(LeaseLost));
}

#[test]
fn a_lease_is_retired_after_a_cut() {
    let place = Place::new();
    let (one, other) = (place.open(2), place.open(2));
    let leases = [(); 2].map(|()| one.acquire_leased(HOUR).unwrap());
    other.set_max(1).unwrap();
    for lease in &leases {
        lease.renew(HOUR).unwrap();
        assert!(lease.is_live());
    }
    for lease in leases {
        assert!(other.try_acquire().is_err());
        assert_eq!(lease.release(), Ok(()));
    }
    assert_eq!((other.available(), one.stats().lost), (1, 0));
    assert_eq!(other.try_acquire().unwrap().count(), 1);
}

#[test]
fn a_lease_outlives_its_handle_and_moves_to_another_thread() {
    let place = Place::new();
    let other = place.open(1);
    let lease = place.open(1).acquire_leased(HOUR).unwrap();
    assert_eq!(other.current(), 1);
    thread::spawn(move || lease.renew(HOUR).and_then(|()| lease.release()))
        .join()
        .unwrap()
        .unwrap();
    assert_eq!(other.current(), 0);
}

#[test]
fn the_lease_of_a_killed_process_is_not_waited_for() {
    let place = Place::new();
    let semaphore = place.open(1);
    let mut child = place.child();
    child.ask("lease 3600000");
    assert!(semaphore.holders()[0].lease_left.is_some());
    assert!(semaphore.try_acquire().is_err());
    child.kill();
    assert_eq!(semaphore.try_acquire().unwrap().count(), 1);
    assert_eq!(semaphore.stats().reaped, 1);
}

#[test]
fn the_lease_of_a_stopped_process_ends() {
    let place = Place::new();
    let semaphore = place.open(1);
    let mut child = place.child();
    let stuck: u64 = child.ask("lease 50").parse().unwrap();
    child.stop();
    let next = semaphore.acquire_leased(HOUR).unwrap();
    assert!(next.token() > stuck);
    child.signal(rustix::process::Signal::CONT);
    assert_eq!(child.ask("live"), "false");
    child.ask("release");
    assert!(next.is_live());
    assert_eq!(child.ask("current"), "1");
}

/// The lease of an earlier holder of the place said of another process's permit that it was over,
/// if the two had the same number: both processes count from the same one.
#[test]
fn an_old_lease_says_nothing_of_another_process_s_permit() {
    let mut wrong = Vec::new();
    for take in ["try 1", "take 1", "leak", "lease 3600000"] {
        let place = Place::new();
        let semaphore = place.open(1);
        let mut first = place.child();
        first.ask("lease 1");
        first.ask("release");
        // It is over, also by the clock that is rounded to milliseconds.
        thread::sleep(Duration::from_millis(5));
        let mut second = place.child();
        second.ask(take);
        if semaphore.try_acquire().is_ok() {
            wrong.push(take);
        }
    }
    assert!(wrong.is_empty(), "two have one permit after {wrong:?}");
}

/// As above, with a lease that is not over yet.
#[test]
fn an_old_lease_is_not_shown_as_another_process_s() {
    let place = Place::new();
    let semaphore = place.open(1);
    let mut first = place.child();
    first.ask("lease 3600000");
    first.ask("release");
    let mut second = place.child();
    second.ask("take 1");
    assert_eq!(semaphore.holders()[0].lease_left, None);
}
