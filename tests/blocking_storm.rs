//! Many who push, many who block, give up and cancel: every element arrives exactly once.
#![cfg(not(latchwork_loom))]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use latchwork::rmw::{Bytes, List, ListEnd, Rmw};
// Not std's, whose contended half is compiled into std, where ThreadSanitizer does not see it.
use parking_lot::Mutex;
use support::{Storm, size};

const KEYS: [&str; 3] = ["a", "b", "c"];
const PRODUCERS: u64 = 4;

fn end(random: &mut Rng) -> ListEnd {
    match random.bool() {
        true => ListEnd::Front,
        false => ListEnd::Back,
    }
}

fn number(value: &Bytes) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

/// Puts one element onto a list, in one of the ways there are.
fn push(rmw: &Rmw, random: &mut Rng, element: u64) {
    let key = *random.choice(&KEYS).unwrap();
    let value = element.to_string();
    match random.u32(0..8) {
        0..3 => drop(rmw.rpush(key, [value]).unwrap()),
        3 => drop(rmw.lpush(key, [value]).unwrap()),
        4 => rmw
            .update(key, |entry| {
                let mut list = match entry.get() {
                    Some(latchwork::rmw::Value::List(list)) => List::clone(list),
                    _ => List::new(),
                };
                list.push(ListEnd::Back, value);
                entry.set(list);
            })
            .unwrap(),
        5 => {
            let other = *random.choice(&KEYS).unwrap();
            rmw.update_many(&[key, other], |tx| tx.lpush(key, [value]))
                .unwrap()
                .unwrap();
        }
        6 => {
            let own = format!("source {element}");
            rmw.rpush(&own, [value]).unwrap();
            rmw.rpoplpush(&own, key).unwrap().unwrap();
        }
        _ => {
            while !rmw
                .mset_if_missing([(key, [&*value].into_iter().collect::<List>())])
                .unwrap()
            {
                rmw.rpush("aside", ["0"]).unwrap();
                rmw.lpop("aside").unwrap();
                thread::yield_now();
            }
        }
    }
}

/// Takes elements, in one of the ways there are, until all have been taken.
fn consume(rmw: &Rmw, random: &mut Rng, left: &AtomicU64, taken: &Arc<Mutex<Vec<u64>>>) {
    while left.load(Ordering::Relaxed) > taken.lock().len() as u64 {
        let mut keys = KEYS;
        random.shuffle(&mut keys);
        let keys = &keys[..random.usize(1..=KEYS.len())];
        let soon = Duration::from_micros(random.u64(0..3_000));
        let got: Vec<Bytes> = match random.u32(0..6) {
            0 => rmw
                .blpop_timeout(keys, soon)
                .unwrap()
                .map(|(_, v)| v)
                .into_iter()
                .collect(),
            1 => rmw
                .brpop_timeout(keys, soon)
                .unwrap()
                .map(|(_, v)| v)
                .into_iter()
                .collect(),
            2 => {
                let popped = rmw.blmpop_timeout(keys, end(random), random.u64(1..4), soon);
                popped.unwrap().map_or(Vec::new(), |(_, values)| values)
            }
            3 => {
                // Moved on, so not taken yet.
                let (from, to) = (end(random), end(random));
                let other = *random.choice(&KEYS).unwrap();
                let moved = rmw.blmove_timeout(keys[0], other, from, to, soon);
                drop(moved.unwrap());
                Vec::new()
            }
            way => {
                let taken = Arc::clone(taken);
                let called = Arc::new(AtomicU64::new(0));
                let calls = Arc::clone(&called);
                let pending = rmw.blpop_with(keys, move |popped| {
                    calls.fetch_add(1, Ordering::Relaxed);
                    taken.lock().push(number(&popped.unwrap().1));
                });
                let until = Instant::now() + soon;
                while Instant::now() < until && !pending.is_delivered() {
                    thread::yield_now();
                }
                if way == 4 {
                    let is_cancelled = pending.cancel();
                    let calls = called.load(Ordering::Relaxed);
                    assert!(!is_cancelled || calls == 0, "called after all");
                } else {
                    drop(pending);
                }
                Vec::new()
            }
        };
        taken.lock().extend(got.iter().map(number));
    }
}

#[test]
fn every_element_arrives_exactly_once() {
    let storm = Storm::new("blocking");
    let each = size(2_000, 50_000);
    let all = PRODUCERS * each;
    let (rmw, left) = (Rmw::new(), AtomicU64::new(all));
    let taken = Arc::new(Mutex::new(Vec::new()));
    storm.run(PRODUCERS + 6, |index, random| {
        if index < PRODUCERS {
            for element in index * each..(index + 1) * each {
                push(&rmw, random, element);
            }
        } else {
            consume(&rmw, random, &left, &taken);
        }
    });
    let taken = taken.lock();
    assert_eq!(taken.len() as u64, all);
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len() as u64, all);
    assert_eq!(rmw.stats().blocked, 0);
    assert!(rmw.is_empty(), "{rmw:?}");
}

#[test]
fn elements_go_round_a_ring_of_blocked_moves() {
    let storm = Storm::new("blocked ring");
    let turns = size(5_000, 200_000);
    let rmw = Rmw::new();
    rmw.rpush("0", ["x", "y", "z"]).unwrap();
    storm.run(5, |index, random| {
        let (from, to) = (index.to_string(), ((index + 1) % 5).to_string());
        for turn in 0..turns {
            let (front, back) = (ListEnd::Front, ListEnd::Back);
            if random.u32(0..20) == 0 {
                let soon = Duration::from_micros(random.u64(0..200));
                while rmw
                    .blmove_timeout(&from, &to, front, back, soon)
                    .unwrap()
                    .is_none()
                {}
            } else {
                rmw.blmove(&from, &to, front, back).unwrap();
            }
            if turn + 1 == turns {
                return;
            }
        }
    });
    let left: u64 = (0..5).map(|i| rmw.llen(i.to_string()).unwrap()).sum();
    assert_eq!(left, 3);
    assert_eq!(rmw.stats().blocked, 0);
}
