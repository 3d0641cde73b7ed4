//! Pipeline rows: what a flush costs beside other ways to work in parallel and finalize in order,
//! and what a batch saves.
//!
//! *Overhead*: numbers pass through two workers, which do nothing to them but keep the compiler
//! from knowing it, and are finalized in order: each is compared with the one that is due. One
//! thread feeds; `sides` and `peers` say what each side does. All have the same bound,
//! [`IN_FLIGHT`], in what they bound with: permits, the buffer of pariter, the capacity of each
//! channel, the chunk of rayon. The figure is the elapsed time an item, until the last outcome is
//! known, over that of the peer whose median is the least. Other bounds are shown, unjudged.
//! Against tokio every ticket is awaited on both sides; otherwise only the last one is, since those
//! peers have none.
//!
//! *Work*: the same with arithmetic in the workers, over two bare threads that share out the items
//! by a counter and finalize nothing. They run in the same rounds, since the speed of two busy
//! processors is no constant of the machine.
//!
//! *Batch*: see `batch`.

mod batch;
#[cfg(feature = "peers")]
mod peers;
mod sides;

use std::error::Error;
use std::time::Duration;

use crate::Bench;
use crate::harness::{Ratio, interleave_all};
use crate::rows;
use crate::table::Row;
use crate::work::Work;

use self::sides::{Load, Side};

/// Items that are reserved and not finalized, at most. As many as the batch's row has: each flush
/// in flight is a table in memory, or a caller who waits.
const IN_FLIGHT: usize = 64;

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    #[cfg(feature = "peers")]
    {
        overhead(bench)?;
        tokio(bench)?;
    }
    work(bench, rows::FLUSH_WORK_5US, Duration::from_micros(5))?;
    work(bench, rows::FLUSH_WORK_100US, Duration::from_micros(100))?;
    batch::run(bench)
}

/// Ours over each other side.
fn compare(
    bench: &mut Bench,
    rounds: usize,
    sides: Vec<Side>,
) -> Result<Vec<(&'static str, Ratio)>, Box<dyn Error>> {
    let (names, mut runs): (Vec<_>, Vec<_>) =
        sides.into_iter().map(|side| (side.name, side.run)).unzip();
    let means = interleave_all(&mut bench.effort, rounds, &mut runs)?;
    let (ours, others) = means.split_first().ok_or("there is no side")?;
    let ratios = others.iter().map(|other| {
        let pairs: Vec<_> = ours.iter().copied().zip(other.iter().copied()).collect();
        Ratio::of_pairs(&pairs)
    });
    Ok(names.into_iter().skip(1).zip(ratios).collect())
}

#[cfg(feature = "peers")]
fn overhead(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let rounds = bench.effort.pick(41, 151);
    for in_flight in [IN_FLIGHT, 256, 1024] {
        let load = Load {
            items: bench.effort.pick(30_000, 60_000),
            in_flight,
        };
        let is_judged = in_flight == IN_FLIGHT;
        let rounds = if is_judged { rounds } else { rounds / 4 };
        let mut sides = vec![sides::ours(load, std::hint::black_box)];
        sides.extend(peers::all(load, std::hint::black_box)?);
        let ratios = compare(bench, rounds, sides)?;
        let best = ratios
            .iter()
            .map(|(_, ratio)| *ratio)
            .min_by(|one, other| one.peer.total_cmp(&other.peer));
        if is_judged {
            let best = best.ok_or("there is no peer")?;
            bench.report.row(rows::FLUSH_BEST, &best.into())?;
        }
        for (name, ratio) in ratios {
            let name = format!("{name}, {in_flight} in flight");
            bench.report.detail(&name, &ratio.into())?;
        }
    }
    Ok(())
}

#[cfg(feature = "peers")]
fn tokio(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let load = Load {
        items: bench.effort.pick(30_000, 60_000),
        in_flight: IN_FLIGHT,
    };
    let rounds = bench.effort.pick(21, 151);
    let sides = vec![
        sides::ours_awaited(load, std::hint::black_box),
        peers::tokio(load, std::hint::black_box)?,
    ];
    for (_, ratio) in compare(bench, rounds, sides)? {
        bench.report.row(rows::FLUSH_TOKIO, &ratio.into())?;
    }
    Ok(())
}

fn work(bench: &mut Bench, row: Row, time: Duration) -> Result<(), Box<dyn Error>> {
    let run = bench
        .effort
        .pick(Duration::from_millis(15), Duration::from_millis(40));
    let load = Load {
        items: (2 * run.as_nanos() / time.as_nanos()) as u64,
        in_flight: IN_FLIGHT,
    };
    let work = Work::of(time);
    let step = move |number| {
        work.run();
        number
    };
    let rounds = bench.effort.pick(21, 101);
    #[cfg_attr(not(feature = "peers"), expect(unused_mut))]
    let mut sides = vec![sides::ours(load, step), sides::ideal(load, step)];
    #[cfg(feature = "peers")]
    sides.extend(peers::all(load, step)?);
    for (at, (name, ratio)) in compare(bench, rounds, sides)?.into_iter().enumerate() {
        match at {
            0 => bench.report.row(row, &ratio.into())?,
            _ => bench.report.detail(name, &ratio.into())?,
        }
    }
    Ok(())
}
