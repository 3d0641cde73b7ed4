//! Store rows: what an update of a key costs beside a bare concurrent map, and what a read
//! costs while somebody writes. The peers are as their `new` makes them, with std's hasher, which
//! is what the figures that the bounds come from were measured with. The same with the hasher that
//! latchwork uses, which compares maps and not hashers, is shown beside.
//!
//! *One key*: one thread increments the number at one key of sixteen bytes, ours with a closure
//! given to `update` (and, unjudged, with `incr_by`). The peer's is
//! `*map.entry(key.clone()).or_insert(0) += 1` on a `DashMap<Vec<u8>, i64>`.
//!
//! *Hot*: several threads update one key, with work inside (`hot`). *Many*: they update random
//! keys of many (`many`). Unjudged: how late a blocked pop times out (`overshoot`).
//!
//! *Get*: a million keys of sixteen bytes with values of 64. Two threads get random keys and
//! read the whole value; a third replaces values of random keys, as fast as it can. The
//! figure is a reader's time a get. The peer is a papaya map of `Vec<u8>` to `Box<[u8]>`,
//! pinned once a get and read in place, which is the cheapest it can do; ours returns a value
//! that outlives the call.

mod hot;
mod many;
mod overshoot;

use std::collections::hash_map;
use std::convert::Infallible;
use std::error::Error;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::time::Duration;

use dashmap::DashMap;
use foldhash::fast;
use latchwork::rmw::{Rmw, RmwError};

use crate::Bench;
use crate::crowd::crowd;
use crate::harness::{Ratio, Round, interleave, nanos, per_op};
use crate::rows;

const READERS: usize = 2;
const WRITERS: usize = 1;
const KEYS: u64 = 1_000_000;
const VALUE: usize = 64;

const OUR_HASHER: &str = "with latchwork's hasher in both";

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let ratio = one_key(bench, hash_map::RandomState::new(), update);
    bench.report.row(rows::RMW_ONE_KEY, &ratio.into())?;
    let ratio = one_key(bench, fast::RandomState::default(), update);
    bench.report.detail(OUR_HASHER, &ratio.into())?;
    let ratio = one_key(bench, hash_map::RandomState::new(), incr_by);
    bench.report.detail("with incr_by", &ratio.into())?;

    hot::run(bench)?;
    many::run(bench)?;

    let rounds = bench.effort.pick(25, 101);
    let measured = get(bench, rounds, hash_map::RandomState::new())?;
    let ratio = Ratio::of(&measured, |runs| mean_of(runs, |run| run.get));
    bench.report.row(rows::RMW_GET, &ratio.into())?;
    let sets = Ratio::of(&measured, |runs| mean_of(runs, |run| run.set));
    bench
        .report
        .detail("the writer's time a set", &sets.into())?;
    let measured = get(bench, rounds / 3, fast::RandomState::default())?;
    let ratio = Ratio::of(&measured, |runs| mean_of(runs, |run| run.get));
    bench.report.detail(OUR_HASHER, &ratio.into())?;

    overshoot::run(bench)
}

fn one_key<H: BuildHasher + Clone>(
    bench: &mut Bench,
    hasher: H,
    increment: impl Fn(&Rmw, &[u8]),
) -> Ratio {
    let key = b"key:000000000001".to_vec();
    let ours = Rmw::new();
    let peer = DashMap::<Vec<u8>, i64, H>::with_hasher(hasher);
    per_op(
        &mut bench.effort,
        |ops| {
            for _ in 0..ops {
                increment(&ours, black_box(&key));
            }
        },
        |ops| {
            for _ in 0..ops {
                *peer.entry(black_box(&key).clone()).or_insert(0) += 1;
            }
        },
    )
}

fn update(rmw: &Rmw, key: &[u8]) {
    let outcome = rmw.update(key, |entry| {
        let number = entry.integer()?.unwrap_or(0);
        entry.set(number + 1);
        Ok::<(), RmwError>(())
    });
    outcome.flatten().expect("the key holds a number");
}

fn incr_by(rmw: &Rmw, key: &[u8]) {
    rmw.incr_by(key, 1).expect("the key holds a number");
}

