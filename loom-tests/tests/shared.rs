//! Models of the shared semaphore: processes are handles on one memory, and die when the model says
//! so.
#![cfg(latchwork_loom)]

use std::sync::mpsc;
use std::time::Duration;

use latchwork::SharedSemaphore;
use latchwork::model::shared::SharedMemory;
use latchwork::model::{Clock, model, run_deferred, thread};
use latchwork::semaphore::shared::{
    AcquireError, AcquireTimeoutError, SharedPermit, SharedSendPermit, TryAcquireError,
};
use latchwork_loom_tests::Section;

/// Takes a permit, does something that nobody else may do meanwhile, and gives it back.
fn enter(semaphore: &SharedSemaphore, section: &Section) {
    let permit = semaphore.acquire().unwrap();
    section.enter();
    drop(permit);
}

/// A permit of a process that will be killed. It is dropped when the model is over, and then
/// changes nothing.
fn abandon(semaphore: &SharedSemaphore) -> SharedSendPermit {
    semaphore.acquire().unwrap().detach()
}

/// Catches a release that calls nobody, and a waiter that looks before it says that it waits.
#[test]
fn one_permit_admits_one_process_at_a_time() {
    model(|| {
        let memory = SharedMemory::new(1, 1, false);
        let section = Section::new();
        let other = thread::spawn({
            let (process, section) = (memory.attach(), section.clone());
            move || enter(&process, &section)
        });
        enter(&memory.attach(), &section);
        other.join().unwrap();
        assert_eq!(section.entered(), 2);
    });
}

/// Catches a waiter that sleeps on beside a process that has died.
#[test]
fn the_permit_of_a_dead_process_goes_to_who_waits() {
    model(|| {
        let memory = SharedMemory::new(1, 1, false);
        let dying = memory.attach();
        let late = abandon(&dying);
        let waiter = thread::spawn({
            let process = memory.attach();
            move || drop(process.acquire().unwrap())
        });
        memory.kill(0);
        waiter.join().unwrap();
        drop(late);
        assert_eq!(dying.stats().lost, 1);
    });
}

/// Catches a release that does not compare: it frees what another process has taken since.
#[test]
fn a_late_release_spares_who_has_the_permit_now() {
    model(|| {
        let memory = SharedMemory::new(1, 1, false);
        let (dying, heir, third) = (memory.attach(), memory.attach(), memory.attach());
        let zombie = thread::spawn({
            let permit = dying.acquire().unwrap().detach();
            move || drop(permit)
        });
        memory.kill(0);
        let permit = heir.acquire().unwrap();
        let second = third.try_acquire();
        assert_eq!(second.err(), Some(TryAcquireError::WouldBlock));
        zombie.join().unwrap();
        let second = third.try_acquire();
        assert_eq!(second.err(), Some(TryAcquireError::WouldBlock));
        drop(permit);
        assert!(third.try_acquire().is_ok());
    });
}

/// Catches a strict semaphore that gives away what a process whose descriptors are open has held.
#[test]
fn a_strict_permit_comes_back_with_the_last_descriptor() {
    model(|| {
        let memory = SharedMemory::new(1, 1, true);
        let (dying, heir) = (memory.attach(), memory.attach());
        let late = abandon(&dying);
        memory.kill(0);
        let refused = heir.try_acquire();
        assert_eq!(refused.err(), Some(TryAcquireError::WouldBlock));
        memory.close_descriptors(0);
        assert!(heir.try_acquire().is_ok());
        drop(late);
    });
}

/// Catches a request that keeps what it had collected when its time is up.
#[test]
fn a_timed_out_acquire_many_returns_its_share() {
    model(|| {
        let memory = SharedMemory::new(2, 2, false);
        let holder = memory.attach();
        let held = holder.acquire().unwrap();
        let process = memory.attach();
        let waiter = thread::spawn({
            let process = process.clone();
            move || {
                let both = process.acquire_many_timeout(2, Duration::from_millis(1));
                both.map(drop)
            }
        });
        Clock::advance(Duration::from_millis(1));
        drop(held);
        let outcome = waiter.join().unwrap();
        assert!(matches!(
            outcome,
            Ok(()) | Err(AcquireTimeoutError::TimedOut)
        ));
        assert_eq!(process.available(), 2);
    });
}

/// Catches two requests that each hold one permit and wait for the other's.
#[test]
fn two_who_collect_both_get_what_they_want() {
    model(|| {
        let memory = SharedMemory::new(2, 2, false);
        let other = thread::spawn({
            let process = memory.attach();
            move || drop(process.acquire_many(2).unwrap())
        });
        drop(memory.attach().acquire_many(2).unwrap());
        other.join().unwrap();
    });
}

/// Catches newcomers who pass a request that has waited for long.
#[test]
fn a_newcomer_queues_behind_who_starves() {
    model(|| {
        let memory = SharedMemory::new(1, 1, false);
        let (holder, starving, newcomer) = (memory.attach(), memory.attach(), memory.attach());
        let held = holder.acquire().unwrap();
        let (send, receive) = mpsc::channel();
        let tell = send.clone();
        let first = starving.acquire_with(move |permit| tell.send(permit).unwrap());
        Clock::advance(Duration::from_millis(2));
        // Another request has the first one looked after again.
        let second = starving.acquire_with(move |permit| send.send(permit).unwrap());
        drop(held);
        let refused = newcomer.try_acquire();
        assert_eq!(refused.err(), Some(TryAcquireError::WouldBlock));
        drop(second);
        let third = starving.acquire_with(|_| ());
        assert_eq!(run_deferred(), 1);
        assert_eq!(receive.recv().unwrap().unwrap().count(), 1);
        drop((first, third));
    });
}

