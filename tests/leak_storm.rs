//! Guards that are leaked in every way a thread can leak them: all come back when it ends, each is
//! reported once.
//!
//! What frees a core is watched through its leak handler: the handler owns the sending half of a
//! channel, so the channel ends when the core is gone and every report has been delivered.

mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier, mpsc};
use std::thread::{self, JoinHandle};

use fastrand::Rng;
use latchwork::holder::{self, LeakReport};
use latchwork::latch::{LatchTable, OwnedLatch};
use latchwork::semaphore::{OwnedPermit, Semaphore, SendPermit};
use support::{Storm, dawdle, expect_planned_panic, join, panic_quietly, size};

/// Threads at a time.
const AT_ONCE: u64 = 4;

fn reporting_semaphore(permits: u64) -> (Semaphore, Receiver<LeakReport>) {
    let (send, reports) = channel();
    let semaphore = Semaphore::builder("leaky")
        .permits(permits)
        .on_leak(move |report| send.send(report).expect("the test listens"))
        .build()
        .unwrap();
    (semaphore, reports)
}

fn reporting_table() -> (LatchTable<u64>, Receiver<LeakReport>) {
    let (send, reports) = channel();
    let table = LatchTable::builder()
        .name("leaky")
        .on_leak(move |report| send.send(report).expect("the test listens"))
        .build()
        .unwrap();
    (table, reports)
}

/// The sums of the reports' amounts and of the reports, once every handle and claim is gone.
fn all_reports(reports: &Receiver<LeakReport>) -> (u64, u64) {
    reports.iter().fold((0, 0), |(amount, count), report| {
        assert_eq!(&*report.component, "leaky");
        assert!(report.acquired_at.file().ends_with("leak_storm.rs"));
        assert_eq!(report.thread.as_deref(), Some("leaker"));
        (amount + report.amount, count + 1)
    })
}

fn spawn<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::Builder::new()
        .name("leaker".to_owned())
        .spawn(job)
        .expect("a thread")
}

/// A guard in a reference cycle.
struct Cycle<G> {
    _guard: G,
    itself: RefCell<Option<Rc<Cycle<G>>>>,
}

fn leak_in_a_cycle<G>(guard: G) {
    let cycle = Rc::new(Cycle {
        _guard: guard,
        itself: RefCell::new(None),
    });
    *cycle.itself.borrow_mut() = Some(cycle.clone());
}

/// Guards in a thread-local, and what its destructor does with them.
#[derive(Default)]
struct Pocket {
    permits: Vec<OwnedPermit>,
    latches: Vec<OwnedLatch>,
    forgets: bool,
    /// Acquires and leaks a permit when everything else is over.
    late: Option<Semaphore>,
}

impl Drop for Pocket {
    fn drop(&mut self) {
        if self.forgets {
            self.permits.drain(..).for_each(std::mem::forget);
            self.latches.drain(..).for_each(std::mem::forget);
        }
        if let Some(semaphore) = &self.late {
            std::mem::forget(semaphore.acquire().unwrap());
        }
    }
}

thread_local! {
    static POCKET: RefCell<Pocket> = RefCell::default();
}

/// What a thread leaked: permits or latches, and by how many guards.
#[derive(Clone, Copy, Default)]
struct Leaked {
    amount: u64,
    guards: u64,
}

impl Leaked {
    fn add(&mut self, amount: u64, guards: u64) {
        self.amount += amount;
        self.guards += guards;
    }
}

