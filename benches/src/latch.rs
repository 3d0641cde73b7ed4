//! Latch rows: the cost of a key nobody else wants, and of the hand-over of one that four
//! threads want at once. The peer is lockable's `LockPool`, which, like ours, keeps an entry
//! only while a key is held or waited for.
//!
//! *Free*: one thread latches and drops, going round 1,024 keys made beforehand. Measured
//! with `u64` keys, which favour the peer (it takes its keys by value), and with byte strings
//! of sixteen bytes, as a server has them, which the peer must be given a clone of. The row's
//! figure is the worse of the two.
//!
//! *Long*: four threads, one key; each latches, does ten microseconds of arithmetic, drops,
//! and at once latches again. What is compared is the time an operation takes beyond its
//! work. The work is measured on one thread, alone, just before each run.

use std::error::Error;
use std::hash::Hash;
use std::hint::black_box;
use std::time::{Duration, Instant};

use latchwork::latch::{Latch, LatchTable};
use lockable::{LockPool, Lockable};

use crate::Bench;
use crate::crowd::{Exclusive, Overlap, contest};
use crate::harness::{Ratio, Round, interleave, nanos, per_op};
use crate::rows;
use crate::stats::median;
use crate::table::Shown;
use crate::work::Work;

const THREADS: usize = 4;
const KEYS: usize = 1_024;

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    free(bench)?;
    long(bench)
}

fn free(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let numbers: [u64; KEYS] = std::array::from_fn(|key| key as u64);
    let strings: [Vec<u8>; KEYS] = std::array::from_fn(|key| format!("key:{key:012}").into_bytes());
    let numbers = free_of(bench, &numbers);
    let strings = free_of(bench, &strings);
    let worse = if numbers.ratio.median > strings.ratio.median {
        numbers
    } else {
        strings
    };
    bench.report.row(rows::LATCH_FREE, &worse.into())?;
    bench.report.detail("u64 keys", &numbers.into())?;
    bench.report.detail("16-byte keys", &strings.into())?;
    Ok(())
}

fn free_of<K: Hash + Eq + Clone + 'static>(bench: &mut Bench, keys: &[K; KEYS]) -> Ratio {
    let ours = LatchTable::<K>::new();
    let peer = LockPool::<K>::new();
    let key = |op: u64| black_box(&keys[op as usize % KEYS]);
    per_op(
        &mut bench.effort,
        |ops| {
            for op in 0..ops {
                drop(ours.latch(key(op)).expect("the key is free"));
            }
        },
        |ops| {
            for op in 0..ops {
                drop(peer.blocking_lock(key(op).clone()));
            }
        },
    )
}

struct OurKey(LatchTable<u64>);

impl Exclusive for OurKey {
    type Guard<'a> = Latch<'a>;

    fn acquire(&self) -> Latch<'_> {
        self.0
            .latch(&0)
            .expect("the thread holds no latch, and the queue is short")
    }
}

struct PeerKey(LockPool<u64>);

impl Exclusive for PeerKey {
    type Guard<'a> = <LockPool<u64> as Lockable<u64, ()>>::Guard<'a>;

    fn acquire(&self) -> Self::Guard<'_> {
        self.0.blocking_lock(0)
    }
}

/// One run: nanoseconds an operation took, and what its work alone takes.
#[derive(Debug)]
struct Run {
    cost: f64,
    work: f64,
}

fn long(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let work = Work::of(Duration::from_micros(10));
    let ours = OurKey(LatchTable::new());
    let peer = PeerKey(LockPool::new());
    let time = bench
        .effort
        .pick(Duration::from_millis(100), Duration::from_millis(200));
    let rounds = bench.effort.pick(15, 61);
    let rounds = interleave(
        &mut bench.effort,
        rounds,
        || run_once(&ours, work, time),
        || run_once(&peer, work, time),
    )?;
    let pairs: Vec<(f64, f64)> = rounds.iter().map(beyond).collect();
    if let Some((_, peer)) = pairs.iter().find(|(_, peer)| *peer <= 0.0) {
        // A peer that costs nothing makes every ratio meaningless, and might flatter ours.
        bench.report.fail(
            rows::LATCH_LONG,
            format!("a round's peer took {peer:.0} ns beyond its work"),
        )?;
        return Ok(());
    }
    bench
        .report
        .row(rows::LATCH_LONG, &Ratio::of_pairs(&pairs).into())?;
    let works = |runs: &[Run; 2]| runs.iter().map(|run| run.work).sum::<f64>() / 2.0;
    let works = Shown::from(Ratio::of(&rounds, works));
    bench.report.detail("the work alone", &works)?;
    Ok(())
}

/// Nanoseconds that `work` takes on the calling thread while no other thread of ours runs,
/// measured for `time`.
fn alone(work: Work, time: Duration) -> f64 {
    let start = Instant::now();
    let mut times = 0u64;
    while start.elapsed() < time {
        // Ten to a clock read.
        for _ in 0..10 {
            work.run();
        }
        times += 10;
    }
    nanos(start.elapsed()) / times as f64
}

/// What an operation took beyond its work, on either side. Both are judged by the same work,
/// the median of the round's four measurements: an error of it must favour neither.
fn beyond(round: &Round<Run>) -> (f64, f64) {
    let Round { ours, peer } = round;
    let work = median(&[ours[0].work, ours[1].work, peer[0].work, peer[1].work]);
    let beyond = |runs: &[Run; 2]| (runs[0].cost + runs[1].cost) / 2.0 - work;
    (beyond(ours), beyond(peer))
}

fn run_once(exclusive: &impl Exclusive, work: Work, time: Duration) -> Result<Run, Overlap> {
    let alone = alone(work, time / 5);
    let cost = contest(THREADS, time, exclusive, || work.run())?.cost();
    Ok(Run { cost, work: alone })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_are_charged_the_same_work() {
        let run = |cost, work| Run { cost, work };
        let ours = [run(11.0, 10.0), run(13.0, 9.0)];
        let peer = [run(30.0, 10.0), run(32.0, 90.0)];
        assert_eq!(beyond(&Round { ours, peer }), (2.0, 21.0));
    }
}
