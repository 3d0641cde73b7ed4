//! Many keys that several threads update at random.
//!
//! Ten thousand keys of sixteen bytes hold a number each. Four threads add one to that of a
//! random key, ours with a closure given to `update` (and, unjudged, with `incr_by`), the peer,
//! scc's hash map, with one given to `update_sync`. The figure is elapsed time an operation, all
//! threads' operations together. After every run the numbers must add up to the threads' counts.

use std::collections::hash_map;
use std::error::Error;
use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::fast;
use latchwork::rmw::Rmw;

use crate::Bench;
use crate::crowd::{Contest, crowd};
use crate::harness::{Ratio, interleave, mean};
use crate::rows;

use super::hot::Lost;
use super::{OUR_HASHER, incr_by, key, update};

const THREADS: usize = 4;
const KEYS: u64 = 10_000;

/// A map of numbers.
trait Numbers: Sync {
    fn increment(&self, key: &[u8; 16]);
    fn get(&self, key: &[u8; 16]) -> i64;
}

struct Ours<F> {
    rmw: Rmw,
    increment: F,
}

impl<F: Fn(&Rmw, &[u8]) + Sync> Numbers for Ours<F> {
    #[inline]
    fn increment(&self, key: &[u8; 16]) {
        (self.increment)(&self.rmw, key);
    }

    fn get(&self, key: &[u8; 16]) -> i64 {
        let value = self.rmw.get(key).expect("the key holds a string");
        let number = value.and_then(|value| value.as_integer());
        number.expect("the key holds a number")
    }
}

type Peer<H> = scc::HashMap<Vec<u8>, i64, H>;

impl<H: BuildHasher + Sync> Numbers for Peer<H> {
    #[inline]
    fn increment(&self, key: &[u8; 16]) {
        let done = self.update_sync(key.as_slice(), |_, number| *number += 1);
        done.expect("the key is there");
    }

    fn get(&self, key: &[u8; 16]) -> i64 {
        let number = self.read_sync(key.as_slice(), |_, number| *number);
        number.expect("the key is there")
    }
}

pub(super) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let rounds = bench.effort.pick(15, 61);
    let ratio = cost(bench, rounds, hash_map::RandomState::new(), update)?;
    bench.report.row(rows::RMW_MANY, &ratio.into())?;
    let ratio = cost(bench, rounds / 3, fast::RandomState::default(), update)?;
    bench.report.detail(OUR_HASHER, &ratio.into())?;
    let ratio = cost(bench, rounds / 3, hash_map::RandomState::new(), incr_by)?;
    bench.report.detail("with incr_by", &ratio.into())?;
    Ok(())
}

fn cost<H: BuildHasher + Sync>(
    bench: &mut Bench,
    rounds: usize,
    hasher: H,
    increment: impl Fn(&Rmw, &[u8]) + Sync,
) -> Result<Ratio, Box<dyn Error>> {
    let ours = Ours {
        rmw: Rmw::new(),
        increment,
    };
    let peer = Peer::with_hasher(hasher);
    for number in 0..KEYS {
        ours.rmw.set(key(number), 0)?;
        let key = key(number).to_vec();
        peer.insert_sync(key, 0).expect("the key is new");
    }
    let time = bench
        .effort
        .pick(Duration::from_millis(50), Duration::from_millis(100));
    let rounds = interleave(
        &mut bench.effort,
        rounds,
        || updates(&ours, time).map(|run| run.cost()),
        || updates(&peer, time).map(|run| run.cost()),
    )?;
    Ok(Ratio::of(&rounds, mean))
}

fn updates(numbers: &impl Numbers, time: Duration) -> Result<Contest, Lost> {
    let before = sum(numbers);
    let turnout = crowd(
        THREADS,
        time,
        |_| (fastrand::Rng::new(), 0u64),
        |(rng, count), running| {
            while running.yes() {
                numbers.increment(&key(rng.u64(..KEYS)));
                *count += 1;
            }
        },
    );
    let counts: Vec<u64> = turnout.states.into_iter().map(|(_, count)| count).collect();
    Lost::unless_equal(counts.iter().sum(), sum(numbers) - before)?;
    Ok(Contest {
        elapsed: turnout.elapsed,
        counts,
    })
}

fn sum(numbers: &impl Numbers) -> u64 {
    (0..KEYS)
        .map(|number| numbers.get(&key(number)) as u64)
        .sum()
}