/// Leaks without taking a handle along: the core is freed with its last handle and claim.
fn leak_permits(semaphore: &Semaphore, rng: &mut Rng) -> Leaked {
    let mut leaked = Leaked::default();
    for _ in 0..rng.u8(1..4) {
        let weight = rng.u64(1..4);
        let permit = semaphore.acquire_many(weight).unwrap();
        match rng.u8(0..7) {
            0 => {
                std::mem::forget(permit);
                leaked.add(weight, 1);
            }
            1 => {
                let _: &mut _ = Box::leak(Box::new(permit));
                leaked.add(weight, 1);
            }
            2 => {
                leak_in_a_cycle(permit);
                leaked.add(weight, 1);
            }
            3 => {
                let mut permit = permit;
                let part = permit.split(rng.u64(0..=weight)).expect("enough");
                if part.count() < weight {
                    leaked.add(weight - part.count(), 1);
                    std::mem::forget(permit);
                }
                drop(part);
            }
            // Among the leaked ones, some that are not.
            4 => drop(permit),
            5 => expect_planned_panic(|| {
                let _permit = permit;
                panic_quietly();
            }),
            _ => {
                // Leaked by a job that panics, and then by its thread's end all the same.
                expect_planned_panic(|| {
                    std::mem::forget(permit);
                    panic_quietly();
                });
                leaked.add(weight, 1);
            }
        }
    }
    leaked
}

/// Leaks owned guards, whose handles are leaked with them.
fn leak_owned_permits(semaphore: &Semaphore, rng: &mut Rng) -> Leaked {
    let mut leaked = Leaked::default();
    let weight = rng.u64(1..4);
    let permit = semaphore.acquire_many(weight).unwrap();
    match rng.u8(0..4) {
        0 => std::mem::forget(permit.into_owned()),
        1 => std::mem::forget(permit.detach().attach()),
        2 => {
            let _: &mut _ = Box::leak(Box::new(permit.detach().attach()));
        }
        _ => leak_in_a_cycle(permit.into_owned()),
    }
    leaked.add(weight, 1);
    leaked
}

/// Puts guards in a thread-local whose destructor drops or leaks them.
fn pocket_permits(semaphore: &Semaphore, rng: &mut Rng) -> Leaked {
    let mut leaked = Leaked::default();
    let weight = rng.u64(1..4);
    // Before the thread's first claim, or after it.
    if rng.bool() {
        POCKET.with_borrow_mut(|pocket| pocket.permits.clear());
    }
    let permit = semaphore.acquire_many(weight).unwrap().into_owned();
    POCKET.with_borrow_mut(|pocket| {
        pocket.permits.push(permit);
        pocket.forgets = rng.bool();
        if pocket.forgets {
            leaked.add(weight, 1);
        }
        if rng.bool() {
            pocket.late = Some(semaphore.clone());
            leaked.add(1, 1);
        }
    });
    leaked
}

/// Joins the thread, which may end in a planned panic, and says what it leaked.
fn outcome(thread: JoinHandle<()>, told: &Receiver<Leaked>) -> Leaked {
    // The promise is made at the join; only what the thread told before it is read after.
    let _ = thread.join();
    told.recv().expect("told before the end")
}

/// Tells, and ends the thread with or without a panic.
fn end(tell: &mpsc::Sender<Leaked>, leaked: Leaked, rng: &mut Rng) {
    tell.send(leaked).expect("the test listens");
    if rng.u8(0..4) == 0 {
        panic_quietly();
    }
}

#[test]
fn permits_leaked_by_ending_threads_are_back_at_the_join() {
    let storm = Storm::new("leaked permits");
    const PERMITS: u64 = 64;
    let (semaphore, reports) = reporting_semaphore(PERMITS);
    let mut total = Leaked::default();
    for batch in 0..size(2_000, 100_000) / AT_ONCE {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|index| {
                let (semaphore, mut rng) =
                    (semaphore.clone(), storm.rng(1 + batch * AT_ONCE + index));
                let (tell, told) = channel();
                let thread = spawn(move || {
                    let leaked = match rng.u8(0..4) {
                        0 => pocket_permits(&semaphore, &mut rng),
                        1 => leak_owned_permits(&semaphore, &mut rng),
                        _ => leak_permits(&semaphore, &mut rng),
                    };
                    end(&tell, leaked, &mut rng);
                });
                (thread, told)
            })
            .collect();
        for (thread, told) in threads {
            let leaked = outcome(thread, &told);
            total.add(leaked.amount, leaked.guards);
        }
        assert_eq!(semaphore.available(), PERMITS, "batch {batch}");
        assert_eq!(semaphore.current(), 0);
    }
    assert_eq!(semaphore.waiters(), 0);
    assert_eq!(semaphore.stats().leaked, total.amount);
    // Handles were leaked with the owned guards, so the channel does not end by itself: a last
    // leak, reported behind all others, marks the end.
    let last = semaphore.clone();
    join(spawn(move || std::mem::forget(last.acquire_many(PERMITS).unwrap())).join());
    let (mut amount, mut guards) = (0, 0);
    for report in reports.iter().take_while(|report| report.amount != PERMITS) {
        amount += report.amount;
        guards += 1;
    }
    assert_eq!((amount, guards), (total.amount, total.guards));
    println!("{guards} leaks of {amount} permits");
}

