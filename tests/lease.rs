//! What a lease promises. Leases of these tests live for an hour or more; who drives the time is
//! `run_due`, which the sweeper's own thread does not come before.

#[path = "support/threadless.rs"]
mod threadless;

use std::collections::BTreeSet;
use std::mem::forget;
use std::panic::catch_unwind;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use latchwork::Sweeper;
use latchwork::semaphore::{
    AcquireError, AcquireTimeoutError, Fairness, Lease, LeaseLost, Semaphore, TryAcquireError,
};
use threadless::is_threadless;

const HOUR: Duration = Duration::from_secs(3600);

/// A semaphore, and the sweeper that its leases expire by.
fn semaphore(permits: u64) -> (Semaphore, Sweeper) {
    let sweeper = Sweeper::new();
    let semaphore = Semaphore::builder("leased")
        .permits(permits)
        .fairness(Fairness::Fifo)
        .sweeper(sweeper.clone())
        .build()
        .unwrap();
    (semaphore, sweeper)
}

/// Every permit is there, none more, and no lease.
#[track_caller]
fn assert_whole(semaphore: &Semaphore, sweeper: &Sweeper) {
    assert_eq!(semaphore.available(), semaphore.max());
    assert_eq!(semaphore.stats().leases, 0);
    assert_eq!(sweeper.stats().armed, 0, "armed without a lease");
}

/// Waits until `n` requests stand in line: the only way to see from outside that a thread waits.
fn until_waiting(semaphore: &Semaphore, n: usize) {
    while semaphore.waiters() < n {
        thread::yield_now();
    }
}

#[test]
fn a_lease_is_given_back_when_it_is_dropped() {
    let (semaphore, sweeper) = semaphore(3);
    let one = semaphore.acquire_leased(HOUR).unwrap();
    let two = semaphore.acquire_many_leased(2, HOUR).unwrap();
    assert_eq!((one.count(), two.count()), (1, 2));
    assert_eq!((semaphore.available(), semaphore.stats().leases), (0, 2));
    assert!(one.is_live() && two.is_live());
    assert!(one.remaining() <= HOUR && two.expires_at() > Instant::now());
    drop(one);
    assert_eq!(two.release(), Ok(()));
    assert_whole(&semaphore, &sweeper);
    assert_eq!(semaphore.stats().expired, 0);
}

#[test]
fn an_expired_lease_gives_back_and_wakes_who_waits() {
    let (semaphore, sweeper) = semaphore(1);
    let lease = semaphore.acquire_leased(HOUR).unwrap();
    thread::scope(|scope| {
        let next = scope.spawn(|| semaphore.acquire_leased(2 * HOUR).unwrap());
        until_waiting(&semaphore, 1);
        assert_eq!(sweeper.run_due(lease.expires_at()), 1);
        let next = next.join().unwrap();
        assert!(next.token() > lease.token());
        assert!(next.is_live() && !lease.is_live());
    });
    assert_eq!(semaphore.stats().expired, 1);
    assert_eq!(semaphore.stats().leaked, 0);
    drop(lease);
    assert_whole(&semaphore, &sweeper);
}

#[test]
fn the_sweepers_own_thread_comes_at_the_deadline() {
    let semaphore = Semaphore::new(1).unwrap();
    let lease = semaphore.acquire_leased(Duration::from_millis(5)).unwrap();
    let expires_at = lease.expires_at();
    forget(lease);
    drop(semaphore.acquire().unwrap());
    assert!(Instant::now() >= expires_at, "taken back before its time");
}

#[test]
fn an_expired_lease_reaches_a_callback_that_waits() {
    let (semaphore, sweeper) = semaphore(1);
    let lease = semaphore.acquire_leased(HOUR).unwrap();
    let (send, received) = mpsc::channel();
    let here = thread::current().id();
    let pending = semaphore.acquire_leased_with(HOUR, move |next| {
        assert_ne!(
            thread::current().id(),
            here,
            "user code on the sweeping thread"
        );
        send.send(next.unwrap()).unwrap();
    });
    sweeper.run_due(lease.expires_at());
    let next = received.recv().unwrap();
    assert!(next.token() > lease.token());
    drop((next, pending));
    assert_whole(&semaphore, &sweeper);
}

