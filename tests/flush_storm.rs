//! Pipelines under many threads: strictly in sequence, each flush exactly once, and nothing lost.
#![cfg(not(latchwork_loom))]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use latchwork::flush::{
    Backoff, Batch, DrainError, Failed, Finalize, FlushPipeline, FlushTicket, LeftoverState,
    OnFailure, ReserveError, Shutdown, WaitError,
};
use support::{Storm, dawdle, panic_quietly, size};

/// What became of each number, and which comes next.
struct Ledger {
    next: AtomicU64,
    fates: Box<[AtomicU8]>,
}

const OPEN: u8 = 0;
const DONE: u8 = 1;
const SKIPPED: u8 = 2;
const RETURNED: u8 = 3;

impl Ledger {
    fn new(items: u64) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(0),
            fates: (0..items).map(|_| AtomicU8::new(OPEN)).collect(),
        })
    }

    /// The number's fate is decided, after all before it.
    fn pass(&self, sequence: u64, fate: u8) {
        // Relaxed: the pipeline has to order these by itself.
        let next = self.next.load(Ordering::Relaxed);
        assert_eq!(sequence, next, "out of sequence");
        self.next.store(next + 1, Ordering::Relaxed);
        self.set(sequence, fate);
    }

    fn set(&self, sequence: u64, fate: u8) {
        let before = self.fates[sequence as usize].swap(fate, Ordering::Relaxed);
        assert_eq!(
            before, OPEN,
            "{sequence} a second time: {before}, then {fate}"
        );
    }

    fn count(&self, fate: u8) -> u64 {
        let fates = self.fates.iter();
        let matching = fates.filter(|found| found.load(Ordering::Relaxed) == fate);
        matching.count() as u64
    }
}

/// Finalizes by chance in batches or one by one, and fails and panics by chance.
struct Chancy {
    ledger: Arc<Ledger>,
    /// The first violation, which the finalizer's thread cannot fail the test with.
    broken: Arc<Mutex<Option<String>>>,
    rng: Rng,
    /// One in so many finalizations fails; 0 for none.
    fails: u32,
    /// Those that failed under the present policy, told and not passed yet, may be told again.
    halts: bool,
}

impl Chancy {
    fn note(&self, check: impl FnOnce()) {
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        if let Err(panic) = checked {
            let what = panic.downcast_ref::<String>().cloned();
            let mut broken = self.broken.lock().unwrap();
            broken.get_or_insert(what.unwrap_or_else(|| "a panic".into()));
        }
    }

    fn is_unlucky(&mut self) -> bool {
        self.fails > 0 && self.rng.u32(0..self.fails) == 0
    }
}

impl Finalize for Chancy {
    type Job = u64;
    type Item = u64;
    type Output = u64;
    type Error = ();

    fn finalize(&mut self, batch: &mut Batch<'_, Self>) {
        while let Some((sequence, item)) = batch.next_mut() {
            let item = *item;
            if self.is_unlucky() {
                match self.rng.u32(0..3) {
                    0 => return batch.fail(()),
                    1 => panic_quietly(),
                    _ => return, // and leaves the rest unmarked
                }
            }
            self.note(|| {
                assert_eq!(item, sequence, "another's item");
                self.ledger.pass(sequence, DONE);
            });
            batch.done(item);
        }
    }

    fn finalize_one(&mut self, _: u64, _: &mut u64) -> Result<u64, ()> {
        unreachable!("batches are finalized whole")
    }

    fn finalize_failure(&mut self, failed: Failed<'_, Self>) {
        // Under a halt it may be tried again.
        if !self.halts {
            self.note(|| self.ledger.pass(failed.sequence, SKIPPED));
        }
        if self.fails > 0 && self.rng.u32(0..8) == 0 {
            panic_quietly();
        }
    }
}

struct Ground {
    ledger: Arc<Ledger>,
    broken: Arc<Mutex<Option<String>>>,
    flush: FlushPipeline<Chancy>,
}

impl Ground {
    fn new(storm: &Storm, items: u64, policy: OnFailure, last: OnFailure, fails: u32) -> Self {
        let mut rng = storm.rng(1 << 32);
        let ledger = Ledger::new(items);
        let broken = Arc::default();
        let flush = FlushPipeline::builder("storm")
            .max_in_flight(rng.usize(1..=40))
            .max_in_flight_bytes(100)
            .max_batch(rng.usize(1..=20))
            .streamers(rng.usize(0..=3))
            .on_failure(policy.then(last))
            .finalizer(Chancy {
                ledger: Arc::clone(&ledger),
                broken: Arc::clone(&broken),
                rng: rng.fork(),
                fails,
                halts: last == OnFailure::Halt,
            })
            .build()
            .unwrap();
        Self {
            ledger,
            broken,
            flush,
        }
    }