/// The handles go before, while or after the guards that were leaked come back.
#[test]
fn permits_may_outlive_their_semaphore() {
    let storm = Storm::new("outlived semaphores");
    let mut chance = storm.rng(0);
    for batch in 0..size(2_000, 100_000) / AT_ONCE {
        let (semaphore, reports) = reporting_semaphore(64);
        let (tell, told) = channel();
        let ready = Arc::new(Barrier::new(AT_ONCE as usize + 1));
        let early = chance.bool();
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|index| {
                let (semaphore, mut rng) =
                    (semaphore.clone(), storm.rng(1 + batch * AT_ONCE + index));
                let (tell, ready) = (tell.clone(), ready.clone());
                spawn(move || {
                    let leaked = leak_permits(&semaphore, &mut rng);
                    if early {
                        drop(semaphore);
                        ready.wait();
                        end(&tell, leaked, &mut rng);
                    } else {
                        // The last handle goes on one thread while another's guards come back.
                        ready.wait();
                        dawdle(&mut rng, 300);
                        drop(semaphore);
                        end(&tell, leaked, &mut rng);
                    }
                })
            })
            .collect();
        drop(tell);
        if early {
            drop(semaphore);
            ready.wait();
        } else {
            ready.wait();
            dawdle(&mut chance, 300);
            drop(semaphore);
        }
        for thread in threads {
            let _ = thread.join();
        }
        let total = told.iter().fold((0, 0), |(amount, guards), leaked| {
            (amount + leaked.amount, guards + leaked.guards)
        });
        assert_eq!(all_reports(&reports), total, "batch {batch}");
    }
}

#[test]
fn latches_leaked_by_ending_threads_are_back_at_the_join() {
    let storm = Storm::new("leaked latches");
    let (table, reports) = reporting_table();
    let mut total = 0;
    for batch in 0..size(2_000, 100_000) / AT_ONCE {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|index| {
                let (table, mut rng) = (table.clone(), storm.rng(1 + batch * AT_ONCE + index));
                let (tell, told) = channel();
                let thread = spawn(move || {
                    let mut leaked = Leaked::default();
                    // Few enough keys for the threads to wait for what others have leaked.
                    let keys = [rng.u64(0..6), rng.u64(0..6)];
                    match rng.u8(0..7) {
                        0 => std::mem::forget(table.latch(&keys[0]).unwrap()),
                        1 => leak_in_a_cycle(table.latch(&keys[0]).unwrap()),
                        2 => {
                            let _: &mut _ = Box::leak(Box::new(table.latch(&keys[0]).unwrap()));
                        }
                        3 => {
                            let both = table.latch_many(&keys).unwrap();
                            leaked.add(both.len() as u64 - 1, both.len() as u64 - 1);
                            std::mem::forget(both);
                        }
                        4 => {
                            let latch = table.latch(&keys[0]).unwrap().detach();
                            std::mem::forget(latch.attach());
                        }
                        5 => {
                            let latch = table.latch(&keys[0]).unwrap().detach().attach();
                            POCKET.with_borrow_mut(|pocket| {
                                pocket.latches.push(latch);
                                pocket.forgets = true;
                            });
                        }
                        _ => {
                            let latch = table.latch(&keys[0]).unwrap().detach().attach();
                            POCKET.with_borrow_mut(|pocket| pocket.latches.push(latch));
                            end(&tell, leaked, &mut rng);
                            return;
                        }
                    }
                    leaked.add(1, 1);
                    end(&tell, leaked, &mut rng);
                });
                (thread, told)
            })
            .collect();
        for (thread, told) in threads {
            total += outcome(thread, &told).guards;
        }
        assert_eq!(table.held(), 0, "batch {batch}");
        assert_eq!(table.waiters(), 0);
        assert_eq!(table.sweep(), 0);
    }
    assert_eq!(table.stats().leaked, total);
    for report in reports.iter().take(total as usize) {
        assert_eq!(report.amount, 1);
    }
    // Behind all others, and the only one left.
    let last = table.clone();
    join(
        thread::Builder::new()
            .name("last".to_owned())
            .spawn(move || std::mem::forget(last.latch(&0).unwrap()))
            .unwrap()
            .join(),
    );
    assert_eq!(reports.recv().unwrap().thread.as_deref(), Some("last"));
    println!("{total} latches leaked");
}