#[test]
fn a_callback_gets_a_lease_of_many_permits_when_they_are_all_there() {
    let (semaphore, sweeper) = semaphore(3);
    let held = semaphore.acquire_many(2).unwrap();
    let (send, received) = mpsc::channel();
    let pending = semaphore.acquire_many_leased_with(2, HOUR, move |lease| {
        send.send(lease).unwrap();
    });
    assert!(!pending.is_delivered());
    drop(held);
    let lease = received.recv().unwrap().unwrap();
    assert_eq!((lease.count(), semaphore.available()), (2, 1));
    drop((lease, pending));
    let (send, received) = mpsc::channel();
    let pending = semaphore.acquire_many_leased_with(u64::MAX, HOUR, move |lease| {
        send.send(lease.map(drop)).unwrap();
    });
    assert_eq!(received.recv().unwrap(), Err(AcquireError::TooMany));
    drop(pending);
    assert_whole(&semaphore, &sweeper);
}

#[test]
fn whatever_a_late_holder_does_changes_nothing_and_says_so() {
    let (semaphore, sweeper) = semaphore(1);
    let acts: [fn(Lease); 3] = [
        |lease| assert_eq!(lease.renew(HOUR), Err(LeaseLost)),
        |lease| assert_eq!(lease.release(), Err(LeaseLost)),
        drop,
    ];
    for act in acts {
        let late = semaphore.acquire_leased(HOUR).unwrap();
        sweeper.run_due(late.expires_at());
        let next = semaphore.acquire_leased(HOUR).unwrap();
        assert_eq!((late.is_live(), late.remaining()), (false, Duration::ZERO));
        act(late);
        assert!(next.is_live());
        assert_eq!(
            semaphore.try_acquire().unwrap_err(),
            TryAcquireError::WouldBlock
        );
    }
    assert_whole(&semaphore, &sweeper);
    assert_eq!(semaphore.stats().expired, 3);
}

#[test]
fn a_lease_is_lost_at_its_deadline_also_before_the_sweeper_comes_by() {
    // Nobody else comes by: the sweeper's thread is kept busy.
    let (semaphore, sweeper) = semaphore(1);
    let (hold, held) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let busy = sweeper.job("busy", move || {
        tell.send(()).unwrap();
        held.recv().unwrap_err();
        latchwork::sweeper::Next::Idle
    });
    busy.arm_after(Duration::ZERO);
    told.recv().unwrap();
    let acts: [fn(Lease); 3] = [
        |lease| assert_eq!(lease.renew(HOUR), Err(LeaseLost)),
        |lease| assert_eq!(lease.release(), Err(LeaseLost)),
        drop,
    ];
    for (number, act) in acts.into_iter().enumerate() {
        let lease = semaphore.acquire_leased(Duration::ZERO).unwrap();
        assert!(!lease.is_live());
        assert_eq!((semaphore.available(), semaphore.stats().leases), (0, 1));
        act(lease);
        assert_eq!((semaphore.available(), semaphore.stats().leases), (1, 0));
        assert_eq!(semaphore.stats().expired, number as u64 + 1);
    }
    drop(hold);
}

#[test]
fn tokens_rise_in_the_order_of_grants_and_never_come_back() {
    let (semaphore, sweeper) = semaphore(1);
    let mut last = 0;
    for round in 0..100 {
        let lease = semaphore.acquire_leased(HOUR).unwrap();
        assert!(lease.token() > last, "a token came back");
        last = lease.token();
        lease.renew(2 * HOUR).unwrap();
        assert_eq!(lease.token(), last);
        match round % 3 {
            0 => drop(lease),
            1 => forget(lease),
            _ => {}
        }
        sweeper.run_due(Instant::now() + 3 * HOUR);
    }
    assert_whole(&semaphore, &sweeper);
}

