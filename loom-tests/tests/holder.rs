//! Models of claims: what a leaked guard held comes back exactly once.
#![cfg(latchwork_loom)]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use latchwork::holder;
use latchwork::latch::OwnedLatch;
use latchwork::model::{loom, model, run_deferred, thread};
use latchwork::semaphore::OwnedPermit;
use latchwork::{LatchTable, Semaphore};
use latchwork_loom_tests::Section;

loom::thread_local! {
    static PERMIT: RefCell<Option<OwnedPermit>> = RefCell::new(None);
    static LATCH: RefCell<Option<OwnedLatch>> = RefCell::new(None);
}

/// Catches a leak that is reported twice, or never; and a reclaim that leaves its claim on the
/// list, where the next thread that gets it finds it again.
#[test]
fn each_leak_is_reported_once() {
    model(|| {
        let reports = Arc::new(AtomicU64::new(0));
        let semaphore = Semaphore::builder("model")
            .permits(2)
            .on_leak({
                let reports = reports.clone();
                move |report| {
                    reports.fetch_add(report.amount, Ordering::Relaxed);
                }
            })
            .build()
            .unwrap();
        let leak = || {
            let semaphore = semaphore.clone();
            thread::spawn(move || std::mem::forget(semaphore.acquire().unwrap()))
        };
        let (one, two) = (leak(), leak());
        one.join().unwrap();
        run_deferred();
        two.join().unwrap();
        run_deferred();
        // A thread that gets the list of one of those above.
        leak().join().unwrap();
        assert_eq!(run_deferred(), 1);
        assert_eq!(reports.load(Ordering::Relaxed), 3);
        assert_eq!((semaphore.available(), semaphore.stats().leaked), (2, 3));
    });
}

/// Catches a guard that is dropped late, after its permit was reclaimed, and gives back one that
/// somebody else has by now.
#[test]
fn a_permit_dropped_after_its_reclaim_gives_nothing_back() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let section = Section::new();
        let other = thread::spawn({
            let (semaphore, section) = (semaphore.clone(), section.clone());
            move || {
                let permit = semaphore.acquire().unwrap();
                section.enter();
                drop(permit);
            }
        });
        holder::scope(|| {
            let permit = semaphore.acquire().unwrap();
            section.enter();
            PERMIT.with(|kept| kept.replace(Some(permit.into_owned())));
        });
        drop(PERMIT.with(RefCell::take));
        other.join().unwrap();
        assert_eq!((semaphore.available(), semaphore.stats().leaked), (1, 1));
    });
}

/// Catches a guard that is dropped late, after its latch was taken over, and releases it for its
/// fresh owner.
#[test]
fn a_latch_dropped_after_its_take_over_spares_the_fresh_owner() {
    model(|| {
        let table = LatchTable::<str>::new();
        let section = Section::new();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let (table, section) = (table.clone(), section.clone());
                thread::spawn(move || {
                    let held = table.latch("key").unwrap();
                    section.enter();
                    drop(held);
                })
            })
            .collect();
        holder::scope(|| {
            let held = table.latch("key").unwrap();
            section.enter();
            LATCH.with(|kept| kept.replace(Some(held.detach().attach())));
        });
        drop(LATCH.with(RefCell::take));
        for other in others {
            other.join().unwrap();
        }
        assert_eq!((table.held(), table.waiters()), (0, 0));
        assert_eq!((section.entered(), table.stats().leaked), (3, 1));
    });
}

/// Catches a callback that an ending thread hands its permit to and that nobody runs.
#[test]
fn a_leaked_permit_reaches_a_callback() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let section = Section::new();
        let leaker = thread::spawn({
            let (semaphore, section) = (semaphore.clone(), section.clone());
            move || {
                let permit = semaphore.acquire().unwrap();
                section.enter();
                std::mem::forget(permit);
            }
        });
        let pending = semaphore.acquire_with({
            let section = section.clone();
            move |permit| {
                section.enter();
                drop(permit.unwrap());
            }
        });
        leaker.join().unwrap();
        run_deferred();
        assert!(pending.is_delivered());
        assert_eq!((section.entered(), semaphore.available()), (2, 1));
    });
}

/// Goes through its section when it is dropped.
struct LastOut(Section);

impl Drop for LastOut {
    fn drop(&mut self) {
        self.0.enter();
    }
}

/// Catches a core that the last handle frees without seeing what the others did before they let go,
/// and one that nobody frees.
#[test]
fn the_last_handle_sees_what_the_others_did() {
    model(|| {
        let section = Section::new();
        let last_out = LastOut(section.clone());
        let semaphore = Semaphore::builder("model")
            .on_leak(move |_| last_out.0.enter())
            .build()
            .unwrap();
        let other = thread::spawn({
            let semaphore = semaphore.clone();
            move || {
                section.enter();
                drop(semaphore);
            }
        });
        drop(semaphore);
        other.join().unwrap();
    });
}

/// Catches a core that is freed by neither, or by both, of two threads that leaked a permit on it.
#[test]
fn the_last_of_two_leaked_permits_frees_the_semaphore() {
    model(|| {
        let semaphore = Semaphore::builder("model").permits(2).build().unwrap();
        let leakers: Vec<_> = (0..2)
            .map(|_| {
                let semaphore = semaphore.clone();
                thread::spawn(move || std::mem::forget(semaphore.acquire().unwrap()))
            })
            .collect();
        drop(semaphore);
        for leaker in leakers {
            leaker.join().unwrap();
        }
    });
}

/// Catches a latch that changes threads while nobody's list has it, and does not come back from the
/// one it went to.
#[test]
fn a_latch_that_was_sent_comes_back_from_its_new_thread() {
    model(|| {
        let table = LatchTable::<str>::new();
        let section = Section::new();
        let held = table.latch("key").unwrap();
        section.enter();
        let held = held.detach();
        let other = thread::spawn({
            let section = section.clone();
            move || {
                holder::scope(|| {
                    let held = held.attach();
                    section.enter();
                    LATCH.with(|kept| kept.replace(Some(held)));
                });
                // Forgotten, it would take its handle on the table along.
                drop(LATCH.with(RefCell::take));
            }
        });
        let held = table.latch("key").unwrap();
        section.enter();
        drop(held);
        other.join().unwrap();
        assert_eq!((table.held(), table.waiters()), (0, 0));
        assert_eq!((section.entered(), table.stats().leaked), (3, 1));
    });
}

/// Catches a latch that a sweep and the end of its thread both take over.
#[test]
fn a_sweep_and_the_end_of_a_thread_take_a_latch_over_once() {
    model(|| {
        let table = LatchTable::<str>::new();
        let section = Section::new();
        let leaker = thread::spawn({
            let (table, section) = (table.clone(), section.clone());
            move || {
                let held = table.latch("key").unwrap();
                section.enter();
                thread::yield_now();
                std::mem::forget(held);
            }
        });
        let waiter = thread::spawn({
            let (table, section) = (table.clone(), section.clone());
            move || {
                let held = table.latch("key").unwrap();
                section.enter();
                drop(held);
            }
        });
        table.sweep();
        leaker.join().unwrap();
        waiter.join().unwrap();
        assert_eq!((table.held(), table.waiters()), (0, 0));
        assert_eq!((section.entered(), table.stats().leaked), (2, 1));
    });
}
