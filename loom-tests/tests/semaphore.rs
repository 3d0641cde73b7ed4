//! Models of the semaphore.
#![cfg(latchwork_loom)]

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use latchwork::model::{Clock, chaos, model, thread};
use latchwork::semaphore::{AcquireError, AcquireTimeoutError, Fairness, TryAcquireError};
use latchwork::{Semaphore, Sweeper};
use latchwork_loom_tests::Section;

/// Longer than newcomers may pass the oldest waiter.
const PAST_PATIENCE: Duration = Duration::from_millis(1);
/// Shorter than that.
const MOMENT: Duration = Duration::from_micros(100);

fn semaphore(permits: u64, fairness: Fairness) -> Semaphore {
    Semaphore::builder("model")
        .permits(permits)
        .max_permits(2)
        .fairness(fairness)
        .build()
        .unwrap()
}

/// Starts a thread of the model with a handle of its own.
fn spawn<T: 'static>(
    semaphore: &Semaphore,
    body: impl FnOnce(&Semaphore) -> T + 'static,
) -> thread::JoinHandle<T> {
    let semaphore = semaphore.clone();
    thread::spawn(move || body(&semaphore))
}

/// Every permit is there, none more, and nobody waits.
#[track_caller]
fn assert_whole(semaphore: &Semaphore, permits: u64) {
    assert_eq!(semaphore.waiters(), 0, "somebody still stands in line");
    let all = semaphore.try_acquire_many(permits);
    let all = all.expect("a permit was lost");
    assert!(semaphore.try_acquire().is_err(), "a permit was made up");
    drop(all);
}

/// Catches a release whose wake-up is lost, a permit that two threads hold, and one that changes
/// hands without what its last holder wrote.
#[test]
fn one_permit_admits_one_thread_at_a_time() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let section = Section::new();
        let other = spawn(&semaphore, {
            let section = section.clone();
            move |semaphore| {
                let permit = semaphore.acquire().unwrap();
                section.enter();
                drop(permit);
            }
        });
        let permit = semaphore.acquire().unwrap();
        section.enter();
        drop(permit);
        other.join().unwrap();
        assert_eq!(section.entered(), 2);
        assert_whole(&semaphore, 1);
    });
}

/// Catches a wake-up that is lost when the one who was woken hands on to the next in line.
#[test]
fn a_line_of_two_is_served_to_its_end() {
    model(|| {
        let semaphore = semaphore(1, Fairness::Fifo);
        let section = Section::new();
        let permit = semaphore.acquire().unwrap();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let section = section.clone();
                spawn(&semaphore, move |semaphore| {
                    let permit = semaphore.acquire().unwrap();
                    section.enter();
                    drop(permit);
                })
            })
            .collect();
        section.enter();
        drop(permit);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(section.entered(), 3);
        assert_whole(&semaphore, 1);
    });
}

/// Catches a time-out that takes the permit which was handed over on its way, and says that it took
/// none.
#[test]
fn a_timed_out_acquire_takes_nothing() {
    model(|| {
        let semaphore = semaphore(1, Fairness::Fifo);
        let section = Section::new();
        let permit = semaphore.acquire().unwrap();
        let other = spawn(&semaphore, {
            let section = section.clone();
            move |semaphore| match semaphore.acquire_timeout(MOMENT) {
                Ok(permit) => {
                    section.enter();
                    drop(permit);
                }
                Err(error) => assert_eq!(error, AcquireTimeoutError::TimedOut),
            }
        });
        Clock::advance(MOMENT);
        section.enter();
        drop(permit);
        other.join().unwrap();
        assert_whole(&semaphore, 1);
    });
}