/// Catches a call that goes to a request which stands behind the one that starves.
#[test]
fn who_starves_is_called_before_the_others() {
    model(|| {
        let memory = SharedMemory::new(1, 1, false);
        let holder = memory.attach();
        let held = holder.acquire().unwrap();
        let starving = thread::spawn({
            let process = memory.attach();
            move || drop(process.acquire().unwrap())
        });
        Clock::advance(Duration::from_millis(2));
        let other = thread::spawn({
            let process = memory.attach();
            move || drop(process.acquire().unwrap())
        });
        drop(held);
        starving.join().unwrap();
        other.join().unwrap();
    });
}

/// Catches a cut that leaves as many permits as there were.
#[test]
fn a_cut_beside_an_acquire_leaves_what_it_says() {
    model(|| {
        let memory = SharedMemory::new(2, 2, false);
        let (first, second) = (memory.attach(), memory.attach());
        let cut = thread::spawn({
            let process = first.clone();
            move || process.set_max(1).unwrap()
        });
        drop(second.try_acquire());
        cut.join().unwrap();
        assert_eq!((second.max(), second.available()), (1, 1));
        let held = second.try_acquire().unwrap();
        let refused = first.try_acquire();
        assert_eq!(refused.err(), Some(TryAcquireError::WouldBlock));
        drop(held);
        first.set_max(2).unwrap();
        assert!(second.try_acquire_many(2).is_ok());
    });
}

/// Catches a try that, its thread not run for long, puts itself before the others and is refused
/// because of that.
#[test]
fn a_slow_try_takes_what_is_free() {
    model(|| {
        let memory = SharedMemory::new(2, 2, false);
        let process = memory.attach();
        let time = thread::spawn(|| Clock::advance(Duration::from_millis(5)));
        assert!(process.try_acquire_many(2).is_ok());
        time.join().unwrap();
    });
}

/// Catches a cut after which a permit is taken again while more run than there are.
#[test]
fn after_a_cut_nobody_takes_until_enough_have_come_back() {
    model(|| {
        let memory = SharedMemory::new(3, 3, false);
        let (holder, first, second) = (memory.attach(), memory.attach(), memory.attach());
        let (low, middle, high) = (
            holder.acquire().unwrap(),
            holder.acquire().unwrap(),
            holder.acquire().unwrap(),
        );
        holder.set_max(2).unwrap();
        // Two cells are free, and one permit: both want it.
        drop((low, middle));
        let other = thread::spawn(move || second.try_acquire().map(SharedPermit::detach).ok());
        let mine = first.try_acquire().ok();
        let others = other.join().unwrap();
        assert!(mine.is_none() || others.is_none(), "three of two run");
        drop((mine, others, high));
        assert!(first.try_acquire_many(2).is_ok());
    });
}

/// Catches one who had found the gate open and takes a permit after it was shut and all were
/// counted.
#[test]
fn who_takes_beside_a_cut_is_counted_or_gives_back() {
    model(|| {
        let memory = SharedMemory::new(2, 2, false);
        let (holder, taker) = (memory.attach(), memory.attach());
        let (low, high) = (holder.acquire().unwrap(), holder.acquire().unwrap());
        drop(low);
        let other = thread::spawn(move || taker.try_acquire().map(SharedPermit::detach).ok());
        holder.set_max(1).unwrap();
        let running = holder.current();
        let taken = other.join().unwrap();
        assert!(running == 2 || taken.is_none(), "it came after the cut");
        drop((high, taken));
        assert_eq!(holder.available(), 1);
    });
}

/// Catches the end of a permit that was one too many and tells nobody.
#[test]
fn after_a_cut_who_waits_is_called_by_the_last_that_was_too_many() {
    model(|| {
        let memory = SharedMemory::new(2, 2, false);
        let holder = memory.attach();
        let (low, high) = (holder.acquire().unwrap(), holder.acquire().unwrap());
        holder.set_max(1).unwrap();
        let waiter = thread::spawn({
            let process = memory.attach();
            move || drop(process.acquire().unwrap())
        });
        drop(low);
        drop(high);
        waiter.join().unwrap();
    });
}

/// Catches a close that lets those sleep who wait.
#[test]
fn a_close_refuses_who_waits() {
    model(|| {
        let memory = SharedMemory::new(1, 1, false);
        let holder = memory.attach();
        let held = holder.acquire().unwrap();
        let waiter = thread::spawn({
            let process = memory.attach();
            move || process.acquire().map(drop)
        });
        holder.close();
        assert_eq!(waiter.join().unwrap(), Err(AcquireError::Closed));
        drop(held);
        assert_eq!(holder.available(), 1);
    });
}

/// Catches a lease that is renewed and taken back.
#[test]
fn a_lease_is_renewed_or_taken_back() {
    model(|| {
        let memory = SharedMemory::new(1, 1, false);
        let (holder, other) = (memory.attach(), memory.attach());
        let lease = holder.acquire_leased(Duration::from_millis(5)).unwrap();
        let taker = thread::spawn(move || {
            Clock::advance(Duration::from_millis(6));
            other.try_acquire_leased(Duration::from_secs(1)).ok()
        });
        let is_renewed = lease.renew(Duration::from_secs(1)).is_ok();
        let taken = taker.join().unwrap();
        if is_renewed {
            assert!(taken.is_none() && lease.is_live(), "it has two holders");
        }
        if let Some(taken) = taken {
            assert!(taken.token() > lease.token() && !lease.is_live());
        }
    });
}
