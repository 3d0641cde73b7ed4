//! One key that several threads update at once.
//!
//! Each thread updates the key, does half a microsecond of arithmetic inside, adds one, and at
//! once comes again. Ours does so in the closure given to `update`; the peer holds a parking_lot
//! Mutex around a number. The *cost* is elapsed time an operation, all threads' operations
//! together. A *latency* is an operation's time between two clock reads, from the call to its
//! return, the same two on both sides; they are taken in runs of their own, so that the clock
//! adds nothing to the cost. The *fairness* is the least thread's count over the greatest's.
//!
//! After every run the number must be the sum of the threads' counts: no update was lost.

use std::error::Error;
use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use latchwork::rmw::{Rmw, RmwError};
use parking_lot::Mutex;

use crate::Bench;
use crate::crowd::{Contest, crowd};
use crate::harness::{Ratio, interleave, mean, percentile};
use crate::rows;
use crate::stats::{merged, record, times};
use crate::table::{Row, Shown};
use crate::work::Work;

const WORK: Duration = Duration::from_nanos(500);

/// One number of threads, and its rows.
struct Case {
    threads: usize,
    cost: Row,
    p99: Row,
}

const CASES: [Case; 2] = [
    Case {
        threads: 4,
        cost: rows::RMW_HOT_COST,
        p99: rows::RMW_HOT_P99,
    },
    Case {
        threads: 16,
        cost: rows::RMW_HOT16_COST,
        p99: rows::RMW_HOT16_P99,
    },
];

/// A number that updates keep whole.
trait Number: Sync {
    /// Does `work` and adds one, in one update.
    fn increment(&self, work: Work);
    fn get(&self) -> u64;
}

const KEY: &[u8] = b"key:000000000001";

impl Number for Rmw {
    #[inline]
    fn increment(&self, work: Work) {
        let outcome = self.update(black_box(KEY), |entry| {
            let number = entry.integer()?.unwrap_or(0);
            work.run();
            entry.set(number + 1);
            Ok::<(), RmwError>(())
        });
        outcome.flatten().expect("the key holds a number");
    }

    fn get(&self) -> u64 {
        let value = Rmw::get(self, KEY).expect("the key holds a string");
        let number = value.map_or(Some(0), |value| value.as_integer());
        number.expect("the key holds a number") as u64
    }
}

impl Number for Mutex<u64> {
    #[inline]
    fn increment(&self, work: Work) {
        let mut number = black_box(self).lock();
        let before = *number;
        work.run();
        *number = before + 1;
    }

    fn get(&self) -> u64 {
        *self.lock()
    }
}

/// The number is not what the updates made it.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) counted: u64,
    pub(super) found: u64,
}

impl Lost {
    pub(super) fn unless_equal(counted: u64, found: u64) -> Result<(), Lost> {
        if counted == found {
            Ok(())
        } else {
            Err(Lost { counted, found })
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost { counted, found } = self;
        write!(f, "{counted} increments made {found}")
    }
}

impl Error for Lost {}

pub(super) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let work = Work::of(WORK);
    for case in &CASES {
        cost(bench, case, work)?;
    }
    for case in &CASES {
        latency(bench, case, work)?;
    }
    let [few, many] = &CASES;
    let shown = evenness(bench, few.threads, work)?;
    bench.report.row(rows::RMW_HOT_FAIRNESS, &shown)?;
    let shown = evenness(bench, many.threads, work)?;
    bench
        .report
        .detail(&format!("{} threads", many.threads), &shown)?;
    Ok(())
}

fn cost(bench: &mut Bench, case: &Case, work: Work) -> Result<(), Box<dyn Error>> {
    let (ours, peer) = (Rmw::new(), Mutex::new(0));
    let time = bench
        .effort
        .pick(Duration::from_millis(50), Duration::from_millis(100));
    let rounds = bench.effort.pick(11, 101);
    let rounds = interleave(
        &mut bench.effort,
        rounds,
        || updates(case.threads, time, &ours, work).map(|run| run.cost()),
        || updates(case.threads, time, &peer, work).map(|run| run.cost()),
    )?;
    let ratio = Ratio::of(&rounds, mean);
    bench.report.row(case.cost, &ratio.into())?;
    Ok(())
}