/// Catches a time-out of the head of the line that keeps what it had collected so far.
#[test]
fn a_timed_out_acquire_many_returns_its_share() {
    model(|| {
        let semaphore = semaphore(2, Fairness::Fifo);
        let mut permits = semaphore.acquire_many(2).unwrap();
        let other = spawn(&semaphore, |semaphore| {
            match semaphore.acquire_many_timeout(2, MOMENT) {
                Ok(permits) => assert_eq!(permits.count(), 2),
                Err(error) => assert_eq!(error, AcquireTimeoutError::TimedOut),
            }
        });
        drop(permits.split(1));
        Clock::advance(MOMENT);
        drop(permits);
        other.join().unwrap();
        assert_whole(&semaphore, 2);
    });
}

/// Catches a waiter who gives up just as it was told to try again, and leaves the next one asleep
/// beside a free permit.
#[test]
fn a_waiter_that_gives_up_passes_its_turn_on() {
    model(|| {
        let semaphore = semaphore(1, Fairness::Eventual);
        let permit = semaphore.acquire().unwrap();
        let hasty = spawn(&semaphore, |semaphore| {
            drop(semaphore.acquire_timeout(MOMENT));
        });
        let patient = spawn(&semaphore, |semaphore| drop(semaphore.acquire().unwrap()));
        Clock::advance(MOMENT);
        drop(permit);
        hasty.join().unwrap();
        patient.join().unwrap();
        assert_whole(&semaphore, 1);
    });
}

/// Catches a release that leaves serving the line to its head, who was told to try again, just
/// after that one has looked and found a newcomer there.
#[test]
fn a_release_beside_a_waiter_on_its_way_is_not_lost() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let permit = semaphore.acquire().unwrap().detach();
        let other = spawn(&semaphore, move |semaphore| {
            drop(permit);
            drop(semaphore.acquire().unwrap());
        });
        drop(semaphore.acquire().unwrap());
        other.join().unwrap();
        assert_whole(&semaphore, 1);
    });
}

/// Catches a request that gets in line just after everybody there was refused, and waits for ever.
#[test]
fn closing_refuses_who_waits_and_who_comes() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let permit = semaphore.acquire().unwrap();
        let other = spawn(&semaphore, |semaphore| {
            assert_eq!(semaphore.acquire().unwrap_err(), AcquireError::Closed);
        });
        semaphore.close();
        other.join().unwrap();
        drop(permit);
        assert_eq!(semaphore.available(), 1);
        assert_eq!(
            semaphore.try_acquire().unwrap_err(),
            TryAcquireError::Closed
        );
    });
}

/// Catches a request for more than there was that stays aside when the capacity is raised.
#[test]
fn a_raise_serves_the_request_that_waits_for_it() {
    model(|| {
        let semaphore = semaphore(1, Fairness::Eventual);
        let other = spawn(&semaphore, |semaphore| {
            drop(semaphore.acquire_many(2).unwrap());
        });
        semaphore.set_max(2).unwrap();
        other.join().unwrap();
        assert_whole(&semaphore, 2);
    });
}

/// Catches a cut that leaves an impossible request at the head of the line, with its share, in
/// front of those who could be served; and a raise that does not bring it back.
#[test]
fn a_cut_sets_an_impossible_request_aside() {
    model(|| {
        let semaphore = semaphore(2, Fairness::Fifo);
        let permit = semaphore.acquire().unwrap();
        let other = spawn(&semaphore, |semaphore| {
            drop(semaphore.acquire_many(2).unwrap());
        });
        semaphore.set_max(1).unwrap();
        drop(permit);
        drop(semaphore.acquire().unwrap());
        semaphore.set_max(2).unwrap();
        other.join().unwrap();
        assert_whole(&semaphore, 2);
    });
}

/// Catches a reclaim that gives the permit back beside a line that nobody tells; and one without
/// the ordering of a release.
#[test]
fn a_leaked_permit_serves_the_next_in_line() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let section = Section::new();
        let leaker = spawn(&semaphore, {
            let section = section.clone();
            move |semaphore| {
                let permit = semaphore.acquire().unwrap();
                section.enter();
                std::mem::forget(permit);
            }
        });
        let permit = semaphore.acquire().unwrap();
        section.enter();
        drop(permit);
        leaker.join().unwrap();
        assert_eq!(semaphore.stats().leaked, 1);
        assert_whole(&semaphore, 1);
    });
}