#[test]
fn latches_may_outlive_their_table() {
    let storm = Storm::new("outlived tables");
    let mut chance = storm.rng(0);
    for batch in 0..size(2_000, 100_000) / AT_ONCE {
        let (table, reports) = reporting_table();
        let ready = Arc::new(Barrier::new(AT_ONCE as usize + 1));
        let early = chance.bool();
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|index| {
                let (table, mut rng) = (table.clone(), storm.rng(1 + batch * AT_ONCE + index));
                let ready = ready.clone();
                spawn(move || {
                    let latch = table.latch(&index).unwrap();
                    if rng.bool() {
                        std::mem::forget(latch);
                    } else {
                        leak_in_a_cycle(latch);
                    }
                    if early {
                        drop(table);
                        ready.wait();
                    } else {
                        ready.wait();
                        dawdle(&mut rng, 300);
                        drop(table);
                    }
                })
            })
            .collect();
        if early {
            drop(table);
            ready.wait();
        } else {
            ready.wait();
            dawdle(&mut chance, 300);
            drop(table);
        }
        for thread in threads {
            join(thread.join());
        }
        assert_eq!(all_reports(&reports), (AT_ONCE, AT_ONCE), "batch {batch}");
    }
}

/// Each thread leaks what the next one waits for: blocked, or by a callback that the library's
/// thread runs.
#[test]
fn what_a_thread_leaks_serves_those_who_wait() {
    let storm = Storm::new("leaks serve waiters");
    for batch in 0..size(2_000, 100_000) / AT_ONCE {
        let (semaphore, reports) = reporting_semaphore(1);
        let (table, latch_reports) = reporting_table();
        let (served, permits) = channel::<SendPermit>();
        let mut pending = Vec::new();
        let held = semaphore.acquire().unwrap();
        for _ in 0..2 {
            let served = served.clone();
            pending.push(semaphore.acquire_with(move |permit| {
                served
                    .send(permit.expect("not closed"))
                    .expect("the test listens");
            }));
        }
        drop(served);
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|index| {
                let (semaphore, table) = (semaphore.clone(), table.clone());
                let mut rng = storm.rng(1 + batch * AT_ONCE + index);
                spawn(move || {
                    if rng.bool() {
                        std::mem::forget(table.latch(&1).unwrap());
                    }
                    // Last: whoever holds the permit waits for nothing else.
                    std::mem::forget(semaphore.acquire().unwrap());
                })
            })
            .collect();
        drop(held);
        // The callbacks stand in line with the threads; each gives its permit on.
        assert_eq!(permits.iter().map(drop).count(), 2);
        for thread in threads {
            join(thread.join());
        }
        assert_eq!(semaphore.available(), 1);
        assert_eq!(semaphore.waiters(), 0);
        assert_eq!((table.held(), table.waiters()), (0, 0));
        assert_eq!(semaphore.stats().leaked, AT_ONCE);
        let latches = table.stats().leaked;
        drop((semaphore, table, pending));
        assert_eq!(all_reports(&reports), (AT_ONCE, AT_ONCE), "batch {batch}");
        assert_eq!(all_reports(&latch_reports), (latches, latches));
    }
}

