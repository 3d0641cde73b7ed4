//! Latches under many threads: one holder a key, no update lost, and nothing left behind.

mod support;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use latchwork::latch::{LatchError, LatchTable, LatchTimeoutError, SendLatch, TryLatchError};
use latchwork::rmw::{Rmw, RmwError};
use support::latched::{self, Cells, Counted};
use support::plain::Plain;
use support::{Storm, dawdle, expect_planned_panic, join, panic_quietly, size};

/// Everything is back, and nothing was ever leaked.
#[track_caller]
fn assert_quiet(table: &LatchTable<u64>) {
    latched::assert_quiet(table);
    assert_eq!(table.stats().leaked, 0);
}

struct Mixed {
    table: LatchTable<u64>,
    cells: Arc<Cells>,
    /// Closures of callbacks that exist.
    closures: Arc<AtomicU64>,
    /// To the thread that takes over detached latches, with their keys.
    porter: mpsc::Sender<(SendLatch, u64)>,
}

/// Each key once, as `latch_many` counts them.
fn bump_all(cells: &Cells, mut keys: Vec<u64>, held: usize, rng: &mut Rng) {
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), held);
    for key in keys {
        cells.bump(key, rng);
    }
}

impl Mixed {
    fn key(&self, rng: &mut Rng) -> u64 {
        self.cells.some_key(rng)
    }

    fn keys(&self, rng: &mut Rng) -> Vec<u64> {
        (0..rng.u8(0..5)).map(|_| self.key(rng)).collect()
    }

    fn bump_all(&self, keys: Vec<u64>, held: usize, rng: &mut Rng) {
        bump_all(&self.cells, keys, held, rng);
    }