/// Catches a semaphore that is freed with its last handle while a leaked permit still stands on it,
/// and one that is not freed at all.
#[test]
fn a_leaked_permit_keeps_the_semaphore_that_it_returns_to() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let leaker = thread::spawn({
            let semaphore = semaphore.clone();
            move || {
                std::mem::forget(semaphore.acquire().unwrap());
                drop(semaphore);
            }
        });
        drop(semaphore);
        leaker.join().unwrap();
    });
}

/// Catches a callback whose permit is taken and which is then not called, one that is called after
/// it was cancelled, and one that runs without the ordering of a hand-over.
#[test]
fn a_callback_is_delivered_or_cancelled() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let section = Section::new();
        let permit = semaphore.acquire().unwrap();
        let pending = semaphore.acquire_with({
            let section = section.clone();
            move |permit| {
                section.enter();
                drop(permit.unwrap());
            }
        });
        let other = thread::spawn(move || {
            let delivered = pending.is_delivered();
            drop(pending);
            delivered
        });
        section.enter();
        drop(permit);
        let delivered = other.join().unwrap();
        assert!(!delivered || section.entered() == 2);
        assert_whole(&semaphore, 1);
    });
}

/// Catches a callback that is lost although nobody cancelled it.
#[test]
fn a_callback_is_called_by_the_thread_that_releases() {
    model(|| {
        let semaphore = semaphore(2, Fairness::Fifo);
        let section = Section::new();
        let permit = semaphore.acquire().unwrap();
        let other = spawn(&semaphore, |semaphore| drop(semaphore.acquire().unwrap()));
        let pending = semaphore.acquire_many_with(2, {
            let section = section.clone();
            move |permits| {
                assert_eq!(permits.unwrap().count(), 2);
                section.enter();
            }
        });
        section.enter();
        drop(permit);
        other.join().unwrap();
        assert!(pending.is_delivered());
        assert_eq!(section.entered(), 2);
        assert_whole(&semaphore, 2);
    });
}

/// Catches a cancelled request that keeps what it had collected so far.
#[test]
fn a_cancelled_callback_returns_its_share() {
    model(|| {
        let semaphore = semaphore(2, Fairness::Fifo);
        let mut permits = semaphore.acquire_many(2).unwrap();
        let pending = semaphore.acquire_many_with(2, |permits| {
            assert_eq!(permits.unwrap().count(), 2);
        });
        let other = thread::spawn(move || drop(pending));
        drop(permits.split(1));
        drop(permits);
        other.join().unwrap();
        assert_whole(&semaphore, 2);
    });
}

/// Catches a sleeper that takes a wake-up without a reason for its permit.
#[test]
fn a_wake_up_without_a_reason_grants_nothing() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let section = Section::new();
        let permit = semaphore.acquire().unwrap();
        let other = spawn(&semaphore, {
            let section = section.clone();
            move |semaphore| {
                let permit = semaphore.acquire().unwrap();
                section.enter();
                drop(permit);
            }
        });
        chaos();
        section.enter();
        drop(permit);
        other.join().unwrap();
        assert_whole(&semaphore, 1);
    });
}

/// Catches newcomers that pass a waiter for ever, and a release that does not hand over to one that
/// has waited for long.
#[test]
fn nobody_passes_a_waiter_whose_patience_is_over() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let section = Section::new();
        let permit = semaphore.acquire().unwrap();
        let other = spawn(&semaphore, {
            let section = section.clone();
            move |semaphore| {
                let permit = semaphore.acquire().unwrap();
                section.enter();
                drop(permit);
            }
        });
        thread::yield_now();
        let waits = semaphore.waiters() == 1;
        Clock::advance(PAST_PATIENCE);
        drop(permit);
        // Who gets a permit here comes after the waiter, and so sees what that did.
        if let Ok(permit) = semaphore.try_acquire()
            && waits
        {
            assert_eq!(section.entered(), 1, "a newcomer passed");
            drop(permit);
        }
        other.join().unwrap();
        assert_whole(&semaphore, 1);
    });
}