#[test]
fn tokens_rise_across_threads() {
    let (semaphore, sweeper) = semaphore(1);
    const THREADS: usize = 4;
    const EACH: usize = 500;
    let start = Barrier::new(THREADS);
    let seen = std::sync::Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                for _ in 0..EACH {
                    let lease = semaphore.acquire_leased(HOUR).unwrap();
                    // In the order of grants: there is one permit.
                    seen.lock().unwrap().push(lease.token());
                }
            });
        }
    });
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), THREADS * EACH);
    assert!(seen.is_sorted_by(|one, next| one < next));
    assert_whole(&semaphore, &sweeper);
}

#[test]
fn a_renewed_lease_lives_on_past_its_first_deadline() {
    let (semaphore, sweeper) = semaphore(1);
    let lease = semaphore.acquire_leased(HOUR).unwrap();
    let first = lease.expires_at();
    lease.renew(3 * HOUR).unwrap();
    assert!(lease.expires_at() >= first + 2 * HOUR);
    sweeper.run_due(first);
    assert!(lease.is_live());
    assert_eq!(semaphore.available(), 0);
    sweeper.run_due(lease.expires_at());
    assert_eq!(lease.renew(HOUR), Err(LeaseLost));
    assert_whole(&semaphore, &sweeper);
}

#[test]
fn a_renewal_can_bring_the_deadline_forward() {
    let (semaphore, sweeper) = semaphore(2);
    let other = semaphore.acquire_leased(2 * HOUR).unwrap();
    let lease = semaphore.acquire_leased(3 * HOUR).unwrap();
    lease.renew(HOUR).unwrap();
    assert_eq!(sweeper.run_due(lease.expires_at()), 1);
    assert!(!lease.is_live() && other.is_live());
    other.renew(Duration::ZERO).unwrap();
    assert_eq!(other.renew(HOUR), Err(LeaseLost));
    // The sweeper's own thread may be at it.
    drop(semaphore.acquire_many(2).unwrap());
}

#[test]
fn a_renewal_by_another_thread_keeps_the_holder_going() {
    let (semaphore, sweeper) = semaphore(1);
    let lease = semaphore.acquire_leased(HOUR).unwrap();
    let first = lease.expires_at();
    thread::scope(|scope| {
        scope.spawn(|| lease.renew(2 * HOUR).unwrap());
    });
    sweeper.run_due(first);
    assert!(lease.is_live());
    drop(lease);
    assert_whole(&semaphore, &sweeper);
}

#[test]
fn leases_with_mixed_deadlines_expire_in_their_order_by_one_job() {
    const LEASES: u32 = 1000;
    let (semaphore, sweeper) = semaphore(LEASES.into());
    let start = Instant::now();
    // Each hour up to the thousandth, in no order: 7 and 1000 have no divisor in common.
    let hours = (0..LEASES).map(|i| i * 7 % LEASES + 1);
    let leases: Vec<_> = hours
        .map(|hour| (hour, semaphore.acquire_leased(hour * HOUR).unwrap()))
        .collect();
    assert_eq!((sweeper.stats().jobs, sweeper.stats().armed), (1, 1));
    // What was acquired took less than half an hour.
    for now in [0, 1, 2, 500, 999] {
        sweeper.run_due(start + now * HOUR + HOUR / 2);
        assert_eq!(semaphore.available(), u64::from(now));
        assert_eq!(semaphore.stats().leases, (LEASES - now) as usize);
        assert!(
            leases
                .iter()
                .all(|(hour, lease)| lease.is_live() == (*hour > now))
        );
        assert_eq!(sweeper.stats().armed, 1);
    }
    sweeper.run_due(start + (LEASES + 1) * HOUR);
    assert_whole(&semaphore, &sweeper);
    assert_eq!(semaphore.stats().expired, LEASES.into());
}

