//! Threads that submit, complete and drop flushes whose streams and finalizer take their time, fail
//! and panic by chance, while others drain and shut the pipeline down.
//!
//! Each flush must be finalized or skipped strictly in its turn and once; after a shutdown, what
//! was rotated is what was finalized, skipped and returned.

use std::panic::resume_unwind;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use latchwork::flush::{
    Backoff, Batch, DrainError, Failed, Finalize, FlushPipeline, FlushTicket, LeftoverState,
    Leftovers, OnFailure, ReserveError, Shutdown, WaitError,
};

use crate::child::{Child, End};
use crate::page::Page;
use crate::scene::Scene;

const THREADS: u64 = 4;

/// The cells of the page on which the storm tells how far it is.
const FINALIZED: usize = 0;
const SKIPPED: usize = 1;
const RETURNED: usize = 2;
const SHUTDOWNS: usize = 3;

pub(super) fn run(scene: &mut Scene) -> Result<()> {
    let started = Instant::now();
    let page = scene.page("storm", 4)?;
    let items = scene.choose(50_000, 1_000_000);
    let seed = scene.random.u64(..);
    let told = |cell: usize| page.cell(cell).load(Relaxed);
    let mut storm = Child::fork(|| match storm(&page, items, seed) {
        Ok(()) => 0,
        Err(error) => {
            println!("  {error:#}");
            1
        }
    })?;
    let mut seen = 0;
    let end = loop {
        if let Some(end) = storm.ended()? {
            break end;
        }
        let sum = (0..page.len()).map(told).sum();
        if sum != seen {
            seen = sum;
            scene.beat();
        }
        thread::sleep(Duration::from_millis(20));
    };
    let result = match end {
        nix::sys::wait::WaitStatus::Exited(_, 0) => Ok(()),
        end => Err(anyhow::anyhow!("it: {}", End(end))),
    };
    let figures = format!(
        "finalized={} skipped={} returned={} shutdowns={} seconds={:.1}",
        told(FINALIZED),
        told(SKIPPED),
        told(RETURNED),
        told(SHUTDOWNS),
        started.elapsed().as_secs_f64()
    );
    scene.report("storm", figures, result);
    Ok(())
}

fn storm(page: &Page, items: u64, seed: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    while page.cell(FINALIZED).load(Relaxed) < items {
        // Some are long; most are about how they end.
        let most = match random.u8(..64) {
            0 => 20_000,
            _ => random.u64(..300),
        };
        let round = random.u64(..);
        Pipeline::new(most, &mut random)
            .run(page, &mut random)
            .with_context(|| format!("round {round}, seed {seed}"))?;
    }
    Ok(())
}

/// What became of each flush.
#[derive(Default)]
struct Ledger {
    next: AtomicU64,
    fates: Box<[AtomicU8]>,
    /// The first thing that was wrong.
    wrong: Mutex<Option<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Finalized,
    Skipped,
    Returned,
}

impl Ledger {
    fn new(flushes: u64) -> Arc<Ledger> {
        Arc::new(Ledger {
            fates: (0..flushes)
                .map(|_| AtomicU8::new(Fate::Open as u8))
                .collect(),
            ..Ledger::default()
        })
    }

    /// Decides the fate of a flush, in its turn.
    fn pass(&self, sequence: u64, fate: Fate) {
        // Relaxed: the pipeline orders its calls of the finalizer.
        let next = self.next.load(Relaxed);
        if sequence != next {
            self.blame(format!("flush {sequence} in the turn of {next}"));
        }
        self.next.store(sequence + 1, Relaxed);
        let before = self.fates[sequence as usize].swap(fate as u8, Relaxed);
        if before != Fate::Open as u8 {
            self.blame(format!("flush {sequence} a second time, {fate:?}"));
        }
    }

    fn blame(&self, what: String) {
        let mut wrong = self.wrong.lock().expect("no panic");
        wrong.get_or_insert(what);
    }

    fn count(&self, fate: Fate) -> u64 {
        let fates = self.fates.iter();
        fates
            .filter(|found| found.load(Relaxed) == fate as u8)
            .count() as u64
    }
}