/// The readers' nanoseconds a get, and the writer's a set.
#[derive(Clone, Copy, Debug)]
struct Run {
    get: f64,
    set: f64,
}

fn mean_of(runs: &[Run; 2], figure: impl Fn(&Run) -> f64) -> f64 {
    runs.iter().map(figure).sum::<f64>() / 2.0
}

/// The two stores, to one face.
trait Store: Sync {
    /// Calls `read` with the value.
    fn get(&self, key: &[u8; 16], read: impl FnOnce(&[u8]) -> u64) -> u64;
    fn set(&self, key: &[u8; 16], value: &[u8; VALUE]);
}

struct Ours(Rmw);

impl Store for Ours {
    #[inline]
    fn get(&self, key: &[u8; 16], read: impl FnOnce(&[u8]) -> u64) -> u64 {
        let value = self.0.get(key).expect("the key holds a string");
        read(&value.expect("the key is there").text())
    }

    #[inline]
    fn set(&self, key: &[u8; 16], value: &[u8; VALUE]) {
        self.0.set(key, value).expect("the value is short");
    }
}

struct Peer<H>(papaya::HashMap<Vec<u8>, Box<[u8]>, H>);

impl<H: BuildHasher + Sync> Store for Peer<H> {
    #[inline]
    fn get(&self, key: &[u8; 16], read: impl FnOnce(&[u8]) -> u64) -> u64 {
        read(self.0.pin().get(key.as_slice()).expect("the key is there"))
    }

    #[inline]
    fn set(&self, key: &[u8; 16], value: &[u8; VALUE]) {
        self.0.pin().insert(key.to_vec(), value.as_slice().into());
    }
}

fn get<H: BuildHasher + Sync>(
    bench: &mut Bench,
    rounds: usize,
    hasher: H,
) -> Result<Vec<Round<Run>>, Infallible> {
    let ours = Ours(Rmw::new());
    let peer = Peer(papaya::HashMap::with_hasher(hasher));
    for number in 0..KEYS {
        ours.set(&key(number), &[1; VALUE]);
        peer.set(&key(number), &[1; VALUE]);
    }
    let time = bench
        .effort
        .pick(Duration::from_millis(100), Duration::from_millis(200));
    interleave(
        &mut bench.effort,
        rounds,
        || Ok(run_once(&ours, time)),
        || Ok(run_once(&peer, time)),
    )
}

/// One thread of a run.
struct Member {
    reads: bool,
    rng: fastrand::Rng,
    ops: u64,
}

fn run_once(store: &impl Store, time: Duration) -> Run {
    let turnout = crowd(
        READERS + WRITERS,
        time,
        |index| Member {
            reads: index < READERS,
            rng: fastrand::Rng::new(),
            ops: 0,
        },
        |member, running| {
            if member.reads {
                while running.yes() {
                    black_box(store.get(&key(member.rng.u64(..KEYS)), fold));
                    member.ops += 1;
                }
            } else {
                while running.yes() {
                    store.set(&key(member.rng.u64(..KEYS)), &[member.ops as u8; VALUE]);
                    member.ops += 1;
                }
            }
        },
    );
    let ops = |reads| -> u64 {
        turnout
            .states
            .iter()
            .filter(|member| member.reads == reads)
            .map(|member| member.ops)
            .sum()
    };
    let elapsed = nanos(turnout.elapsed);
    Run {
        get: elapsed * READERS as f64 / ops(true) as f64,
        set: elapsed * WRITERS as f64 / ops(false) as f64,
    }
}

/// Sixteen bytes made in registers: a table of keys would add its own cache misses to both
/// sides and hide the difference.
fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key:....        ";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Reads every byte of a value.
fn fold(value: &[u8]) -> u64 {
    value
        .chunks_exact(8)
        .fold(0, |sum, word| match word.try_into() {
            Ok(word) => sum ^ u64::from_le_bytes(word),
            Err(_) => sum,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ() {
        assert_ne!(key(1), key(256));
        assert_eq!(key(7), key(7));
    }

    #[test]
    fn the_whole_value_is_read() {
        let mut value = [0; VALUE];
        value[VALUE - 1] = 1;
        assert_ne!(fold(&value), 0);
        value[7] = 1;
        assert_eq!(fold(&value), 0);
    }
}