/// Catches a turn that is lost between a waiter, the newcomers that may pass it, and the moment
/// from which they may not.
#[test]
fn a_waiter_is_served_beside_newcomers() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let section = Section::new();
        let permit = semaphore.acquire().unwrap();
        let waiter = spawn(&semaphore, {
            let section = section.clone();
            move |semaphore| {
                let permit = semaphore.acquire().unwrap();
                section.enter();
                drop(permit);
            }
        });
        let newcomer = spawn(&semaphore, {
            let section = section.clone();
            move |semaphore| {
                if let Ok(permit) = semaphore.try_acquire() {
                    section.enter();
                    drop(permit);
                }
            }
        });
        section.enter();
        drop(permit);
        Clock::advance(PAST_PATIENCE);
        waiter.join().unwrap();
        newcomer.join().unwrap();
        assert_whole(&semaphore, 1);
    });
}

/// Catches permits that come back one by one and never add up for the one who wants several.
#[test]
fn several_permits_are_collected_one_by_one() {
    model(|| {
        let semaphore = semaphore(2, Fairness::Eventual);
        let permit = semaphore.acquire().unwrap();
        let collector = spawn(&semaphore, |semaphore| {
            assert_eq!(semaphore.acquire_many(2).unwrap().count(), 2);
        });
        let newcomer = spawn(&semaphore, |semaphore| drop(semaphore.acquire().unwrap()));
        Clock::advance(PAST_PATIENCE);
        drop(permit);
        collector.join().unwrap();
        newcomer.join().unwrap();
        assert_whole(&semaphore, 2);
    });
}

/// Catches a close that does not return what the head of the line had collected, and a request that
/// is both refused and served.
#[test]
fn closing_returns_what_was_collected() {
    model(|| {
        let semaphore = semaphore(2, Fairness::Fifo);
        let mut permits = semaphore.acquire_many(2).unwrap();
        let other = spawn(&semaphore, |semaphore| {
            drop(semaphore.acquire_many_timeout(2, MOMENT));
        });
        let closer = spawn(&semaphore, Semaphore::close);
        drop(permits.split(1));
        Clock::advance(MOMENT);
        drop(permits);
        other.join().unwrap();
        closer.join().unwrap();
        assert_eq!((semaphore.available(), semaphore.waiters()), (2, 0));
    });
}

/// Catches a callback that is told of a close and of its permit as well, or of neither.
#[test]
fn a_callback_is_told_once_of_permit_or_close() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let section = Section::new();
        let permit = semaphore.acquire().unwrap();
        let pending = semaphore.acquire_with({
            let section = section.clone();
            move |permit| {
                section.enter();
                drop(permit);
            }
        });
        let closer = spawn(&semaphore, Semaphore::close);
        drop(permit);
        closer.join().unwrap();
        assert!(pending.is_delivered());
        assert_eq!(section.entered(), 1);
        assert_eq!((semaphore.available(), semaphore.waiters()), (1, 0));
    });
}

/// Catches a permit that is forgotten on purpose under a request that needs it, and a raise that
/// comes at that moment.
#[test]
fn forgotten_permits_set_a_request_aside_until_a_raise() {
    model(|| {
        let semaphore = semaphore(2, Fairness::Fifo);
        let permit = semaphore.acquire().unwrap();
        let other = spawn(&semaphore, |semaphore| {
            drop(semaphore.acquire_many(2).unwrap());
        });
        permit.forget();
        semaphore.set_max(2).unwrap();
        other.join().unwrap();
        assert_whole(&semaphore, 2);
    });
}