/// Finalizes, fails and panics by chance.
struct Chancy {
    ledger: Arc<Ledger>,
    random: fastrand::Rng,
}

impl Finalize for Chancy {
    type Job = u64;
    type Item = u64;
    type Output = u64;
    type Error = ();

    fn finalize(&mut self, batch: &mut Batch<'_, Self>) {
        while let Some((sequence, item)) = batch.next_mut() {
            let item = *item;
            match self.random.u16(..1_000) {
                0 => return batch.fail(()),
                1 => planned_panic(),
                2 => return, // and leaves the rest unmarked
                _ => {}
            }
            if item != sequence {
                self.ledger
                    .blame(format!("flush {sequence} has the item of {item}"));
            }
            self.ledger.pass(sequence, Fate::Finalized);
            batch.done(item);
        }
        dawdle(&mut self.random);
    }

    fn finalize_one(&mut self, _: u64, _: &mut u64) -> Result<u64, ()> {
        unreachable!("batches are finalized whole")
    }

    fn finalize_failure(&mut self, failed: Failed<'_, Self>) {
        self.ledger.pass(failed.sequence, Fate::Skipped);
        if self.random.u8(..16) == 0 {
            planned_panic();
        }
    }
}

fn planned_panic() -> ! {
    resume_unwind(Box::new("planned"))
}

fn dawdle(random: &mut fastrand::Rng) {
    match random.u8(..) {
        0..4 => thread::sleep(Duration::from_micros(random.u64(..300))),
        4..40 => (0..random.u32(..5_000)).for_each(|_| std::hint::spin_loop()),
        40..80 => thread::yield_now(),
        _ => {}
    }
}

struct Pipeline {
    ledger: Arc<Ledger>,
    flush: FlushPipeline<Chancy>,
    most: u64,
}

impl Pipeline {
    fn new(most: u64, random: &mut fastrand::Rng) -> Pipeline {
        // Those that are rotated after the last one is due have numbers too.
        let ledger = Ledger::new(most + 4 * THREADS);
        let retry = OnFailure::Retry {
            attempts: random.u32(2..4),
            backoff: Backoff::constant(Duration::from_micros(random.u64(..2) * 50)),
        };
        let policy = match random.bool() {
            true => retry.then(OnFailure::Skip),
            false => OnFailure::Skip.into(),
        };
        let flush = FlushPipeline::builder("storm")
            .max_in_flight(random.usize(1..=40))
            .max_in_flight_bytes(100)
            .max_batch(random.usize(1..=20))
            .streamers(random.usize(..=3))
            .on_failure(policy)
            .finalizer(Chancy {
                ledger: ledger.clone(),
                random: random.fork(),
            })
            .build()
            .expect("a pipeline");
        Pipeline {
            ledger,
            flush,
            most,
        }
    }

    /// Storms until it has been shut down, and counts.
    fn run(&self, page: &Page, random: &mut fastrand::Rng) -> Result<()> {
        let how = random.u8(..3);
        let after = random.u64(..=self.most);
        let left = thread::scope(|scope| -> Result<_> {
            let submitters: Vec<_> = (0..THREADS)
                .map(|_| {
                    let random = random.fork();
                    scope.spawn(move || self.submit(random))
                })
                .collect();
            while self.flush.next_sequence() < after {
                thread::yield_now();
            }
            let left = self.flush.shutdown(match how {
                0 => Shutdown::Now,
                1 => Shutdown::Drain(Instant::now() + Duration::from_micros(random.u64(..2_000))),
                _ => Shutdown::DrainAll,
            });
            for submitter in submitters {
                match submitter.join() {
                    Ok(result) => result?,
                    Err(panic) => resume_unwind(panic),
                }
            }
            Ok(left)
        })?;
        let result = self.settle(&left, how == 2, page);
        page.cell(SHUTDOWNS).fetch_add(1, SeqCst);
        result.with_context(|| format!("left: {left:?}"))
    }