    fn assert_whole(&self) {
        assert_eq!(*self.broken.lock().unwrap(), None);
    }

    /// Submits, completes or drops one more flush, by chance. Nothing is asserted of its ticket.
    fn submit(&self, rng: &mut Rng) -> Result<Option<FlushTicket<Chancy>>, ReserveError> {
        let slot = self.flush.reserve(rng.u64(0..=120))?;
        if rng.u32(0..50) == 0 {
            return Ok(None); // the reservation goes unused
        }
        let slot = slot.rotate(&mut (), |(), sequence| sequence);
        dawdle(rng, 200);
        let sequence = slot.sequence();
        let mut chance = rng.fork();
        let result = match rng.u32(0..100) {
            0..5 => return Ok(None), // abandoned
            5..10 => slot.complete(Err(())),
            10..25 => slot.complete(Ok(sequence)),
            _ => slot.submit(move |job| {
                dawdle(&mut chance, 2000);
                match chance.u32(0..40) {
                    0 => panic_quietly(),
                    1..4 => Err(()),
                    _ => Ok(**job),
                }
            }),
        };
        Ok(result.ok())
    }
}

#[test]
fn every_flush_is_finalized_or_skipped_in_sequence_and_once() {
    let items = size(20_000, 1_000_000);
    let storm = Storm::new("order");
    let policy = OnFailure::Retry {
        attempts: 2,
        backoff: Backoff::constant(Duration::ZERO),
    };
    let ground = Ground::new(&storm, items + 64, policy, OnFailure::Skip, 200);
    let done = AtomicU64::new(0);
    let failed = AtomicU64::new(0);
    storm.run(4, |_, rng| {
        let mut tickets = Vec::new();
        let settle = |tickets: &mut Vec<FlushTicket<Chancy>>| {
            for ticket in tickets.drain(..) {
                let sequence = ticket.sequence();
                match ticket.wait() {
                    Ok(item) => {
                        assert_eq!(item, sequence);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(WaitError::Failed(()) | WaitError::FailurePanicked(_)) => {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(other) => panic!("{other:?}"),
                }
                assert!(ground.flush.watermark() > sequence);
            }
        };
        while ground.flush.next_sequence() < items {
            tickets.extend(ground.submit(rng).unwrap());
            match rng.u32(0..40) {
                0 => settle(&mut tickets),
                1 => ground.flush.drain().unwrap(),
                2 => tickets.clear(),
                _ => {}
            }
        }
        settle(&mut tickets);
    });
    ground.flush.drain().unwrap();
    ground.assert_whole();
    let (ledger, stats) = (&ground.ledger, ground.flush.stats());
    let all = ground.flush.next_sequence();
    assert!(all >= items);
    assert_eq!(ledger.next.load(Ordering::Relaxed), all);
    assert_eq!(ledger.count(DONE), stats.finalized);
    assert_eq!(ledger.count(SKIPPED), stats.skipped);
    assert_eq!(stats.finalized + stats.skipped, all);
    assert!(done.load(Ordering::Relaxed) <= stats.finalized);
    assert!(failed.load(Ordering::Relaxed) <= stats.skipped);
    assert_eq!((stats.pending, stats.in_flight), (0, 0));
    assert_eq!(stats.bytes_in_flight, 0);
    let mut fates = ledger.fates.iter();
    let first_gap = fates.position(|fate| fate.load(Ordering::Relaxed) != DONE);
    assert_eq!(ground.flush.durable_watermark(), first_gap.unwrap() as u64);
    assert!(ground.flush.shutdown(Shutdown::DrainAll).is_empty());
}

#[test]
fn halts_and_resumes_lose_nothing_and_change_no_order() {
    let items = size(3_000, 100_000);
    let storm = Storm::new("halts");
    let policy = OnFailure::Halt;
    let ground = Ground::new(&storm, items + 64, policy, OnFailure::Halt, 100);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                ground.flush.resume();
                thread::yield_now();
            }
        });
        storm.run(3, |_, rng| {
            while ground.flush.next_sequence() < items {
                let slot = match ground.flush.reserve(rng.u64(0..=120)) {
                    Ok(slot) => slot,
                    Err(ReserveError::Halted(_)) => continue,
                    Err(other) => panic!("{other:?}"),
                };
                let slot = slot.rotate(&mut (), |(), sequence| sequence);
                let mut chance = rng.fork();
                let ticket = slot.submit(move |job| {
                    dawdle(&mut chance, 1000);
                    match chance.u32(0..30) {
                        0 => panic_quietly(),
                        1 => Err(()),
                        _ => Ok(**job),
                    }
                });
                let mut ticket = ticket.unwrap();
                if rng.u32(0..4) > 0 {
                    continue;
                }
                loop {
                    let sequence = ticket.sequence();
                    match ticket.wait() {
                        Ok(item) => break assert_eq!(item, sequence),
                        Err(WaitError::Halted(at, again)) => {
                            assert!(at <= sequence, "it waits for nothing younger");
                            ticket = again;
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
        });
        while let Err(error) = ground.flush.drain() {
            assert!(matches!(error, DrainError::Halted(_)), "{error}");
        }
        is_over.store(true, Ordering::Relaxed);
    });
    ground.assert_whole();
    let (stats, all) = (ground.flush.stats(), ground.flush.next_sequence());
    assert_eq!((stats.finalized, stats.skipped), (all, 0));
    assert_eq!(ground.ledger.count(DONE), all);
    assert_eq!(ground.flush.durable_watermark(), all);
    assert_eq!((stats.in_flight, stats.bytes_in_flight), (0, 0));
    assert!(ground.flush.shutdown(Shutdown::DrainAll).is_empty());
}

#[test]
fn a_shutdown_amid_submitters_returns_all_that_was_not_finalized() {
    let rounds = size(300, 10_000);
    let items = 10_000;
    let storm = Storm::new("barrier");
    for round in 0..rounds {
        let mut chance = storm.rng(round << 8);
        let seeds = Storm::seeded(chance.u64(..));
        let last = if chance.bool() {
            OnFailure::Skip
        } else {
            OnFailure::Halt
        };
        let policy = match chance.bool() {
            true => last,
            false => OnFailure::Retry {
                attempts: 2,
                backoff: Backoff::constant(Duration::ZERO),
            },
        };
        let fails = if last == OnFailure::Halt { 0 } else { 50 };
        let ground = Ground::new(&seeds, items + 64, policy, last, fails);
        let begun = AtomicU64::new(0);
        let (how, after) = (chance.u32(0..3), chance.u64(0..60));
        let left = thread::scope(|scope| {
            let shuts = scope.spawn(|| {
                while begun.load(Ordering::Relaxed) < after {
                    thread::yield_now();
                }
                let how = match how {
                    0 => Shutdown::Now,
                    1 => Shutdown::Drain(Instant::now() + Duration::from_micros(300)),
                    _ => Shutdown::DrainAll,
                };
                ground.flush.shutdown(how)
            });
            seeds.run(3, |_, rng| {
                loop {
                    begun.fetch_add(1, Ordering::Relaxed);
                    // The ledger is nearly full: the rest is waiting for the end.
                    if ground.flush.next_sequence() >= items {
                        if ground.flush.is_closed() {
                            break;
                        }
                        thread::yield_now();
                        continue;
                    }
                    match ground.submit(rng) {
                        Ok(ticket) => drop(ticket),
                        // The end comes, whatever it halted at.
                        Err(ReserveError::Halted(_)) => thread::yield_now(),
                        Err(ReserveError::Closed) => break,
                        Err(other) => panic!("{other:?}"),
                    }
                    if rng.u32(0..20) == 0 {
                        let drained = ground.flush.drain();
                        assert!(!matches!(
                            drained,
                            Err(DrainError::TimedOut | DrainError::WouldDeadlock)
                        ));
                    }
                }
            });
            shuts.join().unwrap()
        });
        // Threads that are named may still be at it: they change what was decided no more, but for
        // what the finalizer has in hand.
        let named = |state: &LeftoverState| matches!(state, LeftoverState::Finalizing(_));
        let is_sorted = left.flushes.is_sorted_by(|a, b| a.sequence < b.sequence);
        assert!(is_sorted, "{left:?}");
        if left.flushes.iter().any(|flush| named(&flush.state)) {
            assert_ne!(how, 2, "{left:?}");
            continue;
        }
        ground.assert_whole();
        let stats = ground.flush.stats();
        let returned = left.flushes.len() as u64;
        let mark = ground.flush.watermark();
        assert_eq!(stats.finalized + stats.skipped, mark);
        for (flush, expected) in left.flushes.iter().zip(mark..) {
            assert_eq!(flush.sequence, expected, "{left:?}");
            // Under a policy that skips, what has failed may have been told.
            let fate = &ground.ledger.fates[flush.sequence as usize];
            assert_ne!(fate.swap(RETURNED, Ordering::Relaxed), DONE);
        }
        assert!(ground.flush.next_sequence() >= mark + returned);
        // Rotated after the end, for nothing, are not the pipeline's.
        assert_eq!(ground.ledger.count(RETURNED), returned);
        assert_eq!(ground.ledger.count(DONE), stats.finalized);
    }
}