    fn step(&self, rng: &mut Rng) {
        let Self { table, cells, .. } = self;
        let key = self.key(rng);
        let timeout = Duration::from_micros(rng.u64(0..1200));
        match rng.u8(0..16) {
            0 => match table.latch(&key) {
                Ok(_held) => cells.bump(key, rng),
                Err(error) => assert_eq!(error, LatchError::Busy),
            },
            1 => match table.try_latch(&key) {
                Ok(_held) => cells.bump(key, rng),
                Err(error) => assert_eq!(error, TryLatchError::WouldBlock),
            },
            2 => match table.latch_timeout(&key, timeout) {
                Ok(_held) => cells.bump(key, rng),
                Err(error) => assert_ne!(error, LatchTimeoutError::Reentrant),
            },
            3 => match table.latch_deadline(&key, Instant::now() + timeout) {
                Ok(_held) => cells.bump(key, rng),
                Err(error) => assert_ne!(error, LatchTimeoutError::Reentrant),
            },
            4..6 => {
                let keys = self.keys(rng);
                match table.latch_many(&keys) {
                    Ok(held) => self.bump_all(keys, held.len(), rng),
                    Err(error) => assert_eq!(error, LatchError::Busy),
                }
            }
            6 => {
                let keys = self.keys(rng);
                if let Ok(held) = table.try_latch_many(&keys) {
                    self.bump_all(keys, held.len(), rng);
                }
            }
            7 => {
                let keys = self.keys(rng);
                if let Ok(held) = table.latch_many_timeout(&keys, timeout) {
                    self.bump_all(keys, held.len(), rng);
                }
            }
            8 => {
                // Delivered to this thread, which waits for it.
                let (tell, told) = mpsc::channel();
                let counted = Counted::new(&self.closures);
                let pending = table.latch_with(&key, move |latch| {
                    let _counted = counted;
                    tell.send(latch).expect("somebody waits for it");
                });
                match told.recv().expect("told once") {
                    Ok(latch) if rng.bool() => {
                        let _held = latch.attach();
                        cells.bump(key, rng);
                    }
                    Ok(_held) => cells.bump(key, rng),
                    Err(error) => assert_eq!(error, LatchError::Busy),
                }
                drop(pending);
            }
            9 => {
                // Used where it is delivered, or cancelled.
                let (cells, counted) = (cells.clone(), Counted::new(&self.closures));
                let mut chance = rng.fork();
                let pending = table.latch_with(&key, move |latch| {
                    let _counted = counted;
                    match latch {
                        Ok(_held) => {
                            cells.bump(key, &mut chance);
                            if chance.u8(..) < 64 {
                                // With the latch in hand.
                                panic_quietly();
                            }
                        }
                        Err(error) => assert_eq!(error, LatchError::Busy),
                    }
                });
                dawdle(rng, 2000);
                drop(pending);
            }
            13 => {
                // As in 8, for several keys.
                let keys = self.keys(rng);
                let (tell, told) = mpsc::channel();
                let counted = Counted::new(&self.closures);
                let pending = table.latch_many_with(&keys, move |latches| {
                    let _counted = counted;
                    tell.send(latches).expect("somebody waits for it");
                });
                match told.recv().expect("told once") {
                    Ok(held) if rng.bool() => {
                        let held = held.attach();
                        self.bump_all(keys, held.len(), rng);
                    }
                    Ok(held) => self.bump_all(keys, held.len(), rng),
                    Err(error) => assert_eq!(error, LatchError::Busy),
                }
                drop(pending);
            }
            14 => {
                // As in 9, for several keys.
                let keys = self.keys(rng);
                let (cells, counted) = (self.cells.clone(), Counted::new(&self.closures));
                let mut chance = rng.fork();
                let pending = table.latch_many_with(&keys.clone(), move |latches| {
                    let _counted = counted;
                    match latches {
                        Ok(held) => bump_all(&cells, keys, held.len(), &mut chance),
                        Err(error) => assert_eq!(error, LatchError::Busy),
                    }
                });
                dawdle(rng, 2000);
                drop(pending);
            }
            10 => {
                if let Ok(held) = table.latch(&key) {
                    self.porter
                        .send((held.detach(), key))
                        .expect("the porter is there");
                }
            }
            11 => {
                // While one is held: no blocking call, but every other.
                let Ok(_held) = table.latch(&key) else { return };
                cells.bump(key, rng);
                let other = self.key(rng);
                assert_eq!(table.latch(&other).unwrap_err(), LatchError::Reentrant);
                assert_eq!(
                    table.latch_timeout(&other, timeout).unwrap_err(),
                    LatchTimeoutError::Reentrant
                );
                if let Ok(_held) = table.try_latch(&other) {
                    assert_ne!(key, other);
                    cells.bump(other, rng);
                }
            }
            12 => {
                if let Ok(held) = table.latch(&key) {
                    expect_planned_panic(|| {
                        let _held = held;
                        cells.bump(key, rng);
                        panic_quietly();
                    });
                }
            }
            _ => {
                // Nobody is dead, so nothing is taken over.
                assert_eq!(table.sweep(), 0);
                let shown = format!("{table:?} {:?}", table.stats());
                assert!(shown.contains("held"));
            }
        }
    }
}

fn every_way_at_once(name: &str, keys: u64, max_waiters: usize, steps: u64) {
    let storm = Storm::new(name);
    let table = LatchTable::<u64>::builder()
        .name(name)
        .max_waiters(max_waiters)
        .build()
        .unwrap();
    let cells = Cells::new(keys);
    let closures = Arc::new(AtomicU64::new(0));
    let (porter, carried) = mpsc::channel::<(SendLatch, u64)>();
    let porters_thread = thread::spawn({
        let (cells, mut rng) = (cells.clone(), storm.rng(0));
        move || {
            for (latch, key) in carried {
                if rng.bool() {
                    let _held = latch.attach();
                    cells.bump(key, &mut rng);
                } else {
                    cells.bump(key, &mut rng);
                    drop(latch);
                }
            }
        }
    });
    storm.run(8, |_, rng| {
        let mixed = Mixed {
            table: table.clone(),
            cells: cells.clone(),
            closures: closures.clone(),
            porter: porter.clone(),
        };
        for _ in 0..steps {
            mixed.step(rng);
        }
    });
    drop(porter);
    join(porters_thread.join());
    // Every closure was run or dropped.
    latched::await_quiet(&table, &closures);
    assert_quiet(&table);
    cells.assert_exact();
}

#[test]
fn one_holder_a_key_on_few_keys() {
    for keys in [1, 3] {
        every_way_at_once("few keys", keys, 1 << 16, size(4_000, 200_000));
    }
}

