//! How late a blocked pop returns when its time is up and the machine is idle.
//!
//! One thread waits five milliseconds for what does not come, ours with `blpop_timeout` of a
//! missing key, the peer's at a parking_lot Condvar, two hundred times each. A figure is of what
//! all of a side's calls took beyond the five milliseconds. None is judged: how late a thread is
//! woken is the machine's doing, and the peer's figures say how late that is.

use std::error::Error;
use std::time::{Duration, Instant};

use latchwork::rmw::{Rmw, RmwError};
use parking_lot::{Condvar, Mutex};

use crate::Bench;
use crate::harness::{Nanos, interleave};
use crate::stats::{Spread, record, times};
use crate::table::Shown;

const TIMEOUT: Duration = Duration::from_millis(5);

/// With two calls of either side in each.
const ROUNDS: usize = 100;

pub(super) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let rmw = Rmw::new();
    let (condvar, lock) = (Condvar::new(), Mutex::new(()));
    let rounds = interleave(
        &mut bench.effort,
        ROUNDS,
        || {
            beyond(|| {
                let popped = rmw.blpop_timeout(&["nothing"], TIMEOUT)?;
                Ok(popped.is_none())
            })
        },
        || beyond(|| Ok(condvar.wait_for(&mut lock.lock(), TIMEOUT).timed_out())),
    )?;
    let (mut ours, mut peer) = (times(), times());
    for round in &rounds {
        round.ours.iter().for_each(|time| record(&mut ours, *time));
        round.peer.iter().for_each(|time| record(&mut peer, *time));
    }
    for (name, percent) in [
        ("blpop's time-out, overshoot", 50.0),
        ("the same, 99th percentile", 99.0),
        ("the same, greatest", 100.0),
    ] {
        let figure = |times: &hdrhistogram::Histogram<u64>| {
            // At least a nanosecond: the ratio is a number then.
            times.value_at_percentile(percent).max(1) as f64
        };
        let (ours, peer) = (figure(&ours), figure(&peer));
        let shown = Shown {
            ours: Nanos(ours).to_string(),
            peer: Nanos(peer).to_string(),
            ratio: Spread::of(&[ours / peer]),
        };
        bench.report.detail(name, &shown)?;
    }
    Ok(())
}

/// What `wait` takes beyond its time-out, with which it has to end.
fn beyond(wait: impl FnOnce() -> Result<bool, RmwError>) -> Result<Duration, Box<dyn Error>> {
    let start = Instant::now();
    let has_timed_out = wait()?;
    let took = start.elapsed();
    if !has_timed_out {
        return Err("a wait for nothing ended before its time".into());
    }
    Ok(took.saturating_sub(TIMEOUT))
}
