//! Updates that threads run for each other, among everything else that a latch table does: each
//! operation is done once or, where its call says so, never.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use latchwork::holder;
use latchwork::latch::{LatchError, LatchTable, LatchTimeoutError, TryLatchError};
use support::latched::{Cells, Counted, assert_quiet, await_quiet};
use support::{Storm, dawdle, expect_planned_panic, join, panic_quietly, size};

const THREADS: u64 = 16;

/// One shard: of more than eight keys, some share a word.
fn table(max_waiters: usize) -> LatchTable<u64> {
    let table = LatchTable::builder().shards(1).max_waiters(max_waiters);
    table.build().unwrap()
}

struct Mixed {
    table: LatchTable<u64>,
    cells: Arc<Cells>,
    leaked: Arc<AtomicU64>,
    /// Closures of callbacks that exist.
    closures: Arc<AtomicU64>,
}

impl Mixed {
    fn key(&self, rng: &mut Rng) -> u64 {
        self.cells.some_key(rng)
    }

    fn step(&self, rng: &mut Rng) {
        let Self { table, cells, .. } = self;
        let key = self.key(rng);
        let timeout = Duration::from_micros(rng.u64(0..800));
        let mut chance = rng.fork();
        match rng.u8(0..20) {
            0..6 => match table.update(&key, || cells.add(key, &mut chance)) {
                Ok(()) => cells.count(key),
                Err(error) => assert_eq!(error, LatchError::Busy),
            },
            6..9 => match table.update_timeout(&key, timeout, || cells.add(key, &mut chance)) {
                Ok(()) => cells.count(key),
                Err(error) => assert_ne!(error, LatchTimeoutError::Reentrant),
            },
            9 => {
                // Longer than one thread works for others.
                let slow = || {
                    cells.add(key, &mut chance);
                    dawdle(&mut chance, 20_000);
                };
                match table.update(&key, slow) {
                    Ok(()) => cells.count(key),
                    Err(error) => assert_eq!(error, LatchError::Busy),
                }
            }
            10..12 => {
                // The panic comes here, wherever the operation ran.
                let begun = AtomicBool::new(false);
                let panics = || {
                    begun.store(true, Ordering::Relaxed);
                    cells.add(key, &mut chance);
                    panic_quietly();
                };
                let hasty = rng.bool();
                expect_planned_panic(|| {
                    if hasty {
                        let _ = table.update_timeout(&key, timeout, panics);
                    } else {
                        let _ = table.update(&key, panics);
                    }
                    assert!(!begun.load(Ordering::Relaxed), "the panic is lost");
                    panic_quietly();
                });
                if begun.load(Ordering::Relaxed) {
                    cells.count(key);
                }
            }
            12 => {
                // Inside, whoever runs it: no call that waits, but every other.
                let other = self.key(rng);
                let inside = || {
                    cells.add(key, &mut chance);
                    assert_eq!(table.latch(&other).unwrap_err(), LatchError::Reentrant);
                    assert_eq!(table.update(&other, || ()), Err(LatchError::Reentrant));
                    let again = table.update_timeout(&other, timeout, || ());
                    assert_eq!(again, Err(LatchTimeoutError::Reentrant));
                    match table.try_latch(&other) {
                        Ok(_held) => {
                            assert_ne!(key, other);
                            cells.bump(other, &mut chance);
                        }
                        Err(error) => assert_eq!(error, TryLatchError::WouldBlock),
                    }
                };
                match table.update(&key, inside) {
                    Ok(()) => cells.count(key),
                    Err(error) => assert_eq!(error, LatchError::Busy),
                }
            }
            13 => match table.latch(&key) {
                Ok(_held) => cells.bump(key, rng),
                Err(error) => assert_eq!(error, LatchError::Busy),
            },
            14 => match table.try_latch(&key) {
                Ok(_held) => cells.bump(key, rng),
                Err(error) => assert_eq!(error, TryLatchError::WouldBlock),
            },
            15 => match table.latch_timeout(&key, timeout) {
                Ok(_held) => cells.bump(key, rng),
                Err(error) => assert_ne!(error, LatchTimeoutError::Reentrant),
            },
            16 => {
                let mut keys: Vec<u64> = (0..rng.u8(0..4)).map(|_| self.key(rng)).collect();
                if let Ok(_held) = table.latch_many(&keys) {
                    keys.sort_unstable();
                    keys.dedup();
                    keys.into_iter().for_each(|key| cells.bump(key, rng));
                }
            }
            17 => {
                // Called or cancelled, here or where it is delivered.
                let (cells, counted) = (cells.clone(), Counted::new(&self.closures));
                let pending = table.latch_with(&key, move |latch| {
                    let _counted = counted;
                    if let Ok(_held) = latch {
                        cells.bump(key, &mut chance);
                    }
                });
                dawdle(rng, 2000);
                drop(pending);
            }
            18 => {
                let leaks = || {
                    if let Ok(held) = table.latch(&key) {
                        cells.bump(key, &mut chance);
                        self.leaked.fetch_add(1, Ordering::Relaxed);
                        std::mem::forget(held);
                    }
                };
                if rng.u8(0..8) == 0 {
                    // An explicit join: the latch is back.
                    thread::scope(|scope| join(scope.spawn(leaks).join()));
                } else {
                    holder::scope(leaks);
                }
            }
            _ => {
                assert_eq!(table.sweep(), 0, "nobody is dead");
                assert!(format!("{table:?} {:?}", table.stats()).contains("held"));
            }
        }
    }
}