#[test]
fn one_holder_a_key_on_many_keys() {
    every_way_at_once("many keys", 5_000, 1 << 16, size(10_000, 500_000));
}

#[test]
fn a_full_line_refuses_and_applies_nothing() {
    every_way_at_once("full line", 2, 1, size(4_000, 200_000));
}

/// Without callback or clock, on one key: a release publishes by itself what was done under the
/// latch.
#[test]
fn a_release_publishes_what_was_done_under_the_latch() {
    let storm = Storm::new("release publishes");
    let table = LatchTable::<u64>::new();
    let cells = Cells::new(2);
    let tries = size(50_000, 2_000_000);
    storm.run(4, |_, rng| {
        for _ in 0..tries {
            let key = rng.u64(0..2);
            if let Ok(_held) = table.try_latch(&key) {
                cells.bump(key, rng);
            }
        }
    });
    assert_quiet(&table);
    cells.assert_exact();
}

#[test]
fn transfers_conserve_the_sum() {
    const ACCOUNTS: u64 = 6;
    const EACH: i64 = 1_000;
    let storm = Storm::new("transfers");
    let table = LatchTable::<u64>::new();
    let accounts: Vec<Plain> = (0..ACCOUNTS).map(|_| Plain::new(EACH)).collect();
    let steps = size(10_000, 500_000);
    storm.run(8, |_, rng| {
        for _ in 0..steps {
            if rng.u8(0..50) == 0 {
                // Everybody's at one moment.
                let _held = table.latch_many(&Vec::from_iter(0..ACCOUNTS)).unwrap();
                let sum: i64 = accounts.iter().map(Plain::get).sum();
                assert_eq!(sum, ACCOUNTS as i64 * EACH);
                continue;
            }
            let (from, to) = (rng.u64(0..ACCOUNTS), rng.u64(0..ACCOUNTS));
            let amount = rng.i64(1..100);
            let held = match rng.u8(0..3) {
                0 => table.try_latch_many(&[from, to]).ok(),
                1 => table
                    .latch_many_timeout(&[from, to], Duration::from_micros(rng.u64(0..800)))
                    .ok(),
                _ => Some(table.latch_many(&[from, to]).unwrap()),
            };
            if held.is_some() {
                accounts[from as usize].add(-amount, rng);
                accounts[to as usize].add(amount, rng);
            }
        }
    });
    assert_quiet(&table);
    let sum: i64 = accounts.iter().map(Plain::get).sum();
    assert_eq!(sum, ACCOUNTS as i64 * EACH);
}

/// The bar for lost updates: fifty threads, a thousand increments each, one key.
#[test]
fn no_increment_of_fifty_threads_is_lost() {
    const THREADS: u64 = 50;
    const EACH: u64 = 1_000;
    for _ in 0..size(1, 20) {
        let storm = Storm::new("no lost update");
        let table = LatchTable::<u64>::new();
        let cell = Plain::new(0);
        let seen = storm.run(THREADS, |_, rng| {
            let before: Vec<i64> = (0..EACH)
                .map(|_| {
                    let _held = table.latch(&7).unwrap();
                    cell.add(1, rng)
                })
                .collect();
            assert!(before.is_sorted());
            before
        });
        assert_eq!(cell.get() as u64, THREADS * EACH);
        assert_permutation(seen.concat(), 0);
        assert_quiet(&table);
    }
}

#[test]
fn no_incr_by_of_fifty_threads_is_lost() {
    const THREADS: u64 = 50;
    const EACH: u64 = 1_000;
    for _ in 0..size(1, 50) {
        let storm = Storm::new("no lost incr_by");
        let rmw = Rmw::new();
        let seen = storm.run(THREADS, |_, rng| {
            let mut after = Vec::new();
            for _ in 0..EACH {
                // What has no effect on the number may come between.
                match rng.u8(0..8) {
                    0 => drop(rmw.get("hits").unwrap()),
                    1 => assert!(!rmw.set_if_missing("hits", 0).unwrap() || after.is_empty()),
                    _ => {}
                }
                after.push(rmw.incr_by("hits", 1).unwrap());
            }
            assert!(after.is_sorted());
            after
        });
        assert_eq!(
            rmw.get("hits").unwrap(),
            Some(((THREADS * EACH) as i64).into())
        );
        assert_permutation(seen.concat(), 1);
    }
}