#[test]
fn nothing_is_armed_without_a_lease() {
    let (semaphore, sweeper) = semaphore(2);
    assert_eq!((sweeper.stats().jobs, sweeper.stats().running), (0, false));
    let one = semaphore.acquire_leased(HOUR).unwrap();
    let two = semaphore.acquire_leased(2 * HOUR).unwrap();
    drop(one);
    assert_eq!(sweeper.stats().armed, 1);
    drop(two);
    assert_eq!(sweeper.stats().armed, 0);
    forget(semaphore.acquire_leased(HOUR).unwrap());
    assert_eq!(sweeper.stats().armed, 1);
    sweeper.run_due(Instant::now() + HOUR);
    assert_eq!(sweeper.stats().armed, 0);
}

#[test]
fn closing_lets_leases_finish() {
    let (semaphore, sweeper) = semaphore(2);
    let dropped = semaphore.acquire_leased(HOUR).unwrap();
    let forgotten = semaphore.acquire_leased(HOUR).unwrap();
    semaphore.close();
    assert_eq!(
        semaphore.acquire_leased(HOUR).unwrap_err(),
        AcquireError::Closed
    );
    dropped.renew(2 * HOUR).unwrap();
    assert_eq!(dropped.release(), Ok(()));
    sweeper.run_due(forgotten.expires_at());
    forget(forgotten);
    assert_whole(&semaphore, &sweeper);
}

#[test]
fn a_cut_is_paid_by_an_expired_lease() {
    let (semaphore, sweeper) = semaphore(3);
    forget(semaphore.acquire_many_leased(3, HOUR).unwrap());
    semaphore.set_max(1).unwrap();
    assert_eq!((semaphore.current(), semaphore.available()), (3, 0));
    sweeper.run_due(Instant::now() + HOUR);
    assert_eq!((semaphore.current(), semaphore.available()), (0, 1));
    assert_whole(&semaphore, &sweeper);
}

#[test]
fn holders_list_leases() {
    let sweeper = Sweeper::new();
    let semaphore = Semaphore::builder("tracked")
        .permits(3)
        .track_holders(true)
        .sweeper(sweeper.clone())
        .build()
        .unwrap();
    let guard = semaphore.acquire().unwrap();
    let lease = semaphore.acquire_many_leased(2, HOUR).unwrap();
    let line = line!() - 1;
    let mut holders = semaphore.holders();
    holders.sort_by_key(|holder| holder.lease);
    assert_eq!(holders.len(), 2);
    assert_eq!((holders[0].permits, holders[0].lease), (1, None));
    assert_eq!(
        (holders[1].permits, holders[1].lease),
        (2, Some(lease.token()))
    );
    assert_eq!(holders[1].acquired_at.file(), file!());
    assert_eq!(holders[1].acquired_at.line(), line);
    assert_eq!(holders[1].thread, None);
    drop(guard);
    sweeper.run_due(lease.expires_at());
    assert!(semaphore.holders().is_empty());
}

#[test]
fn each_expiry_is_reported_once_and_no_other_end_is() {
    let (send, reports) = mpsc::channel();
    let sweeper = Sweeper::new();
    let semaphore = Semaphore::builder("uploads")
        .permits(4)
        .sweeper(sweeper.clone())
        .on_leak(|_| panic!("nothing was leaked"))
        .on_expire(move |expired| send.send(expired).unwrap())
        .build()
        .unwrap();
    let dropped = semaphore.acquire_leased(HOUR).unwrap();
    let expires = semaphore.acquire_many_leased(3, HOUR).unwrap();
    let line = line!() - 1;
    drop(dropped);
    sweeper.run_due(expires.expires_at());
    let report = reports.recv().unwrap();
    assert_eq!((report.token, report.permits), (expires.token(), 3));
    assert_eq!(&*report.component, "uploads");
    assert_eq!(report.acquired_at.line(), line);
    drop(expires);
    drop(semaphore);
    // The handler went with the semaphore, and with it the sender.
    assert!(reports.recv().is_err());
}