    fn settle(&self, left: &Leftovers<Chancy>, was_drained: bool, page: &Page) -> Result<()> {
        let at_work = |state: &LeftoverState| matches!(state, LeftoverState::Finalizing(_));
        if left.flushes.iter().any(|flush| at_work(&flush.state)) {
            ensure!(
                !was_drained,
                "the finalizer still runs after it was waited for"
            );
            return Ok(()); // and nothing is final yet
        }
        if let Some(wrong) = &*self.ledger.wrong.lock().expect("no panic") {
            bail!("{wrong}");
        }
        let (stats, mark) = (self.flush.stats(), self.flush.watermark());
        ensure!(
            stats.finalized + stats.skipped == mark,
            "the watermark is {mark}: {stats:?}"
        );
        for (flush, expected) in left.flushes.iter().zip(mark..) {
            let sequence = flush.sequence;
            ensure!(
                sequence == expected,
                "flush {sequence} came back in place of {expected}"
            );
            // Its failure may have been told.
            let fate = &self.ledger.fates[sequence as usize];
            let before = fate.swap(Fate::Returned as u8, Relaxed);
            ensure!(
                before != Fate::Finalized as u8,
                "flush {sequence} came back finalized"
            );
        }
        let returned = left.flushes.len() as u64;
        let fates =
            [Fate::Finalized, Fate::Skipped, Fate::Returned].map(|fate| self.ledger.count(fate));
        ensure!(
            fates == [stats.finalized, stats.skipped, returned],
            "{fates:?}, {returned} returned: {stats:?}"
        );
        for (cell, count) in [FINALIZED, SKIPPED, RETURNED].into_iter().zip(fates) {
            page.cell(cell).fetch_add(count, SeqCst);
        }
        Ok(())
    }

    fn submit(&self, mut random: fastrand::Rng) -> Result<()> {
        let mut tickets = Vec::new();
        while self.flush.next_sequence() < self.most {
            match self.submit_one(&mut random) {
                Ok(ticket) => tickets.extend(ticket),
                Err(ReserveError::Closed) => break,
                Err(other) => bail!("reserve: {other}"),
            }
            match random.u8(..64) {
                0 => {
                    for ticket in tickets.drain(..) {
                        self.wait(ticket)?;
                    }
                }
                1 => tickets.clear(),
                2 => match self.flush.drain() {
                    Ok(()) | Err(DrainError::ShutDown) => {}
                    Err(other) => bail!("drain: {other}"),
                },
                _ => {}
            }
        }
        for ticket in tickets {
            self.wait(ticket)?;
        }
        Ok(())
    }

    /// Submits, completes or drops one more flush, by chance.
    fn submit_one(
        &self,
        random: &mut fastrand::Rng,
    ) -> Result<Option<FlushTicket<Chancy>>, ReserveError> {
        let slot = self.flush.reserve(random.u64(..=120))?;
        if random.u8(..64) == 0 {
            return Ok(None); // the reservation goes unused
        }
        let slot = slot.rotate(&mut (), |(), sequence| sequence);
        dawdle(random);
        let sequence = slot.sequence();
        let mut chance = random.fork();
        let result = match random.u8(..200) {
            0 => return Ok(None), // abandoned
            1 => slot.complete(Err(())),
            2..30 => slot.complete(Ok(sequence)),
            _ => slot.submit(move |job| {
                dawdle(&mut chance);
                match chance.u8(..200) {
                    0 => planned_panic(),
                    1..3 => Err(()),
                    _ => Ok(**job),
                }
            }),
        };
        // Refused: the pipeline was shut down.
        Ok(result.ok())
    }

    fn wait(&self, ticket: FlushTicket<Chancy>) -> Result<()> {
        let sequence = ticket.sequence();
        match ticket.wait() {
            Ok(item) => {
                ensure!(item == sequence, "flush {sequence} was told {item}");
                let mark = self.flush.watermark();
                ensure!(
                    mark > sequence,
                    "flush {sequence} was told, the watermark is {mark}"
                );
                Ok(())
            }
            Err(WaitError::Failed(()) | WaitError::FailurePanicked(_) | WaitError::ShutDown) => {
                Ok(())
            }
            Err(other) => bail!("flush {sequence}: {other:?}"),
        }
    }
}