/// Catches a count of the running permits that is made of the capacity before a resize and of the
/// permits after it.
#[test]
fn running_permits_are_counted_as_of_one_moment() {
    model(|| {
        let semaphore = semaphore(1, Fairness::Eventual);
        let permit = semaphore.acquire().unwrap();
        let other = spawn(&semaphore, |semaphore| semaphore.set_max(2).unwrap());
        assert_eq!(semaphore.current(), 1);
        other.join().unwrap();
        assert_eq!(semaphore.current(), 1);
        drop(permit);
        assert_whole(&semaphore, 2);
    });
}

/// A request that comes back from being parked stands before a younger one that had been handed a
/// share. Would catch: the share stays with the younger, and the two wait for each other for ever.
#[test]
fn a_parked_request_that_comes_back_gets_what_a_younger_one_was_handed() {
    model(|| {
        let semaphore = Semaphore::builder("model")
            .permits(3)
            .fairness(Fairness::Fifo)
            .build()
            .unwrap();
        let (one, two) = (semaphore.acquire().unwrap(), semaphore.acquire().unwrap());
        let older = semaphore.acquire_many_with(4, drop);
        let younger = semaphore.acquire_many_with(3, drop);
        drop(one); // the younger has been handed two
        let other = spawn(&semaphore, |semaphore| semaphore.set_max(4).unwrap());
        drop(two);
        other.join().unwrap();
        assert!(older.is_delivered() && younger.is_delivered());
        assert_whole(&semaphore, 4);
    });
}

/// Would catch: a callback that was granted, and waits for the one before it to return, runs
/// although its registration has been dropped meanwhile; or its permit is lost.
#[test]
fn a_callback_that_was_granted_and_not_begun_is_cancelled() {
    model(|| {
        let semaphore = semaphore(1, Fairness::Eventual);
        let held = semaphore.acquire().unwrap().detach();
        let second = std::sync::Arc::new(std::sync::Mutex::new(None));
        let cancels = second.clone();
        let first = semaphore.acquire_with(move |permit| {
            drop(permit);
            drop(cancels.lock().unwrap().take());
        });
        let called = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let calls = called.clone();
        let pending = semaphore.acquire_with(move |_permit| calls.store(true, Relaxed));
        *second.lock().unwrap() = Some(pending);
        thread::spawn(move || drop(held)).join().unwrap();
        drop(first);
        drop(second.lock().unwrap().take());
        assert!(!called.load(Relaxed), "called after it was cancelled");
        assert_whole(&semaphore, 1);
    });
}

/// A semaphore of one permit, and the sweeper that its leases expire by.
fn leased() -> (Semaphore, Sweeper) {
    let sweeper = Sweeper::new();
    let semaphore = Semaphore::builder("model")
        .max_permits(2)
        .sweeper(sweeper.clone())
        .build()
        .unwrap();
    (semaphore, sweeper)
}

/// Starts a thread that sweeps as if `after` had passed.
fn sweep(sweeper: &Sweeper, after: Duration) -> thread::JoinHandle<usize> {
    let sweeper = sweeper.clone();
    thread::spawn(move || sweeper.run_due(Clock::now() + after))
}

/// Catches a permit that its late holder gives back once more, and one that nobody gives back.
#[test]
fn a_lease_that_expires_while_it_is_dropped_comes_back_once() {
    model(|| {
        let (semaphore, sweeper) = leased();
        let lease = semaphore.acquire_leased(MOMENT).unwrap();
        let expires = sweep(&sweeper, MOMENT);
        let outcome = lease.release();
        expires.join().unwrap();
        assert_eq!(semaphore.stats().expired, u64::from(outcome.is_err()));
        assert_eq!(semaphore.stats().leases, 0);
        assert_whole(&semaphore, 1);
    });
}

/// Catches a renewal that says yes to a lease whose permit has been taken back.
#[test]
fn a_lease_that_expires_while_it_is_renewed_stays_or_is_lost() {
    model(|| {
        let (semaphore, sweeper) = leased();
        let lease = semaphore.acquire_leased(MOMENT).unwrap();
        let expires = sweep(&sweeper, MOMENT);
        let is_renewed = lease.renew(2 * MOMENT).is_ok();
        expires.join().unwrap();
        assert_eq!(semaphore.available(), u64::from(!is_renewed));
        assert_eq!(lease.is_live(), is_renewed);
        // Not forgotten by the one who moved it either.
        sweeper.run_due(Clock::now() + 2 * MOMENT);
        assert!(!lease.is_live());
        drop(lease);
        assert_whole(&semaphore, 1);
    });
}