#[test]
fn leases_outlive_every_handle_and_free_the_semaphore_when_they_end() {
    // The handler is the semaphore's: it goes when that is freed.
    let (alive, freed) = mpsc::channel::<()>();
    let sweeper = Sweeper::new();
    let build = |alive: mpsc::Sender<()>| {
        let builder = Semaphore::builder("gone")
            .permits(2)
            .sweeper(sweeper.clone());
        builder
            .on_leak(move |_| drop(alive.clone()))
            .build()
            .unwrap()
    };
    // Forgotten, and then dropped late.
    let semaphore = build(alive.clone());
    forget(semaphore.acquire_leased(HOUR).unwrap());
    let late = semaphore.acquire_leased(2 * HOUR).unwrap();
    drop(semaphore);
    sweeper.run_due(Instant::now() + HOUR);
    assert!(late.is_live());
    late.renew(HOUR).unwrap();
    assert_eq!(sweeper.stats().jobs, 1);
    sweeper.run_due(Instant::now() + 2 * HOUR);
    assert_eq!(sweeper.stats().jobs, 0, "the semaphore was not freed");
    drop(late);
    // Dropped in time.
    let semaphore = build(alive);
    let lease = semaphore.acquire_leased(HOUR).unwrap();
    drop(semaphore);
    assert_eq!(sweeper.stats().jobs, 1);
    drop(lease);
    assert_eq!(sweeper.stats().jobs, 0, "the semaphore was not freed");
    assert!(freed.recv().is_err());
}

#[test]
fn the_last_lease_that_expires_takes_the_semaphores_own_sweeper_with_it() {
    let (alive, freed) = mpsc::channel::<()>();
    let semaphore = Semaphore::builder("gone")
        .on_leak(move |_| drop(alive.clone()))
        .build()
        .unwrap();
    forget(semaphore.acquire_leased(Duration::from_millis(5)).unwrap());
    drop(semaphore);
    assert!(freed.recv().is_err(), "freed on the sweeper's own thread");
}

#[test]
fn the_end_of_a_thread_can_free_a_semaphore_with_a_sweeper_of_its_own() {
    let (alive, freed) = mpsc::channel::<()>();
    let semaphore = Semaphore::builder("gone")
        .permits(2)
        .on_leak(move |_| drop(alive.clone()))
        .build()
        .unwrap();
    let leaky = move || {
        forget(semaphore.acquire().unwrap());
        drop(semaphore.acquire_leased(HOUR).unwrap());
    };
    thread::spawn(leaky).join().unwrap();
    assert!(freed.recv().is_err());
}

#[test]
fn leases_and_guards_share_the_permits() {
    let (semaphore, sweeper) = semaphore(2);
    let guard = semaphore.acquire().unwrap();
    let lease = semaphore.try_acquire_leased(HOUR).unwrap();
    assert_eq!(
        semaphore.try_acquire_leased(HOUR).unwrap_err(),
        TryAcquireError::WouldBlock
    );
    assert_eq!(
        semaphore
            .acquire_leased_timeout(HOUR, Duration::ZERO)
            .unwrap_err(),
        AcquireTimeoutError::TimedOut
    );
    assert_eq!(
        semaphore
            .acquire_leased_deadline(HOUR, Instant::now())
            .unwrap_err(),
        AcquireTimeoutError::TimedOut
    );
    drop(guard);
    let second = semaphore
        .acquire_leased_timeout(HOUR, Duration::ZERO)
        .unwrap();
    assert_eq!(semaphore.stats().leases, 2);
    drop((lease, second));
    assert_whole(&semaphore, &sweeper);
}

#[test]
fn more_than_there_can_be_and_none_at_all() {
    let sweeper = Sweeper::new();
    let semaphore = Semaphore::builder("few")
        .max_permits(2)
        .sweeper(sweeper.clone())
        .build()
        .unwrap();
    assert_eq!(
        semaphore.acquire_many_leased(3, HOUR).unwrap_err(),
        AcquireError::TooMany
    );
    let nothing = semaphore.acquire_many_leased(0, HOUR).unwrap();
    assert_eq!((nothing.count(), semaphore.available()), (0, 1));
    forget(nothing);
    sweeper.run_due(Instant::now() + HOUR);
    assert_whole(&semaphore, &sweeper);
    assert_eq!(semaphore.stats().expired, 1);
}

