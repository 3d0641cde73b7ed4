//! Semaphore rows: the cost of a permit nobody else wants, and the behaviour of one that
//! four threads want at once.
//!
//! *Uncontended*: one thread acquires one of one permit and releases it, over and over;
//! either side goes through its public call, checks its result and drops a guard if it has
//! one.
//!
//! *Contended*: four threads, one permit; each acquires, increments a plain counter that the
//! permit guards, releases, and at once asks again. No work outside the permit: it would
//! only dilute the difference, and leave the permit free part of the time. The same loop
//! runs over both sides, see `crowd`. For the tail each wait lies between two clock reads,
//! the same two on both sides, and the percentile is taken over a round's waits of a side. Two
//! unjudged lines show the same loops with half a microsecond of arithmetic inside the permit.
//!
//! *Across processes*: see `shared`.

use std::error::Error;
use std::hint::black_box;
use std::time::Duration;

use hdrhistogram::Histogram;
use latchwork::Semaphore;
use latchwork::semaphore::{Fairness, Permit};

use crate::Bench;
use crate::crowd::{Exclusive, contest, contest_waits};
use crate::harness::{Ratio, Round, interleave, mean, per_op, percentile};
use crate::peers::condvar;
use crate::peers::sem_t::SemT;
use crate::rows;
use crate::shared;
use crate::table::Shown;
use crate::work::Work;

const THREADS: usize = 4;

/// The section of the lines that inform: long enough that others come while it lasts.
const WORK: Duration = Duration::from_nanos(500);
const WITH_WORK: &str = "with 0.5 µs of work inside";

impl Exclusive for Semaphore {
    type Guard<'a> = Permit<'a>;

    #[inline]
    fn acquire(&self) -> Permit<'_> {
        Semaphore::acquire(self).expect("an open semaphore has a permit for each who waits")
    }
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    uncontended(bench)?;
    #[cfg(feature = "peers")]
    tokio(bench)?;
    contended(bench)?;
    tail(bench)?;
    fairness(bench)?;
    shared::run(bench)
}

/// Acquires and releases, `ops` times. The semaphore is opaque to the compiler each time.
fn cycle(semaphore: &Semaphore, ops: u64) {
    for _ in 0..ops {
        drop(Exclusive::acquire(black_box(semaphore)));
    }
}

fn uncontended(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let peer = SemT::new(1)?;
    let peer_cycle = |ops| {
        for _ in 0..ops {
            let peer = black_box(&peer);
            peer.wait();
            peer.post();
        }
    };
    let ours = Semaphore::new(1)?;
    let plain = per_op(&mut bench.effort, |ops| cycle(&ours, ops), peer_cycle);
    bench.report.row(rows::SEM_T, &plain.into())?;
    let ours = Semaphore::builder("tracked")
        .permits(1)
        .track_holders(true)
        .build()?;
    let tracked = per_op(&mut bench.effort, |ops| cycle(&ours, ops), peer_cycle);
    bench.report.row(rows::SEM_TRACKED, &tracked.into())?;
    Ok(())
}

#[cfg(feature = "peers")]
fn tokio(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let ours = Semaphore::new(1)?;
    let peer = tokio::sync::Semaphore::new(1);
    let tried = per_op(
        &mut bench.effort,
        |ops| cycle(&ours, ops),
        |ops| {
            for _ in 0..ops {
                drop(black_box(&peer).try_acquire().expect("the permit is free"));
            }
        },
    );
    bench.report.row(rows::SEM_TOKIO_TRY, &tried.into())?;
    let acquired = per_op(
        &mut bench.effort,
        |ops| cycle(&ours, ops),
        |ops| {
            for _ in 0..ops {
                let permit = pollster::block_on(black_box(&peer).acquire());
                drop(permit.expect("the semaphore is open"));
            }
        },
    );
    bench
        .report
        .row(rows::SEM_TOKIO_ACQUIRE, &acquired.into())?;
    Ok(())
}

fn contended(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let time = bench
        .effort
        .pick(Duration::from_millis(50), Duration::from_millis(100));
    let rounds = bench.effort.pick(31, 101);
    let ratio = cost(bench, time, rounds, || ())?;
    bench.report.row(rows::SEM_CONDVAR, &ratio.into())?;
    let work = Work::of(WORK);
    let rounds = bench.effort.pick(5, 33);
    let ratio = cost(bench, time, rounds, || work.run())?;
    bench.report.detail(WITH_WORK, &ratio.into())?;
    Ok(())
}

fn cost(
    bench: &mut Bench,
    time: Duration,
    rounds: usize,
    section: impl Fn() + Sync,
) -> Result<Ratio, Box<dyn Error>> {
    let ours = Semaphore::new(1)?;
    let peer = condvar::Semaphore::new(1);
    let rounds = interleave(
        &mut bench.effort,
        rounds,
        || contest(THREADS, time, &ours, &section).map(|run| run.cost()),
        || contest(THREADS, time, &peer, &section).map(|run| run.cost()),
    )?;
    Ok(Ratio::of(&rounds, mean))
}

fn tail(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let time = bench
        .effort
        .pick(Duration::from_millis(100), Duration::from_millis(200));
    let rounds = bench.effort.pick(41, 101);
    let waits = contested_waits(bench, time, rounds, || ())?;
    bench
        .report
        .row(rows::SEM_TAIL, &percentile(&waits, 99.9).into())?;
    for percent in [50.0, 99.0, 99.99, 100.0] {
        let ratio = percentile(&waits, percent);
        bench
            .report
            .detail(&format!("p{percent} of the wait"), &ratio.into())?;
    }
    let work = Work::of(WORK);
    let rounds = bench.effort.pick(5, 25);
    let waits = contested_waits(bench, time, rounds, || work.run())?;
    bench
        .report
        .detail(WITH_WORK, &percentile(&waits, 99.9).into())?;
    Ok(())
}

fn contested_waits(
    bench: &mut Bench,
    time: Duration,
    rounds: usize,
    section: impl Fn() + Sync,
) -> Result<Vec<Round<Histogram<u64>>>, Box<dyn Error>> {
    let ours = Semaphore::new(1)?;
    let peer = condvar::Semaphore::new(1);
    Ok(interleave(
        &mut bench.effort,
        rounds,
        || contest_waits(THREADS, time, &ours, &section),
        || contest_waits(THREADS, time, &peer, &section),
    )?)
}

/// Five seconds a run; the full effort takes five runs, each with the peer's beside it. The peer is
/// not judged, and its quick run is of one second.
fn fairness(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let ours = Semaphore::builder("fair")
        .permits(1)
        .fairness(Fairness::Eventual)
        .build()?;
    let peer = condvar::Semaphore::new(1);
    let time = Duration::from_secs(5);
    let peer_time = bench.effort.pick(Duration::from_secs(1), time);
    let runs = bench.effort.pick(1, 5);
    let (mut ours_runs, mut peer_runs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        ours_runs.push(contest(THREADS, time, &ours, || ())?.evenness());
        peer_runs.push(contest(THREADS, peer_time, &peer, || ())?.evenness());
    }
    let shown = Shown::evenness(&ours_runs, &peer_runs);
    bench.report.row(rows::SEM_FAIRNESS, &shown)?;
    Ok(())
}