/// Catches a lease that is granted while the last one ends, and is disarmed with that.
#[test]
fn a_lease_that_is_granted_while_the_last_one_ends_expires() {
    model(|| {
        let (semaphore, sweeper) = leased();
        semaphore.set_max(2).unwrap();
        let last = semaphore.acquire_leased(MOMENT).unwrap();
        let ends = thread::spawn(move || drop(last));
        let lease = semaphore.acquire_leased(2 * MOMENT).unwrap();
        ends.join().unwrap();
        sweeper.run_due(Clock::now() + 2 * MOMENT);
        assert!(!lease.is_live(), "nobody came by");
        assert_whole(&semaphore, 2);
    });
}

/// Catches a lease that is granted while the sweeper is at another, and is not armed.
#[test]
fn a_lease_that_is_granted_during_a_sweep_expires() {
    model(|| {
        let (semaphore, sweeper) = leased();
        semaphore.set_max(2).unwrap();
        std::mem::forget(semaphore.acquire_leased(MOMENT).unwrap());
        let expires = sweep(&sweeper, MOMENT);
        let lease = semaphore.acquire_leased(2 * MOMENT).unwrap();
        expires.join().unwrap();
        assert!(lease.is_live());
        sweeper.run_due(Clock::now() + 2 * MOMENT);
        assert!(!lease.is_live(), "nobody came by");
        assert_whole(&semaphore, 2);
    });
}

/// Catches an expiry that leaves who waits asleep beside the permit, and one that keeps the
/// semaphore of a forgotten lease for ever.
#[test]
fn a_forgotten_lease_serves_the_next_in_line_and_keeps_nothing() {
    model(|| {
        let (semaphore, sweeper) = leased();
        let lease = semaphore.acquire_leased(MOMENT).unwrap();
        let token = lease.token();
        std::mem::forget(lease);
        let expires = sweep(&sweeper, MOMENT);
        let next = semaphore.acquire_leased(2 * MOMENT).unwrap();
        assert!(next.token() > token);
        std::mem::forget(next);
        expires.join().unwrap();
        drop(semaphore);
        sweeper.run_due(Clock::now() + 2 * MOMENT);
        assert_eq!(sweeper.stats().jobs, 0);
    });
}

/// Catches two tables of leases where two threads come first, and tokens that are granted twice.
#[test]
fn the_first_leases_of_two_threads_have_one_order() {
    model(|| {
        let (semaphore, sweeper) = leased();
        semaphore.set_max(2).unwrap();
        let other = spawn(&semaphore, |semaphore| {
            let lease = semaphore.acquire_leased(MOMENT).unwrap();
            lease.token()
        });
        let lease = semaphore.acquire_leased(MOMENT).unwrap();
        let token = lease.token();
        drop(lease);
        let mut tokens = [token, other.join().unwrap()];
        tokens.sort_unstable();
        assert_eq!(tokens, [1, 2]);
        assert_eq!(sweeper.stats().jobs, 1);
        assert_whole(&semaphore, 2);
    });
}

/// Catches a handle that is dropped beside the sweep which ends the last lease: the semaphore is
/// freed twice, too early or never, or the two wait for each other.
#[test]
fn the_last_handle_goes_while_the_last_lease_expires() {
    model(|| {
        let (semaphore, sweeper) = leased();
        let lease = semaphore.acquire_leased(MOMENT).unwrap();
        let expires = sweep(&sweeper, MOMENT);
        drop(semaphore);
        drop(lease);
        expires.join().unwrap();
        assert_eq!(sweeper.stats().jobs, 0);
    });
}