#[test]
fn a_time_to_live_beyond_the_end_of_time_is_a_century() {
    let (semaphore, sweeper) = semaphore(1);
    let century = 100 * 365 * 24 * HOUR;
    let lease = semaphore.acquire_leased(Duration::MAX).unwrap();
    assert!(lease.remaining() <= century);
    lease.renew(Duration::MAX).unwrap();
    sweeper.run_due(Instant::now() + century);
    assert_whole(&semaphore, &sweeper);
}

#[test]
fn no_lease_is_granted_after_the_sweepers_shutdown() {
    let (semaphore, sweeper) = semaphore(2);
    let before = semaphore.acquire_leased(HOUR).unwrap();
    sweeper.shutdown();
    assert_eq!(
        semaphore.acquire_leased(HOUR).unwrap_err(),
        AcquireError::NoSweeper
    );
    assert_eq!(
        semaphore.try_acquire_leased(HOUR).unwrap_err(),
        TryAcquireError::NoSweeper
    );
    let (send, received) = mpsc::channel();
    let pending = semaphore.acquire_leased_with(HOUR, move |lease| send.send(lease).unwrap());
    assert_eq!(
        received.recv().unwrap().unwrap_err(),
        AcquireError::NoSweeper
    );
    drop(pending);
    assert_eq!(semaphore.available(), 1);
    assert_eq!(before.release(), Ok(()));
    assert_eq!(semaphore.available(), 2);
}

#[test]
fn no_lease_is_granted_when_no_thread_starts() {
    if !is_threadless("no_lease_is_granted_when_no_thread_starts") {
        return;
    }
    let semaphore = Semaphore::new(1).unwrap();
    for _ in 0..2 {
        let refused = semaphore.acquire_leased(HOUR).unwrap_err();
        assert_eq!(refused, AcquireError::NoSweeper);
        assert_eq!(semaphore.available(), 1);
    }
}

#[test]
fn drops_renewals_and_expiries_of_many_threads_conserve_the_permits() {
    const THREADS: u64 = 4;
    let (semaphore, sweeper) = semaphore(2);
    let tokens = std::sync::Mutex::new(BTreeSet::new());
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (semaphore, tokens) = (&semaphore, &tokens);
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed ^ thread);
                    for _ in 0..500 {
                        let ttl = HOUR * random.u32(1..4);
                        let lease = semaphore.acquire_leased(ttl).unwrap();
                        let is_new = tokens.lock().unwrap().insert(lease.token());
                        assert!(is_new, "a token was granted twice");
                        assert!(semaphore.current() <= 2);
                        match random.u8(..4) {
                            0 => drop(lease),
                            1 => forget(lease),
                            2 => drop(lease.renew(4 * HOUR)),
                            _ => drop(lease.release()),
                        }
                    }
                })
            })
            .collect();
        // Comes by at any moment: forgotten leases come back through this alone.
        while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
            sweeper.run_due(Instant::now() + 2 * HOUR);
            sweeper.run_due(Instant::now() + 5 * HOUR);
        }
    });
    sweeper.run_due(Instant::now() + 5 * HOUR);
    assert_eq!(semaphore.available(), 2);
    assert_eq!(semaphore.stats().leases, 0);
    assert_eq!(tokens.into_inner().unwrap().len() as u64, THREADS * 500);
}

#[test]
fn a_lease_crosses_threads_and_catch_unwind() {
    fn crosses<T: Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe>() {}
    crosses::<Lease>();
    let (semaphore, sweeper) = semaphore(1);
    let lease = Arc::new(semaphore.acquire_leased(HOUR).unwrap());
    let same = Arc::clone(&lease);
    thread::spawn(move || drop(same)).join().unwrap();
    assert!(catch_unwind(move || drop(lease)).is_ok());
    assert_whole(&semaphore, &sweeper);
}