fn every_way_at_once(name: &str, keys: u64, max_waiters: usize, steps: u64) {
    let storm = Storm::new(name);
    let table = table(max_waiters);
    let cells = Cells::new(keys);
    let leaked = Arc::new(AtomicU64::new(0));
    let closures = Arc::new(AtomicU64::new(0));
    storm.run(THREADS, |_, rng| {
        let mixed = Mixed {
            table: table.clone(),
            cells: cells.clone(),
            leaked: leaked.clone(),
            closures: closures.clone(),
        };
        for _ in 0..steps {
            mixed.step(rng);
        }
    });
    await_quiet(&table, &closures);
    assert_quiet(&table);
    assert_eq!(table.stats().leaked, leaked.load(Ordering::Relaxed));
    cells.assert_exact();
}

#[test]
fn each_operation_on_one_key_is_done_once() {
    every_way_at_once("one key", 1, 1 << 16, size(3_000, 100_000));
}

#[test]
fn each_operation_on_keys_that_share_words_is_done_once() {
    every_way_at_once("shared words", 12, 1 << 16, size(3_000, 100_000));
}

#[test]
fn each_operation_that_gets_in_a_counted_line_is_done_once() {
    every_way_at_once("counted line", 3, 3, size(3_000, 100_000));
}

/// Time-outs race with whoever takes the operation out of line: every error left its cell
/// untouched, for good.
#[test]
fn an_update_that_timed_out_is_never_done() {
    let tries = size(2_000, 1_000_000 / THREADS);
    for keys in [1, 9] {
        let storm = Storm::new("timed out means never");
        let table = table(1 << 16);
        let cells = Cells::new(keys);
        storm.run(THREADS, |_, rng| {
            for _ in 0..tries {
                let key = rng.u64(0..keys);
                let mut chance = rng.fork();
                let operation = || cells.add(key, &mut chance);
                // Some have no deadline, and run the others'.
                let done = match rng.u8(0..4) {
                    0 => table.update(&key, operation).is_ok(),
                    _ => {
                        let timeout = Duration::from_nanos(rng.u64(0..60_000));
                        table.update_timeout(&key, timeout, operation).is_ok()
                    }
                };
                if done {
                    cells.count(key);
                }
            }
        });
        assert_quiet(&table);
        cells.assert_exact();
    }
}

/// An operation, or a callback, may use another table: what it waits for there does not reach the
/// wait of the thread that happens to run it, nor the other way round.
#[test]
fn what_runs_on_a_thread_in_line_may_use_another_table() {
    let storm = Storm::new("another table");
    let keys = 12;
    let (outer, inner) = (table(1 << 16), table(1 << 16));
    let (outers, inners) = (Cells::new(keys), Cells::new(2));
    let closures = Arc::new(AtomicU64::new(0));
    let steps = size(4_000, 100_000);
    storm.run(THREADS, |_, rng| {
        for _ in 0..steps {
            let (key, other) = (rng.u64(0..keys), rng.u64(0..2));
            let mut chance = rng.fork();
            match rng.u8(0..12) {
                0 => {
                    let _held = outer.latch(&key).unwrap();
                    outers.bump(key, rng);
                }
                1 => {
                    let (inner, outers, inners) = (inner.clone(), outers.clone(), inners.clone());
                    let counted = Counted::new(&closures);
                    let pending = outer.latch_with(&key, move |latch| {
                        let _counted = counted;
                        {
                            let _held = latch.unwrap();
                            outers.bump(key, &mut chance);
                        }
                        inner
                            .update(&other, || inners.bump(other, &mut chance))
                            .unwrap();
                    });
                    dawdle(rng, 2000);
                    drop(pending);
                }
                2..5 => {
                    inner
                        .update(&other, || inners.bump(other, &mut chance))
                        .unwrap();
                }
                5 => {
                    let _held = inner.latch(&other).unwrap();
                    inners.bump(other, rng);
                }
                way => {
                    let nested = || {
                        outers.add(key, &mut chance);
                        if way < 7 {
                            let _held = inner.latch(&other).unwrap();
                            inners.bump(other, &mut chance);
                        } else {
                            inner
                                .update(&other, || inners.bump(other, &mut chance))
                                .unwrap();
                        }
                    };
                    outer.update(&key, nested).unwrap();
                    outers.count(key);
                }
            }
        }
    });
    await_quiet(&outer, &closures);
    assert_quiet(&outer);
    assert_quiet(&inner);
    outers.assert_exact();
    inners.assert_exact();
}

/// A key whose latch is held for long keeps nobody from another key of its word. The period of the
/// sweep is longer than any storm: nothing else would free who was handed over to the wrong holder.
#[test]
fn a_held_key_keeps_no_update_of_its_neighbour_waiting() {
    let storm = Storm::new("neighbours");
    let table = LatchTable::builder().shards(1);
    let table = table
        .sweep_every(Duration::from_secs(1 << 20))
        .build()
        .unwrap();
    // With one shard, these bits choose the word.
    let word = |key: u64| (table.hash_of(&key) >> 24) % 8;
    let (long, short) = (0, (1..).find(|key| word(*key) == word(0)).unwrap());
    let (cells, done) = (Cells::new(1), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    let rounds = size(10_000, 100_000);
    storm.run(4, |index, rng| {
        if index > 0 {
            while !over.load(Ordering::Relaxed) {
                let mut chance = rng.fork();
                table.update(&short, || cells.bump(0, &mut chance)).unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        for _ in 0..rounds {
            let _held = table.latch(&long).unwrap();
            // Each of the others comes back while the latch is held.
            let before = done.load(Ordering::Relaxed);
            while done.load(Ordering::Relaxed) < before + 8 {
                thread::yield_now();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_quiet(&table);
    cells.assert_exact();
}