/// `numbers` are all those from `first` on, each once.
fn assert_permutation(mut numbers: Vec<i64>, first: i64) {
    numbers.sort_unstable();
    let all: Vec<i64> = (first..first + numbers.len() as i64).collect();
    assert_eq!(numbers, all);
}

/// Time-outs and cancelled callbacks race with the hand-off: every error left the value untouched.
#[test]
fn a_time_out_that_races_the_hand_off_changes_nothing() {
    const THREADS: u64 = 8;
    let tries = size(20_000, 1_000_000);
    for keys in [1, 3] {
        let storm = Storm::new("cancel means never");
        let table = LatchTable::<u64>::new();
        let cells = Cells::new(keys);
        let closures = Arc::new(AtomicU64::new(0));
        let (granted, timed_out) = (AtomicI64::new(0), AtomicU64::new(0));
        let delivered = Arc::new(AtomicI64::new(0));
        storm.run(THREADS, |_, rng| {
            for _ in 0..tries / THREADS {
                let key = rng.u64(0..keys);
                if rng.u8(0..8) == 0 {
                    let (cells, delivered) = (cells.clone(), delivered.clone());
                    let (counted, mut chance) = (Counted::new(&closures), rng.fork());
                    let pending = table.latch_with(&key, move |latch| {
                        let (_counted, _held) = (counted, latch.expect("room in the line"));
                        cells.bump(key, &mut chance);
                        delivered.fetch_add(1, Ordering::Relaxed);
                    });
                    dawdle(rng, 3000);
                    drop(pending);
                    continue;
                }
                // Half of them past the half millisecond for which newcomers may pass.
                let timeout = Duration::from_micros(rng.u64(0..1000));
                match table.latch_timeout(&key, timeout) {
                    Ok(_held) => {
                        cells.bump(key, rng);
                        granted.fetch_add(1, Ordering::Relaxed);
                        dawdle(rng, 4000);
                    }
                    Err(error) => {
                        assert_eq!(error, LatchTimeoutError::TimedOut);
                        timed_out.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        latched::await_quiet(&table, &closures);
        assert_quiet(&table);
        cells.assert_exact();
        let written: i64 = cells.sum();
        let granted = granted.into_inner() + delivered.load(Ordering::Relaxed);
        assert_eq!(written, granted);
        assert_eq!(
            table.stats().timeouts,
            timed_out.load(Ordering::Relaxed),
            "each is counted once"
        );
        println!(
            "{keys} keys: {timed_out:?} of {tries} timed out, {} were handed over",
            table.stats().hand_offs
        );
    }
}

/// The same for the store: a panicking update among increments leaves the value as it was.
#[test]
fn a_panicking_update_among_others_changes_nothing() {
    let storm = Storm::new("panicking updates");
    let rmw = Rmw::new();
    rmw.set("n", 0).unwrap();
    let added = AtomicI64::new(0);
    let steps = size(5_000, 200_000);
    storm.run(6, |_, rng| {
        for _ in 0..steps {
            let by = rng.i64(-10..=10);
            match rng.u8(0..4) {
                0 => expect_planned_panic(|| {
                    let unwinds: Result<(), RmwError> = rmw.update("n", |entry| {
                        entry.set("neither this");
                        entry.remove();
                        panic_quietly();
                    });
                    drop(unwinds);
                }),
                1 => {
                    rmw.update("n", |entry| {
                        let before = entry.integer().unwrap().unwrap();
                        entry.set(before + by);
                    })
                    .unwrap();
                    added.fetch_add(by, Ordering::Relaxed);
                }
                2 => drop(
                    rmw.incr_by("n", by)
                        .map(|_| added.fetch_add(by, Ordering::Relaxed)),
                ),
                _ => assert!(rmw.get("n").unwrap().unwrap().as_integer().is_some()),
            }
        }
    });
    assert_eq!(rmw.get("n").unwrap(), Some(added.into_inner().into()));
}