fn latency(bench: &mut Bench, case: &Case, work: Work) -> Result<(), Box<dyn Error>> {
    let (ours, peer) = (Rmw::new(), Mutex::new(0));
    let time = bench
        .effort
        .pick(Duration::from_millis(100), Duration::from_millis(200));
    let rounds = bench.effort.pick(11, 61);
    let rounds = interleave(
        &mut bench.effort,
        rounds,
        || latencies(case.threads, time, &ours, work),
        || latencies(case.threads, time, &peer, work),
    )?;
    bench
        .report
        .row(case.p99, &percentile(&rounds, 99.0).into())?;
    for percent in [50.0, 99.9, 100.0] {
        let ratio = percentile(&rounds, percent);
        bench
            .report
            .detail(&format!("p{percent} of the latency"), &ratio.into())?;
    }
    Ok(())
}

/// Two seconds a run; the full effort takes five runs, each with the peer's beside it.
fn evenness(bench: &mut Bench, threads: usize, work: Work) -> Result<Shown, Lost> {
    let (ours, peer) = (Rmw::new(), Mutex::new(0));
    let time = Duration::from_secs(2);
    let runs = bench.effort.pick(1, 5);
    let (mut ours_runs, mut peer_runs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ours_runs.push(updates(threads, time, &ours, work)?.evenness());
        peer_runs.push(updates(threads, time, &peer, work)?.evenness());
    }
    Ok(Shown::evenness(&ours_runs, &peer_runs))
}

fn updates(
    threads: usize,
    time: Duration,
    number: &impl Number,
    work: Work,
) -> Result<Contest, Lost> {
    let before = number.get();
    let turnout = crowd(
        threads,
        time,
        |_| 0u64,
        |count, running| {
            while running.yes() {
                number.increment(work);
                *count += 1;
            }
        },
    );
    Lost::unless_equal(turnout.states.iter().sum(), number.get() - before)?;
    Ok(Contest {
        elapsed: turnout.elapsed,
        counts: turnout.states,
    })
}

/// The latencies of all operations, in nanoseconds.
fn latencies(
    threads: usize,
    time: Duration,
    number: &impl Number,
    work: Work,
) -> Result<hdrhistogram::Histogram<u64>, Lost> {
    let before = number.get();
    let turnout = crowd(
        threads,
        time,
        |_| times(),
        |latencies, running| {
            while running.yes() {
                let start = Instant::now();
                number.increment(work);
                record(latencies, start.elapsed());
            }
        },
    );
    let all = merged(&turnout.states);
    Lost::unless_equal(all.len(), number.get() - before)?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const TIME: Duration = Duration::from_millis(20);

    #[test]
    fn both_sides_count_every_update() {
        let work = Work::of(Duration::from_nanos(50));
        let (ours, peer) = (Rmw::new(), Mutex::new(0));
        let counted = updates(3, TIME, &ours, work).unwrap().counts.iter().sum();
        assert_eq!(Number::get(&ours), counted);
        let counted = latencies(3, TIME, &peer, work).unwrap().len();
        assert_eq!(peer.get(), counted);
    }

    #[test]
    fn a_side_that_loses_updates_is_caught() {
        struct Racy(AtomicU64);

        impl Number for Racy {
            fn increment(&self, work: Work) {
                let before = self.0.load(Ordering::Relaxed);
                work.run();
                self.0.store(before + 1, Ordering::Relaxed);
            }

            fn get(&self) -> u64 {
                self.0.load(Ordering::Relaxed)
            }
        }

        let work = Work::of(WORK);
        // Without a lock two threads lose increments sooner or later.
        while updates(4, TIME, &Racy(AtomicU64::new(0)), work).is_ok() {}
        while latencies(4, TIME, &Racy(AtomicU64::new(0)), work).is_ok() {}
    }
}