/// Threads that do not end: each job is a thread's life of its own.
#[test]
fn a_job_of_a_pool_thread_leaks_nothing() {
    let storm = Storm::new("leaking jobs");
    let (semaphore, reports) = reporting_semaphore(64);
    let (table, latch_reports) = reporting_table();
    let jobs = size(5_000, 250_000);
    let threads: Vec<JoinHandle<(Leaked, u64)>> = (0..AT_ONCE)
        .map(|index| {
            let (semaphore, table) = (semaphore.clone(), table.clone());
            let mut rng = storm.rng(1 + index);
            spawn(move || {
                // Seen by this thread alone, so exact after each job.
                let (own, own_reports) = reporting_semaphore(64);
                let kept = own.acquire().unwrap();
                let mut leaked = Leaked::default();
                let mut of_own = Leaked::default();
                let mut of_table = 0;
                for _ in 0..jobs {
                    let ((shared, of_this), latches) = holder::scope(|| {
                        let shared = leak_permits(&semaphore, &mut rng);
                        let mut of_this = leak_permits(&own, &mut rng);
                        let key = rng.u64(0..3);
                        let latches = match rng.u8(0..3) {
                            0 => {
                                std::mem::forget(table.latch(&key).unwrap());
                                1
                            }
                            1 => {
                                // Within the scope's own scope.
                                holder::scope(|| std::mem::forget(table.latch(&key).unwrap()));
                                drop(table.latch(&key).unwrap());
                                1
                            }
                            _ => 0,
                        };
                        if rng.u8(0..4) == 0 {
                            // Outlives the job in a thread-local, and is empty after it.
                            let permit = own.acquire().unwrap().into_owned();
                            POCKET.with_borrow_mut(|pocket| pocket.permits.push(permit));
                            of_this.add(1, 1);
                        }
                        ((shared, of_this), latches)
                    });
                    assert_eq!(own.current(), 1, "only what was taken before the job");
                    POCKET.with_borrow_mut(|pocket| {
                        assert!(pocket.permits.iter().all(|permit| permit.count() == 0));
                        pocket.permits.clear();
                    });
                    assert_eq!(own.current(), 1, "a guard that comes late changes nothing");
                    leaked.add(shared.amount, shared.guards);
                    of_table += latches;
                    of_own.add(of_this.amount, of_this.guards);
                }
                assert_eq!(kept.count(), 1);
                drop(kept);
                assert_eq!(own.stats().leaked, of_own.amount);
                drop(own);
                assert_eq!(all_reports(&own_reports), (of_own.amount, of_own.guards));
                (leaked, of_table)
            })
        })
        .collect();
    let (mut total, mut latches) = (Leaked::default(), 0);
    for thread in threads {
        let (leaked, of_table) = join(thread.join());
        total.add(leaked.amount, leaked.guards);
        latches += of_table;
    }
    assert_eq!((semaphore.current(), semaphore.waiters()), (0, 0));
    assert_eq!((table.held(), table.waiters()), (0, 0));
    drop((semaphore, table));
    assert_eq!(all_reports(&reports), (total.amount, total.guards));
    assert_eq!(all_reports(&latch_reports), (latches, latches));
}

/// Detached guards belong to no thread: its end does not touch them, whoever receives them returns
/// them.
#[test]
fn detached_guards_pass_through_ending_threads() {
    let storm = Storm::new("detached guards");
    for batch in 0..size(500, 20_000) {
        let (semaphore, reports) = reporting_semaphore(8);
        let mut rng = storm.rng(batch);
        let mut permit = semaphore.acquire_many(3).unwrap().detach();
        drop(semaphore);
        for _ in 0..rng.u8(1..4) {
            let attaches = rng.bool();
            permit = join(
                spawn(move || {
                    if attaches {
                        permit.attach().detach()
                    } else {
                        permit
                    }
                })
                .join(),
            );
            assert_eq!(permit.count(), 3);
        }
        let leaks = rng.bool();
        if leaks {
            // With a handle along: the core stays, and is heard of once.
            join(spawn(move || std::mem::forget(permit.attach())).join());
            assert_eq!(reports.recv().unwrap().amount, 3);
            assert!(reports.try_recv().is_err());
        } else {
            drop(permit);
            assert_eq!(all_reports(&reports), (0, 0));
        }
    }
}
